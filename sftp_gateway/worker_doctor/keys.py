"""The private key's file, and the certificate beside it."""

from __future__ import annotations

import contextlib
import os
import re
import stat
from datetime import datetime
from shlex import quote

from sftp_gateway.worker_doctor.children import last_line, run
from sftp_gateway.worker_doctor.target import OK, PROBLEM, WARNING, Target, as_root


def check_key(target: Target) -> None:
    """The private key's file: there, private, whole, without a passphrase."""
    given = "identityfile" in target.options
    keys = target.files("identityfile")
    there = [path for path in keys if not _is_missing(path)]
    if not there and "password_stdin" in target.options:
        target.add("key", OK, "the mount logs in with a password")
    elif given and not there:
        target.add(
            "key", PROBLEM, f"there is no key {keys[0] if keys else '?'}",
            "The login cannot work without; copy it from the server (keys/worker_ed25519).",
            f"scp SERVER:sftp-gateway/keys/worker_ed25519 {quote(keys[0]) if keys else ''}",
        )  # fmt: skip
    elif not there and not os.environ.get("SSH_AUTH_SOCK"):
        target.add(
            "key", WARNING, "this user has no key in ~/.ssh and no agent",
            "Unless the mount gives a password, it needs one: -o IdentityFile=FILE for sshfs, "
            "--key FILE here. If root mounts, run this as root.",
        )  # fmt: skip
    for path in there:
        _check_key_file(target, path)


def _is_missing(path: str) -> bool:
    """Not so in a folder that this user may not enter: that says nothing of what is in it."""
    try:
        os.lstat(path)
    except PermissionError:
        return False
    except OSError:
        return True
    return False


def _check_key_file(target: Target, path: str) -> None:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            status, text = os.fstat(file.fileno()), file.read(1 << 16)
    except OSError as error:
        target.add(
            "key", PROBLEM, f"{path} cannot be read: {error.strerror}",
            "Run this as the user who mounts.", as_root(),
        )  # fmt: skip
        return
    if "PRIVATE KEY-----" not in text:
        target.add("key", PROBLEM, f"{path} {_what_else(text)}", "ssh cannot log in with it.")
    elif status.st_uid == os.geteuid() and status.st_mode & 0o077:
        target.add(
            "key", PROBLEM, f"{path} is open to others (mode {stat.S_IMODE(status.st_mode):04o})",
            "ssh does not use such a key ('UNPROTECTED PRIVATE KEY FILE'), so the login is "
            "refused.",
            f"chmod 600 {quote(path)}",
        )  # fmt: skip
    else:
        _check_use(target, path)


def _what_else(text: str) -> str:
    if text.startswith(("ssh-", "ecdsa-", "sk-")):
        return "is the public half; the private one has no .pub"
    if text.startswith("PuTTY"):
        return "is a key of PuTTY's; `puttygen FILE -O private-openssh -o NEW` converts it"
    return "is no private key"


def _check_use(target: Target, path: str) -> None:
    public = run("ssh-keygen", "-y", "-P", "", "-f", path)
    if public.returncode:
        _add_unusable(target, path, public.stderr)
        return
    beside = ""
    with contextlib.suppress(OSError), open(f"{path}.pub", encoding="utf-8") as file:
        beside = file.read()
    if beside and beside.split()[:2] != public.stdout.split()[:2]:
        target.add(
            "key", PROBLEM, f"{path}.pub is of another key than {path}",
            "ssh offers the server the public half that lies beside the key.",
            f"ssh-keygen -y -f {quote(path)} > {quote(path)}.pub",
        )  # fmt: skip
        return
    shown = run("ssh-keygen", "-l", "-f", path).stdout.split()
    target.add("key", OK, f"{path}, {shown[1] if len(shown) > 1 else '?'}")


def _add_unusable(target: Target, path: str, said: str) -> None:
    if "passphrase" in said:
        agent = bool(os.environ.get("SSH_AUTH_SOCK"))
        target.add(
            "key", WARNING if agent else PROBLEM, f"{path} has a passphrase",
            "Nobody is there to type it when the mount is made, or comes back.",
            f"ssh-keygen -p -N '' -f {quote(path)}",
        )  # fmt: skip
    else:
        target.add(
            "key", PROBLEM, f"{path} cannot be used: {last_line(said)}",
            "The file is not as it was made (cut short, or with the line ends of Windows); copy "
            "it again.",
        )  # fmt: skip


def check_certificate(target: Target) -> None:
    """Certificates are good from and until a moment, by the server's clock."""
    beside = [f"{key}-cert.pub" for key in target.files("identityfile")]
    there = [path for path in [*target.files("certificatefile"), *beside] if os.path.exists(path)]
    for path in there:
        shown = run("ssh-keygen", "-L", "-f", path).stdout
        names = re.search(r"Principals:\s*\n((?:\s{16,}\S.*\n)*)", shown)
        if names and target.user and target.user not in names[1].split():
            target.add(
                "certificate", PROBLEM, f"{path} is not for {target.user}",
                f"Its principals are: {', '.join(names[1].split()) or 'none'}. Have it signed "
                f"again with -n {target.user}.",
            )  # fmt: skip
        _check_times(target, path, shown)
    if there:
        _check_clock(target)


def _check_clock(target: Target) -> None:
    clock = run("timedatectl", "show", "-p", "NTPSynchronized", "--value").stdout.strip()
    if clock == "no":
        target.add(
            "clock", WARNING, "this machine's clock is not synchronised",
            "A certificate counts by the server's clock; compare `date -u` here and there.",
            "timedatectl set-ntp true",
        )  # fmt: skip


def _check_times(target: Target, path: str, shown: str) -> None:
    valid = re.search(r"Valid: (.*)", shown)
    times = {
        word: datetime.strptime(moment, "%Y-%m-%dT%H:%M:%S")
        for word, moment in re.findall(r"(from|to|before|after) (\d{4}\S+)", shown)
    }
    now = datetime.now()  # as ssh-keygen prints it: the wall clock's
    begin = times.get("from", times.get("after", now))
    end = times.get("to", times.get("before", now))
    if begin > now:
        target.add(
            "certificate", PROBLEM, f"{path} is good only from {begin} on, and it is {now:%F %T}",
            "Where it has just been signed, this clock is behind that of the signer.",
            "date -u", "timedatectl set-ntp true",
        )  # fmt: skip
    elif end < now:
        target.add(
            "certificate", PROBLEM, f"{path} was good until {end}, and it is {now:%F %T}",
            "A mount lives on, but does not come back. Have it signed again.",
            f"ssh-keygen -s ca -I NAME -n {target.user or 'USER'} -V +1w KEY.pub",
        )  # fmt: skip
    else:
        target.add("certificate", OK, f"{path}: {valid[1] if valid else '?'}")
