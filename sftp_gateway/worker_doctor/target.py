"""The mount that is meant, as far as it is known, and what has been found."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
from dataclasses import dataclass, field
from shlex import quote

from sftp_gateway.worker_doctor.children import last_line, run
from sftp_gateway.worker_doctor.sshfs import (
    Mount,
    find_process,
    fstab_line,
    mounts_at,
    read_command,
)

OK, WARNING, PROBLEM = "ok", "warning", "problem"

#: Options of sshfs that are ssh's, and that a test of the login has to have too. None runs a
#: program: the mount's process may be somebody else's.
_NAMES = """
addressfamily bindaddress certificatefile ciphers connecttimeout globalknownhostsfile
hostkeyalgorithms hostkeyalias hostname identitiesonly identityagent identityfile kexalgorithms macs
passwordauthentication port preferredauthentications pubkeyauthentication serveralivecountmax
serveraliveinterval stricthostkeychecking userknownhostsfile
"""
SSH_OPTIONS = frozenset(_NAMES.split())


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: what was found, what that means, and commands to paste."""

    check: str
    status: str
    found: str
    means: str = ""
    do: tuple[str, ...] = ()


@dataclass
class Target:
    """The mount that is meant, as far as it is known, and what has been found."""

    server: str = ""
    port: str = ""
    user: str = ""
    path: str = ""
    mount: str = ""
    options: dict[str, str] = field(default_factory=dict)
    """sshfs's options, by their names in small letters; "" for those that have no value."""
    pid: int = 0
    mounts: list[Mount] = field(default_factory=list)
    """What is mounted at this place, the uppermost last."""
    config: dict[str, list[str]] = field(default_factory=dict)
    """What ssh makes of all options and files."""
    round_trip: float = 0.0
    """Seconds in which the mount answers a question."""
    findings: list[Finding] = field(default_factory=list)

    def add(self, check: str, status: str, found: str, means: str = "", *do: str) -> str:
        """Keep a finding; give its status."""
        self.findings.append(Finding(check, status, found, means, do))
        return status

    @property
    def login(self) -> str:
        """Whom ssh is to connect to."""
        return f"{self.user}@{self.server}" if self.user else self.server

    def ssh_arguments(self, *first: str) -> list[str]:
        """Options for ssh, and the file that sshfs has for it.

        Of two for the same thing, ssh takes the first, and the file's last.
        """
        file = ["-F", self.options["-F"]] if "-F" in self.options else []
        own = [f"{name}={value}" for name, value in self.options.items() if name in SSH_OPTIONS]
        named = [*first, *([f"Port={self.port}"] if self.port else []), *own]
        return [*file, *(part for option in named for part in ("-o", option))]

    def configured(self, name: str, otherwise: str) -> str:
        """The value that ssh's option `name` has in the end."""
        return self.config.get(name, [otherwise])[0]

    def files(self, name: str) -> list[str]:
        """The paths that ssh's option `name` has in the end."""
        values = self.config.get(name, [])
        return [os.path.expanduser(path) for value in values for path in value.split()]

    @property
    def known_hosts(self) -> str:
        """The file that host keys are learnt in."""
        return (self.files("userknownhostsfile") or ["~/.ssh/known_hosts"])[0]

    @property
    def host_name(self) -> str:
        """What the server is called in known_hosts."""
        name = self.configured("hostkeyalias", self.server)
        port = self.configured("port", "22")
        return name if port == "22" else f"[{name}]:{port}"


def find_target(options: argparse.Namespace) -> Target:
    """Put together what is asked for, what is mounted, and what ssh is configured to do."""
    target = Target()
    source = ""
    if options.mount:
        target.mount = os.path.normpath(os.path.join(os.getcwd(), options.mount))
        target.mounts = mounts_at(target.mount)
        source, target.options = fstab_line(target.mount)
        target.pid, words = find_process(target.mount)
        if words:
            positional, target.options = read_command(words[1:])
            source = positional[0] if positional else source
        if target.mounts and target.mounts[-1].kind == "fuse.sshfs":
            source = target.mounts[-1].source
    match = re.fullmatch(r"(?:sshfs#)?(?:([^@]*)@)?(\[[^\]]*\]|[^:]*):(.*)", source)
    user, server, path = match.groups() if match else ("", "", "")
    target.server = options.server or (server or "").strip("[]")
    target.user = options.user or user or ("gvpocr" if options.server else "")
    target.path = options.path or path
    target.port = options.port or target.options.pop("port", "")
    if not target.port and options.server:
        target.port = "2222"
    for name, value in (("identityfile", options.key), ("userknownhostsfile", options.known_hosts)):
        if value:
            target.options[name] = value
    if options.key:
        target.options["identitiesonly"] = "yes"
    if target.server and shutil.which("ssh"):
        _ask_ssh(target)
    return target


def as_root() -> str:
    """The command that does all this again as root."""
    return " ".join(map(quote, ["sudo", sys.executable, *sys.argv]))


def _ask_ssh(target: Target) -> None:
    shown = run("ssh", "-G", *target.ssh_arguments(), target.login)
    if shown.returncode and "-F" in target.options:
        target.add(
            "settings", PROBLEM, last_line(shown.stderr),
            "The mount has a file of its own for ssh. Without it, all that follows is about "
            "another login than the mount's.", as_root(),
        )  # fmt: skip
    for line in shown.stdout.splitlines():
        name, _, value = line.partition(" ")
        target.config.setdefault(name, []).append(value)
