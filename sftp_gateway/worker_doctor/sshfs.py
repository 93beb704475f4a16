"""What there is of a mount on this machine: the kernel's table, sshfs's process, /etc/fstab."""

from __future__ import annotations

import contextlib
import os
import re
from typing import NamedTuple, Sequence


def split_options(text: str) -> dict[str, str]:
    """The options of `-o`, or of a line of fstab; a comma behind a backslash is in a value."""
    parts = re.findall(r"(?:[^,\\]|\\.)+", text)
    pairs = (re.sub(r"\\(.)", r"\1", part).partition("=") for part in parts)
    return {name.lower(): value for name, _, value in pairs}


def read_command(words: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Positional arguments and options of an sshfs command, without its name."""
    positional: list[str] = []
    options: dict[str, str] = {}
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word[:2] in ("-o", "-p", "-F"):
            value = word[2:] or (rest.pop(0) if rest else "")
            if word[1] == "o":
                options.update(split_options(value))
            else:
                options["port" if word[1] == "p" else "-F"] = value
        elif not word.startswith("-"):
            positional.append(word)
    return positional, options


class Mount(NamedTuple):
    """A line of /proc/self/mountinfo."""

    device: str
    """As `major:minor`."""
    kind: str
    source: str
    options: list[str]


def mounts_at(place: str) -> list[Mount]:
    """What is mounted there, the uppermost last, without touching it."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as file:
        lines = [line.split() for line in file]
    return [_mount(line) for line in lines if _plain(line[4]) == place]


def _mount(line: list[str]) -> Mount:
    kind, source, *options = line[line.index("-") + 1 :]
    return Mount(line[2], kind, _plain(source), ",".join([line[5], *options]).split(","))


def _plain(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def find_process(mount: str) -> tuple[int, list[str]]:
    """The sshfs that serves a mount, and its command; 0 where there is none."""
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            owner = os.stat(f"/proc/{name}").st_uid
            with open(f"/proc/{name}/cmdline", encoding="utf-8", errors="replace") as file:
                words = file.read().split("\0")[:-1]
        except OSError:
            continue
        if owner not in (0, os.geteuid()) or not words or os.path.basename(words[0]) != "sshfs":
            continue
        places = read_command(words[1:])[0][1:]
        if any(os.path.normpath(os.path.join("/", place)) == mount for place in places) or any(
            os.path.basename(place) == os.path.basename(mount) for place in places
            if not place.startswith("/")
        ):  # fmt: skip
            return int(name), words
    return 0, []


def fstab_line(mount: str) -> tuple[str, dict[str, str]]:
    """Source and options of a mount in /etc/fstab; "" where there is none."""
    with contextlib.suppress(OSError), open("/etc/fstab", encoding="utf-8") as file:
        for words in (line.split("#")[0].split() for line in file):
            if len(words) >= 4 and _plain(words[1]).rstrip("/") == mount and "sshfs" in words[2]:
                return _plain(words[0]), split_options(words[3])
    return "", {}
