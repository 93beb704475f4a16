"""What is wrong with a mount, seen from the worker that has it.

One file, for Python 3.8 and newer and with nothing but its standard library, because it is copied
to workers that have no sftp-gateway: `python3 worker_doctor.py --help`. (So it is longer than a
module should be.) It asks the worker's own ssh, sftp and ssh-keygen, and is the only one of the
gateway's modules that starts processes; the server never imports it.

A mount that hangs keeps whoever touches it, for ever and against SIGKILL. So a child touches it,
for a limited time, and is left behind if need be.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import os
import re
import select
import shlex
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Callable, Iterator, Sequence

OK, WARNING, PROBLEM = "ok", "warning", "problem"

#: Seconds for whatever should take a fraction of one.
PATIENCE = 10.0
#: Seconds that a touch of the mount may take: longer than a spun down disk, shorter than people.
TOUCH = 8.0

#: What a link needs in flight is its rate times its round trip; the kernel's own 128 KiB are
#: enough below this.
FAR_SECONDS = 0.005
ENOUGH_READ_AHEAD = 1024
SLOW = 5.0
#: Bytes that are worth measuring.
BIG = 4 << 20

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
    mounts: list[list[str]] = field(default_factory=list)
    """The lines of mountinfo that are at this place, as fields."""
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
        """Options for ssh; of two for the same thing, it takes the first."""
        own = [f"{name}={value}" for name, value in self.options.items() if name in SSH_OPTIONS]
        named = [*first, *([f"Port={self.port}"] if self.port else []), *own]
        return [part for option in named for part in ("-o", option)]

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
        name = self.config.get("hostkeyalias", [self.server])[0]
        port = self.config.get("port", ["22"])[0]
        return name if port == "22" else f"[{name}]:{port}"


# Looking without being kept


def in_child(look: Callable[[], Any], seconds: float) -> Any:
    """What `look` gives, in a child that is left behind after so many seconds.

    Raises TimeoutError then, and OSError as `look` does.
    """
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        _be_child(look, theirs)
    os.close(theirs)
    try:
        answer = b""
        deadline = time.monotonic() + seconds
        while True:
            ready = select.select([ours], [], [], max(0.0, deadline - time.monotonic()))[0]
            if not ready:
                os.kill(child, signal.SIGKILL)  # which the kernel may keep until the mount is back
                raise TimeoutError
            part = os.read(ours, 1 << 16)
            if not part:
                break
            answer += part
        os.waitpid(child, 0)
    finally:
        os.close(ours)
    failure, told = json.loads(answer) if answer else [errno.EIO, None]
    if failure is not None:
        raise OSError(failure, os.strerror(failure))
    return told


def _be_child(look: Callable[[], Any], answer: int) -> None:
    # Nobody may wait for the end of an output that a child who is left behind still holds.
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    os.closerange(3, answer)
    os.closerange(answer + 1, 1024)
    try:
        told = json.dumps([None, look()])
    except OSError as error:
        told = json.dumps([error.errno or errno.EIO, None])
    except BaseException:
        told = ""
    with contextlib.suppress(OSError):
        os.write(answer, told.encode())
    os._exit(0)


def run(
    *command: str, seconds: float = PATIENCE, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a program that asks nobody anything. One that takes too long has status 124."""
    try:
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            env={**os.environ, "LC_ALL": "C", **environment},
            start_new_session=True,  # no terminal to ask for a password on
            check=False,
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 124, "", "it took too long")
    except OSError as error:
        return subprocess.CompletedProcess(command, 127, "", str(error))


# Which mount is meant


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
        if word[:2] in ("-o", "-p", "-F") and len(word) >= 2 and word[:1] == "-":
            value = word[2:] or (rest.pop(0) if rest else "")
            if word[1] == "o":
                options.update(split_options(value))
            else:
                options["port" if word[1] == "p" else "-f"] = value
        elif not word.startswith("-"):
            positional.append(word)
    return positional, options


def mount_lines(mount: str) -> list[list[str]]:
    """What is mounted at a place, the uppermost last, without touching it."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as file:
        lines = [line.split() for line in file]
    return [line for line in lines if _plain(line[4]) == mount]


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


def find_target(options: argparse.Namespace) -> Target:
    """Put together what is asked for, what is mounted, and what ssh is configured to do."""
    target = Target()
    source = ""
    if options.mount:
        target.mount = os.path.normpath(os.path.join(os.getcwd(), options.mount))
        target.mounts = mount_lines(target.mount)
        source, target.options = fstab_line(target.mount)
        target.pid, words = find_process(target.mount)
        if words:
            positional, target.options = read_command(words[1:])
            source = positional[0] if positional else source
        if target.mounts and "fuse.sshfs" in target.mounts[-1]:
            source = _plain(target.mounts[-1][target.mounts[-1].index("-") + 2])
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
        shown = run("ssh", "-G", *target.ssh_arguments(), target.login)
        for line in shown.stdout.splitlines():
            name, _, value = line.partition(" ")
            target.config.setdefault(name, []).append(value)
    return target


# The worker itself


def check_programs(target: Target) -> None:
    """What a mount needs to be installed, and of which version it is."""
    missing = [name for name in ("ssh", "sshfs") if not shutil.which(name)]
    fusermount = shutil.which("fusermount3") or shutil.which("fusermount")
    if not fusermount:
        missing.append("fusermount3")
    if missing:
        target.add(
            "programs", PROBLEM, f"{', '.join(missing)} is not installed",
            "Nothing can be mounted without.",
            "apt-get install -y sshfs fuse3 openssh-client    # Debian, Ubuntu",
            "dnf install -y fuse-sshfs                        # Fedora",
            "apk add sshfs fuse3 openssh-client               # Alpine",
        )  # fmt: skip
        return
    versions = run("sshfs", "--version").stdout + run(fusermount or "", "--version").stdout
    sshfs = re.search(r"SSHFS version (\S+)", versions)
    fuse = re.search(r"fusermount3? version: (\S+)", versions)
    ssh = run("ssh", "-V").stderr.split(",")[0].strip()
    found = f"sshfs {sshfs[1] if sshfs else '?'}, fusermount {fuse[1] if fuse else '?'}, {ssh}"
    if sshfs and sshfs[1].startswith("2."):
        target.add(
            "programs", WARNING, found, "sshfs before 3 is slower, and comes back less surely."
        )
    else:
        target.add("programs", OK, found)
    if not os.path.exists("/dev/fuse"):
        target.add(
            "fuse", PROBLEM, "there is no /dev/fuse",
            "The kernel's module is not loaded; a container needs --device /dev/fuse and "
            "--cap-add SYS_ADMIN.",
            "modprobe fuse",
        )  # fmt: skip


def check_allow_other(target: Target, fuse_conf: str) -> None:
    """Who may enter the mount, and whether this user may let others in."""
    if target.mounts:
        options = ",".join(target.mounts[-1]).split(",")
        if "allow_other" in options or "allow_root" in options:
            target.add("allow_other", OK, "users and containers other than the mount's may enter")
        else:
            target.add(
                "allow_other", WARNING, "only the user who made the mount may enter",
                "Others, root and containers too, are told 'Permission denied'. Mount again with "
                "allow_other if they should be let in.",
            )  # fmt: skip
    if os.geteuid() == 0:
        return
    try:
        with open(fuse_conf, encoding="utf-8") as file:
            allowed = any(line.split() == ["user_allow_other"] for line in file)
    except OSError:
        allowed = False
    if allowed:
        target.add("fuse.conf", OK, f"{fuse_conf} has user_allow_other")
    else:
        needed = "allow_other" in target.options and not target.mounts
        target.add(
            "fuse.conf", PROBLEM if needed else WARNING, f"{fuse_conf} has no user_allow_other",
            "Only root may mount with allow_other: for others sshfs says 'option allow_other only "
            "allowed if 'user_allow_other' is set in /etc/fuse.conf', and mounts nothing.",
            f"echo user_allow_other | sudo tee -a {shlex.quote(fuse_conf)}",
        )  # fmt: skip


def check_key(target: Target) -> None:
    """The private key's file: there, private, whole, without a passphrase."""
    given = "identityfile" in target.options
    keys = target.files("identityfile")
    there = [path for path in keys if os.path.lexists(path)]
    if not there and "password_stdin" in target.options:
        target.add("key", OK, "the mount logs in with a password")
    elif given and not there:
        target.add(
            "key", PROBLEM, f"there is no key {keys[0] if keys else '?'}",
            "The login cannot work without; copy it from the server (keys/worker_ed25519).",
            f"scp SERVER:sftp-gateway/keys/worker_ed25519 {quoted(keys[0]) if keys else ''}",
        )  # fmt: skip
    elif not there and not os.environ.get("SSH_AUTH_SOCK"):
        target.add(
            "key", WARNING, "this user has no key in ~/.ssh and no agent",
            "Unless the mount gives a password, it needs one: -o IdentityFile=FILE for sshfs, "
            "--key FILE here. If root mounts, run this as root.",
        )  # fmt: skip
    for path in there:
        _check_key_file(target, path)


def quoted(path: str) -> str:
    """As a shell wants it."""
    return shlex.quote(path)


def _check_key_file(target: Target, path: str) -> None:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            status, text = os.fstat(file.fileno()), file.read(1 << 16)
    except OSError as error:
        target.add(
            "key", PROBLEM, f"{path} cannot be read: {error.strerror}",
            "Run this as the user who mounts.", "sudo " + " ".join(map(quoted, sys.argv)),
        )  # fmt: skip
        return
    if "PRIVATE KEY-----" not in text:
        what = "is no private key"
        if text.startswith(("ssh-", "ecdsa-", "sk-")):
            what = "is the public half; the private one has no .pub"
        elif text.startswith("PuTTY"):
            what = "is a key of PuTTY's; `puttygen FILE -O private-openssh -o NEW` converts it"
        target.add("key", PROBLEM, f"{path} {what}", "ssh cannot log in with it.")
        return
    if status.st_uid == os.geteuid() and status.st_mode & 0o077:
        target.add(
            "key", PROBLEM, f"{path} is open to others (mode {stat.S_IMODE(status.st_mode):04o})",
            "ssh does not use such a key ('UNPROTECTED PRIVATE KEY FILE'), so the login is "
            "refused.",
            f"chmod 600 {quoted(path)}",
        )  # fmt: skip
        return
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
            f"ssh-keygen -y -f {quoted(path)} > {quoted(path)}.pub",
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
            f"ssh-keygen -p -N '' -f {quoted(path)}",
        )  # fmt: skip
    else:
        target.add(
            "key", PROBLEM, f"{path} cannot be used: {last_line(said)}",
            "The file is not as it was made (cut short, or with the line ends of Windows); copy "
            "it again.",
        )  # fmt: skip


def last_line(text: str) -> str:
    """The last that a program said, which is usually why it ended."""
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else "?"


def check_certificate(target: Target) -> None:
    """Certificates are good from and until a moment, by the server's clock."""
    beside = [f"{key}-cert.pub" for key in target.files("identityfile")]
    for path in [*target.files("certificatefile"), *beside]:
        if not os.path.exists(path):
            continue
        shown = run("ssh-keygen", "-L", "-f", path).stdout
        names = re.search(r"Principals:\s*\n((?:\s{16,}\S.*\n)*)", shown)
        if names and target.user and target.user not in names[1].split():
            target.add(
                "certificate", PROBLEM, f"{path} is not for {target.user}",
                f"Its principals are: {', '.join(names[1].split()) or 'none'}. Have it signed "
                f"again with -n {target.user}.",
            )  # fmt: skip
        _check_times(target, path, shown)
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


# The way to the server


def check_network(target: Target) -> bool:
    """Whether an SSH server answers."""
    if {"proxyjump", "proxycommand"} & target.config.keys():
        target.add("port", OK, "not looked at: ssh is configured to go through another machine")
        return True
    host = target.config.get("hostname", [target.server])[0]
    port = int(target.config.get("port", [target.port or "22"])[0])
    try:
        found = in_child(lambda: _addresses(host), PATIENCE)
    except (OSError, TimeoutError):
        target.add(
            "name", PROBLEM, f"{host} has no address",
            "The name is wrong, or the name server does not answer.",
            f"getent hosts {quoted(host)}", "cat /etc/resolv.conf",
        )  # fmt: skip
        return False
    target.add("name", OK, f"{host} is {', '.join(found)}")
    return _check_port(target, host, port) == OK


def _addresses(host: str) -> list[str]:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        raise OSError(errno.EADDRNOTAVAIL, str(error)) from error
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def _check_port(target: Target, host: str, port: int) -> str:
    source = target.config.get("bindaddress", [""])[0]
    try:
        connection = socket.create_connection(
            (host, port), PATIENCE, source_address=(source, 0) if source else None
        )
    except ConnectionRefusedError:
        return target.add(
            "port", PROBLEM, f"{host} refuses connections to port {port}",
            "The machine is there; the gateway does not run, or has another port.",
            "docker-compose ps sftp-gateway    # on the server", f"ss -ltn | grep {port}",
        )  # fmt: skip
    except socket.timeout:
        return target.add(
            "port", PROBLEM, f"{host} does not answer on port {port}",
            "The machine is off, or a firewall drops what is sent to this port.",
            f"ping -c 3 {quoted(host)}", f"ssh -v -p {port} {quoted(target.login)}",
        )  # fmt: skip
    except OSError as error:
        return target.add(
            "port", PROBLEM, f"{host} cannot be reached: {error.strerror}",
            "This worker has no way there.", f"ip route get {quoted(host)}",
        )  # fmt: skip
    with connection:
        return _check_greeting(target, port, _greeting(connection))


def _greeting(connection: socket.socket) -> bytes | None:
    """What the server says first; None where it says nothing in time."""
    connection.settimeout(PATIENCE)
    said = b""
    try:
        while b"\n" not in said and len(said) < 1024:
            part = connection.recv(1024)
            if not part:
                break
            said += part
    except socket.timeout:
        return said or None
    except OSError:
        pass
    return said


def _check_greeting(target: Target, port: int, said: bytes | None) -> str:
    shown = repr((said or b"").decode("utf-8", "replace").strip())[:80]
    if said is None:
        return target.add(
            "port", PROBLEM, f"port {port} takes the connection and says nothing",
            "The gateway's process hangs or is stopped, or a proxy stands before a server that "
            "is gone.",
            "docker-compose restart sftp-gateway    # on the server; mounts come back",
        )  # fmt: skip
    if not said:
        return target.add(
            "port", PROBLEM, f"port {port} takes the connection and closes it at once",
            "The gateway refuses this address: it is banned after failed logins (30 seconds or "
            "more), not in allow_from, or the server is full. Its log says which.",
            "docker-compose logs --no-log-prefix sftp-gateway | "
            "grep -E 'source_banned|connections_refused' | tail -n 3    # on the server",
        )  # fmt: skip
    if not said.startswith(b"SSH-2.0-") and b"\nSSH-2.0-" not in said:
        return target.add(
            "port", PROBLEM, f"something else than SSH answers on port {port}: {shown}",
            "The port is another program's; ask which one the gateway has.",
        )  # fmt: skip
    found = f"{shown} on port {port}"
    if b"sftp_gateway" not in said:
        target.add(
            "port", WARNING, found,
            "That is another SSH server than sftp-gateway: the one that it replaced, or one in "
            "front of it.",
        )  # fmt: skip
        return OK
    return target.add("port", OK, found)


# The login

_CHANGED = "REMOTE HOST IDENTIFICATION HAS CHANGED"
_UNKNOWN = re.compile(r"host key is known for|authenticity of host .* can't be established")


def check_login(target: Target, password: str) -> bool:
    """Whether the worker's own ssh can log in; looks at the host key first."""
    attempt = _log_in(target, password)
    if "Host key verification failed" in attempt or _CHANGED in attempt:
        _add_host_key(target, attempt)
        # Go on with whoever answers: a key's login tells them nothing.
        attempt = _log_in(
            target, "", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null",
            "GlobalKnownHostsFile=/dev/null",
        )  # fmt: skip
    elif "Server host key" in attempt:
        target.add("host key", OK, f"{_host_key(attempt)}, as in {target.known_hosts}")
    accepted = re.search(r'Authenticated to .* using "([^"]+)"', attempt)
    if accepted:
        target.add("login", OK, f"{target.login} may log in ({accepted[1]})")
        return True
    _add_refusal(target, attempt)
    return False


def _log_in(target: Target, password: str, *first: str) -> str:
    """What ssh says on its way in."""
    options = [*first, "StrictHostKeyChecking=yes", f"ConnectTimeout={PATIENCE:.0f}"]
    options += ["ControlPath=none", "UpdateHostKeys=no"]
    environment: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        if password:
            program = os.path.join(folder, "askpass")
            with open(program, "w", encoding="utf-8") as file:
                file.write('#!/bin/sh\nprintf "%s\\n" "$SSHFS_DOCTOR_PASSWORD"\n')
            os.chmod(program, 0o700)
            environment = {
                "SSH_ASKPASS": program, "SSH_ASKPASS_REQUIRE": "force", "DISPLAY": "none",
                "SSHFS_DOCTOR_PASSWORD": password,
            }  # fmt: skip
            options += ["NumberOfPasswordPrompts=1"]
        else:
            options += ["BatchMode=yes"]
        arguments = target.ssh_arguments(*options)
        return run(
            "ssh", "-v", "-T", *arguments, target.login, "echo sshfs-doctor",
            seconds=3 * PATIENCE, **environment,
        ).stderr  # fmt: skip


def _host_key(attempt: str) -> str:
    match = re.search(r"Server host key: (\S+ \S+)", attempt)
    return match[1] if match else "?"


def _add_host_key(target: Target, attempt: str) -> None:
    port = target.config.get("port", ["22"])[0]
    host, known = quoted(target.server), quoted(target.known_hosts)
    learn = f"ssh-keyscan -p {port} {host} >> {known}"
    compare = "ssh-keygen -lf keys/ssh_host_ed25519_key.pub    # on the server: is it the same?"
    if _CHANGED in attempt:
        where = re.search(r"Offending \S+ key in (\S+)", attempt)
        target.add(
            "host key", PROBLEM,
            f"the server shows another key than {where[1] if where else target.known_hosts} has: "
            f"{_host_key(attempt)}",
            "The server was set up anew and has lost its host key, or it is not the server. Put "
            "the old key back there (keys/README.md), or, if that is the right new one:",
            compare, f"ssh-keygen -R {quoted(target.host_name)} -f {known}", learn,
        )  # fmt: skip
    elif _UNKNOWN.search(attempt):
        target.add(
            "host key", PROBLEM, f"{target.known_hosts} does not have it: {_host_key(attempt)}",
            "ssh asks before it trusts a new server, and a mount has nobody to ask: 'Host key "
            "verification failed.' Take the key down, and compare it.",
            learn, compare,
        )  # fmt: skip
    else:
        target.add("host key", PROBLEM, last_line(attempt), "", learn, compare)


def _add_refusal(target: Target, attempt: str) -> None:
    said = last_line(attempt)
    if "Permission denied" not in attempt:
        means = "The connection ended before the login was decided; the server's log has why."
        if "no matching" in attempt:
            means = (
                "This ssh is too old or too restricted for the server; "
                'ciphers = "compatible" there helps old clients.'
            )
        elif "Too many authentication failures" in attempt:
            means = "ssh tries all keys of the agent first: mount with -o IdentitiesOnly=yes."
        target.add("login", PROBLEM, said, means)
        return
    methods = re.findall(r"Authentications that can continue: (\S+)", attempt)
    offered = re.findall(r"Offering public key: (\S+) .*?(SHA256:\S+)", attempt)
    log = (
        "docker-compose logs --no-log-prefix sftp-gateway | grep login_refused | tail -n 3"
        "    # on the server: why"
    )
    do = [log]
    if offered:
        path, fingerprint = offered[-1]
        means = f"The server does not take the key {path} ({fingerprint}) for {target.user}."
        do += [
            f"sftp-gateway keys list | grep {fingerprint}    # on the server: is it there?",
            f"sftp-gateway keys add {target.user or 'USER'} {quoted(os.path.basename(path))}.pub"
            "    # on the server, with the worker's .pub file",
        ]
    elif "password" in ",".join(methods[-1:]):
        means = (
            "No key was tried, but a password would be taken: mount with -o password_stdin. "
            "--password-stdin tries one here."
        )
    else:
        means = "ssh had no key to try. See 'key' above; --key FILE names one."
    target.add("login", PROBLEM, said, means, *do)


def check_folder(target: Target) -> None:
    """Whether there is something to mount at the path."""
    path = target.path or "."
    options = ["StrictHostKeyChecking=yes", "BatchMode=yes", "ControlPath=none"]
    with tempfile.NamedTemporaryFile("w", suffix=".sftp") as batch:
        batch.write(f'ls -1a "{path}"\n')
        batch.flush()
        ran = run("sftp", "-b", batch.name, *target.ssh_arguments(*options), target.login)
    names = [os.path.basename(line.strip()) for line in ran.stdout.splitlines()[1:]]
    names = [name for name in names if name not in (".", "..")]
    if ran.returncode:
        target.add(
            "folder", PROBLEM, f"{path}: {last_line(ran.stderr)}",
            f"The server has no such folder for {target.user}: a share that is not configured, or "
            "not granted. `SERVER:` mounts all that there are.",
            "sftp-gateway check    # on the server: shares and users",
        )  # fmt: skip
    elif not names:
        target.add(
            "folder", WARNING, f"{path} is empty",
            "The share's folder is empty on the server too, or the wrong one is served.",
        )  # fmt: skip
    else:
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        target.add("folder", OK, f"{path} has {', '.join(names[:5])}{more}")


# The mount


def check_mount(target: Target) -> bool:
    """Whether the mount answers."""
    place, again = quoted(target.mount), "then mount it again as it was"
    if not target.mounts:
        target.add(
            "mount", PROBLEM, f"nothing is mounted at {target.mount}",
            "What is seen there is the worker's own folder, usually an empty one."
            + (f" An sshfs for it runs, though (pid {target.pid})." if target.pid else ""),
            "systemctl status sshfs-main-server    # where it is a service",
        )  # fmt: skip
        return False
    if "fuse.sshfs" not in target.mounts[-1]:
        kind = target.mounts[-1][target.mounts[-1].index("-") + 1]
        target.add("mount", PROBLEM, f"{target.mount} is a mount of type {kind}", "Not sshfs.")
        return False
    if len(target.mounts) > 1:
        target.add(
            "mount", WARNING, f"{len(target.mounts)} mounts lie upon another at {target.mount}",
            "Mounted twice: only the last one is seen.", f"fusermount3 -u {place}",
        )  # fmt: skip
    unmount = f"fusermount3 -uz {place}    # {again}"
    try:
        names, target.round_trip = in_child(lambda: ask(target.mount), TOUCH)
    except TimeoutError:
        _add_hung(target, unmount)
        return False
    except OSError as error:
        _add_failing(target, error, unmount)
        return False
    if not names:
        target.add(
            "mount", WARNING, f"{target.mount} answers and is empty",
            "The wrong folder is mounted, or the share's folder is empty on the server.",
        )  # fmt: skip
        return True
    took = f"{target.round_trip * 1000:.1f} ms"
    target.add("mount", OK, f"{target.mount} answers in {took}: {', '.join(names)}")
    return True


def ask(mount: str) -> tuple[list[str], float]:
    """A few names in a mount, and the seconds of the quickest of some requests to the server.

    sshfs has an answer of its own for what it has seen, but not for names that are not there.
    """
    quickest = PATIENCE
    for number in range(5):
        began = time.monotonic()
        with contextlib.suppress(FileNotFoundError):
            os.lstat(os.path.join(mount, f".sshfs-doctor-{os.getpid()}-{number}"))
        quickest = min(quickest, time.monotonic() - began)
    return sorted(os.listdir(mount))[:6], quickest


def _add_hung(target: Target, unmount: str) -> None:
    state = ""
    with contextlib.suppress(OSError), open(f"/proc/{target.pid}/stat", encoding="utf-8") as file:
        state = file.read().rpartition(")")[2].split()[0]
    do = [unmount]
    means = (
        "The server does not answer, or what is asked waits for its disk. With reconnect and "
        "keep-alives it comes back, or fails, after ServerAliveInterval x ServerAliveCountMax "
        "seconds. Whoever asks meanwhile waits, and cannot be ended; to end the waiting:"
    )
    if state in ("T", "t"):
        means = f"Its sshfs (pid {target.pid}) is stopped, as by Ctrl-Z."
        do = [f"kill -CONT {target.pid}", *do]
    elif target.pid:
        do.append(f"kill -9 {target.pid}")
    minor = target.mounts[-1][2].partition(":")[2]
    do.append(f"echo 1 > /sys/fs/fuse/connections/{minor}/abort    # if even that hangs")
    target.add("mount", PROBLEM, f"{target.mount} hangs: no answer in {TOUCH:.0f} s", means, *do)


def _add_failing(target: Target, error: OSError, unmount: str) -> None:
    means = "The server is away or was when it was asked; a mount with reconnect comes back."
    if error.errno == errno.ENOTCONN:
        means = (
            "Its sshfs has ended (killed, or the connection was lost without reconnect) and the "
            "mount was left behind."
        )
    elif error.errno == errno.EACCES:
        means = (
            "This user may not enter: without allow_other only who mounted may, not even root; or "
            "the server shows modes that let nobody else in."
        )
        unmount = f"sudo -u '#{_owner(target)}' ls {quoted(target.mount)}"
    target.add("mount", PROBLEM, f"{target.mount}: {error.strerror}", means, unmount)


def _owner(target: Target) -> str:
    match = re.search(r"user_id=(\d+)", " ".join(target.mounts[-1]))
    return match[1] if match else "0"


def check_options(target: Target) -> None:
    """Options without which a mount is not coming back, or slow."""
    if not target.options:
        target.add("options", OK, "not looked at: its sshfs cannot be seen (run this as root)")
        return
    missing = []
    if "reconnect" not in target.options:
        missing.append("reconnect")
    if target.config.get("serveraliveinterval", ["0"])[0] == "0":
        missing.append("ServerAliveInterval=15,ServerAliveCountMax=3")
    if missing:
        target.add(
            "options", WARNING, f"the mount has no {' and no '.join(missing)}",
            "Without reconnect it is gone for good when the link is cut; without keep-alives it "
            "hangs for many minutes before it notices.",
            f"sshfs -o {','.join(missing)} ...",
        )  # fmt: skip
    else:
        target.add("options", OK, "reconnect, and keep-alives")
    if target.round_trip > FAR_SECONDS and int(target.options.get("max_read") or 0) < 65536:
        target.add(
            "max_read", WARNING, "the mount has no max_read=65536",
            "Each READ takes half of what it could; over a far link that is slower.",
            "sshfs -o max_read=65536 ...",
        )  # fmt: skip


def check_read_ahead(target: Target) -> None:
    """How far the kernel reads ahead: what is in flight on the link for one file."""
    device = target.mounts[-1][2]
    path = f"/sys/class/bdi/{device}/read_ahead_kb"
    try:
        with open(path, encoding="ascii") as file:
            amount = int(file.read())
    except (OSError, ValueError):
        return
    found = f"the kernel reads {amount} KiB ahead"
    if target.round_trip > FAR_SECONDS and amount < ENOUGH_READ_AHEAD:
        limit = amount * 1024 / target.round_trip / 1e6
        target.add(
            "read-ahead", WARNING,
            f"{found}, and the server is {target.round_trip * 1000:.0f} ms away",
            f"One reader of one file gets no more than about {limit:.1f} MB/s. (As root, and after "
            "each mount:)",
            f"echo 4096 > {path}",
        )  # fmt: skip
    else:
        target.add("read-ahead", OK, found)


def check_throughput(target: Target, seconds: float, file: str) -> None:
    """Read a file of the mount for some seconds, past what the kernel has of it."""
    try:
        path, size, total, took = in_child(
            lambda: measure(file or target.mount, seconds), 3 * seconds + TOUCH
        )
    except TimeoutError:
        target.add(
            "throughput", PROBLEM, "reading did not end in time",
            "The server, its disk or the link stalls; try again, or name a file with --file.",
        )  # fmt: skip
        return
    except OSError as error:
        target.add("throughput", PROBLEM, f"reading failed: {error.strerror}", "", "dmesg | tail")
        return
    if not path or size < BIG:
        target.add(
            "throughput", OK, "not measured: there is no big file near the top; --file names one"
        )
        return
    rate = total / 1e6 / took
    found = f"{rate:.1f} MB/s ({total / 1e6:.0f} MB of {path} in {took:.1f} s)"
    if rate < SLOW:
        target.add(
            "throughput", WARNING, found,
            "That is little. The usual causes: a far link with little read-ahead (see there), a "
            "slow disk on the server, a full link, or bandwidth_limit of this user.",
        )  # fmt: skip
    else:
        target.add("throughput", OK, found)


def measure(top: str, seconds: float) -> tuple[str, int, int, float]:
    """A big file at or below `top`, its size, and what was read of it in so many seconds."""
    path, size = top, 0
    if os.path.isdir(top):
        path, size = max(_some_files(top, seconds), key=lambda each: each[1], default=("", 0))
    else:
        size = os.stat(top).st_size
    total, took = 0, 0.0
    if path and size >= BIG:
        with open(path, "rb", buffering=0) as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            began = time.monotonic()
            while took < seconds:
                part = file.read(1 << 20)
                took = max(time.monotonic() - began, 1e-6)
                total += len(part)
                if not part:
                    break
    return path, size, total, took


def _some_files(top: str, seconds: float) -> Iterator[tuple[str, int]]:
    """Files near the top, until one is big enough to be measured for as long as is wanted."""
    deadline = time.monotonic() + seconds
    folders = [top]
    while folders and time.monotonic() < deadline:
        with contextlib.suppress(OSError), os.scandir(folders.pop(0)) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    elif entry.is_file():
                        size = entry.stat().st_size
                        yield entry.path, size
                        if size > 256 << 20 or time.monotonic() > deadline:
                            return


# The program


def examine(options: argparse.Namespace, password: str = "") -> Target:
    """Look at everything, each thing only where what it needs is there."""
    target = find_target(options)
    check_programs(target)
    check_allow_other(target, options.fuse_conf)
    if target.server and shutil.which("ssh"):
        check_key(target)
        check_certificate(target)
        if check_network(target) and check_login(target, password) and not password:
            check_folder(target)
    if target.mount and check_mount(target):
        check_options(target)
        check_read_ahead(target)
        if options.seconds > 0:
            check_throughput(target, options.seconds, options.file)
    return target


def parser(prog: str | None = None) -> argparse.ArgumentParser:
    """The options of the program."""
    made = argparse.ArgumentParser(
        prog=prog,
        description="Say what is wrong with an sshfs mount of this machine, and what to do.",
        epilog="Exit status: 0 where there is no problem, 1 where there is one.",
        allow_abbrev=False,
    )
    made.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    made.add_argument(
        "--mount", metavar="PATH", default="",
        help="the mount; server, port, user and key are taken from it",
    )  # fmt: skip
    made.add_argument("--server", metavar="HOST", default="", help="where nothing is mounted yet")
    made.add_argument("--port", metavar="N", default="", help="default: the mount's, or 2222")
    made.add_argument("--user", metavar="NAME", default="", help="default: the mount's, or gvpocr")
    made.add_argument("--path", metavar="PATH", default="", help="the server's folder to mount")
    made.add_argument("--key", metavar="FILE", default="", help="the private key to log in with")
    made.add_argument("--known-hosts", metavar="FILE", default="", help="default: ssh's own")
    made.add_argument(
        "--password-stdin", action="store_true", help="try the password on standard input"
    )
    made.add_argument(
        "--file", metavar="FILE", default="", help="measure with this file of the mount"
    )
    made.add_argument(
        "--seconds", metavar="N", type=float, default=5.0,
        help="how long to measure the throughput; 0: not at all; default: 5",
    )  # fmt: skip
    made.add_argument("--json", action="store_true", help="print one JSON document")
    made.add_argument("--fuse-conf", default="/etc/fuse.conf", help=argparse.SUPPRESS)
    return made


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Run with `arguments` (sys.argv), print what was found, return the exit status."""
    made = parser(prog)
    options = made.parse_args(arguments)
    if not options.mount and not options.server:
        made.error("give --mount PATH, or --server HOST where nothing is mounted yet")
    if options.port and not (options.port.isdigit() and 0 < int(options.port) < 65536):
        made.error(f"--port: {options.port!r} is no port")
    password = sys.stdin.readline().rstrip("\n") if options.password_stdin else ""
    target = examine(options, password)
    failed = any(finding.status == PROBLEM for finding in target.findings)
    if options.json:
        findings = [asdict(finding) for finding in target.findings]
        print(json.dumps({"ok": not failed, "findings": findings}, indent=2))
    else:
        for finding in target.findings:
            show(finding)
    return int(failed)


def show(finding: Finding) -> None:
    """Print a finding for people."""
    print(f"{finding.status:<8} {finding.check:<12} {finding.found}")
    for line in filter(None, [finding.means]):
        print(f"{'':<21} {line}")
    for command in finding.do:
        print(f"{'':<21} $ {command}")


if __name__ == "__main__":
    sys.exit(main())
