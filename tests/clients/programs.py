"""The clients of the matrix, with the operations of each."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Final

from tests.support.clients import SSHFS_VERSIONS, debian, installed, sshfs_versions
from tests.support.gateway import Gateway

_DRIVERS: Final = Path(__file__).parent / "drivers"
_USER: Final = "gvpocr@127.0.0.1"


class Failed(Exception):
    """The client reported failure; the text is its message."""


class Client(ABC):
    """One client in one version, which talks to `gateway` and may use `folder`.

    Paths are absolute ones of the server. Methods raise Failed with what the client says.
    `cannot` has the operations that the client does not have, `fails` those that it fails at with
    any server; each with the reason.
    """

    cannot: ClassVar[Mapping[str, str]] = {}
    fails: ClassVar[Mapping[str, str]] = {}
    fails_on_stdout: ClassVar[bool] = False

    def __init__(self, gateway: Gateway, folder: Path) -> None:
        self.gateway = gateway
        self.folder = folder

    @contextlib.contextmanager
    def connected(self) -> Iterator[None]:
        """Set up what the client needs while it works, such as a mount."""
        yield

    @abstractmethod
    def list(self, path: str) -> set[str]:
        """Names in a folder."""

    @abstractmethod
    def read(self, path: str) -> bytes:
        """A file's content."""

    @abstractmethod
    def resume(self, path: str, local: Path) -> None:
        """Complete `local`, which is the beginning of the file."""

    @abstractmethod
    def copy(self, path: str, local: Path) -> None:
        """Copy a folder to the new folder `local`."""

    @abstractmethod
    def link(self, path: str) -> str:
        """How the client shows a symbolic link, in words."""

    @abstractmethod
    def write(self, local: Path, path: str) -> None:
        """Try to copy a local file to the server."""

    def run(
        self, *command: str | Path, stdin: str = "", env: Mapping[str, str] | None = None
    ) -> bytes:
        """The command's output; raises Failed with its standard error."""
        ran = subprocess.run(
            command, input=stdin.encode(), capture_output=True, timeout=60,
            env={**os.environ, "LC_ALL": "C.UTF-8", **(env or {})}, cwd=self.folder,
        )  # fmt: skip
        if ran.returncode:
            output = ran.stdout if self.fails_on_stdout else ran.stderr
            raise Failed(self._said(output.decode("utf-8", "replace").strip().splitlines()))
        return ran.stdout

    def _said(self, lines: Sequence[str]) -> str:
        """The last line, without parts that differ between runs."""
        line = lines[-1] if lines else ""
        line = line.replace(f"{self.folder}/", "").replace(str(self.gateway.port), "PORT")
        line = re.sub(rf"{installed()}/\S*/", "", line)
        # Dates and times that some clients print first.
        return re.sub(r"^[\d/]+ [\d:]+ ", "", line).strip()


class Sshfs(Client):
    """A mount."""

    version: ClassVar[str]

    @contextlib.contextmanager
    def connected(self) -> Iterator[None]:
        self._mount = self.folder / "mount"
        with self.gateway.mounted(self._mount, "/", sshfs=sshfs_versions()[self.version]):
            yield

    def _on_mount(self, path: str) -> Path:
        return Path(f"{self._mount}{path}")

    def list(self, path: str) -> set[str]:
        return {*os.listdir(self._on_mount(path))}

    def read(self, path: str) -> bytes:
        with _refusals():
            return self._on_mount(path).read_bytes()

    def resume(self, path: str, local: Path) -> None:
        with self._on_mount(path).open("rb") as remote, local.open("ab") as file:
            remote.seek(file.tell())
            shutil.copyfileobj(remote, file)

    def copy(self, path: str, local: Path) -> None:
        self.run("cp", "-r", self._on_mount(path), local)

    def link(self, path: str) -> str:
        return f"link to {os.readlink(self._on_mount(path))}"

    def write(self, local: Path, path: str) -> None:
        with _refusals():
            shutil.copyfile(local, self._on_mount(path))


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Failed(error.strerror) from error


class Sftp(Client):
    """OpenSSH's sftp."""

    suite: ClassVar[str]

    def _batch(self, *commands: str) -> str:
        output = self.run(
            debian(self.suite, "sftp"), *self.gateway.ssh_options(), "-q", "-P",
            str(self.gateway.port), "-b", "-", _USER, stdin="\n".join(commands) + "\n",
        ).decode()  # fmt: skip
        return "".join(line for line in output.splitlines(True) if not line.startswith("sftp> "))

    def list(self, path: str) -> set[str]:
        return {*map(os.path.basename, self._batch(f"ls -1a {path}").splitlines())}

    def read(self, path: str) -> bytes:
        self._batch(f"get {path} read")
        return (self.folder / "read").read_bytes()

    def resume(self, path: str, local: Path) -> None:
        self._batch(f"reget {path} {local}")

    def copy(self, path: str, local: Path) -> None:
        self._batch(f"get -r {path} {local}")

    def link(self, path: str) -> str:
        folder, _, name = path.rpartition("/")
        return _in_long_listing(self._batch(f"cd {folder}", "ls -l"), name)

    def write(self, local: Path, path: str) -> None:
        self._batch(f"put {local} {path}")


class Scp(Client):
    """OpenSSH's scp, which speaks SFTP since 9.0."""

    suite: ClassVar[str]
    cannot: ClassVar[Mapping[str, str]] = {
        "list": "only copies",
        "resume": "starts from the beginning",
        "link": "copies the file it leads to",
    }

    def _scp(self, source: str | Path, target: str | Path) -> None:
        options = [*self.gateway.ssh_options(), "-q", "-r", "-P", str(self.gateway.port)]
        self.run(debian(self.suite, "scp"), *options, source, target)

    def list(self, path: str) -> set[str]:
        raise NotImplementedError

    def read(self, path: str) -> bytes:
        self._scp(f"{_USER}:{path}", "read")
        return (self.folder / "read").read_bytes()

    def resume(self, path: str, local: Path) -> None:
        raise NotImplementedError

    def copy(self, path: str, local: Path) -> None:
        self._scp(f"{_USER}:{path}", local)

    def link(self, path: str) -> str:
        raise NotImplementedError

    def write(self, local: Path, path: str) -> None:
        self._scp(local, f"{_USER}:{path}")


class Rclone(Client):
    """rclone, by options in the environment."""

    program: ClassVar[str]

    def run_rclone(self, *arguments: str | Path) -> bytes:
        """A command's output; `:sftp:` is the gateway."""
        settings = {**self.gateway.rclone_settings(), "RCLONE_LOW_LEVEL_RETRIES": "1"}
        return self.run(installed() / self.program, *arguments, env=settings)

    def list(self, path: str) -> set[str]:
        names = self.run_rclone("lsf", f":sftp:{path}").decode().splitlines()
        return {name.removesuffix("/") for name in names}

    def read(self, path: str) -> bytes:
        return self.run_rclone("cat", f":sftp:{path}")

    def resume(self, path: str, local: Path) -> None:
        start = local.stat().st_size
        with local.open("ab") as file:
            file.write(self.run_rclone("cat", f"--offset={start}", f":sftp:{path}"))

    def copy(self, path: str, local: Path) -> None:
        self.run_rclone("copy", f":sftp:{path}", local)

    def link(self, path: str) -> str:
        folder, _, name = path.rpartition("/")
        return "file" if name in self.list(folder) else "nothing"

    def write(self, local: Path, path: str) -> None:
        self.run_rclone("copyto", local, f":sftp:{path}")


class Driven(Client):
    """A library, through a script in `drivers`."""

    driver: ClassVar[str]
    packages: ClassVar[str | None] = None
    links: ClassVar[str] = "link to {}"  # what `link` of the driver prints

    def _drive(self, operation: str, path: str, local: str | Path = "") -> bytes:
        packages = str(installed() / self.packages) if self.packages else ""
        login = {
            "PORT": str(self.gateway.port),
            "KEY": str(self.gateway.key),
            "KNOWN_HOSTS": str(self.gateway.known_hosts),
            "PACKAGES": packages,
            "PYTHONPATH": packages,
        }
        interpreter = ["node"] if self.driver.endswith(".mjs") else [sys.executable, "-W", "ignore"]
        return self.run(*interpreter, _DRIVERS / self.driver, operation, path, local, env=login)

    def list(self, path: str) -> set[str]:
        return {*self._drive("list", path).decode().splitlines()}

    def read(self, path: str) -> bytes:
        return self._drive("read", path)

    def resume(self, path: str, local: Path) -> None:
        self._drive("resume", path, local)

    def copy(self, path: str, local: Path) -> None:
        self._drive("copy", path, local)

    def link(self, path: str) -> str:
        return self.links.format(self._drive("link", path).decode().strip())

    def write(self, local: Path, path: str) -> None:
        self._drive("write", path, local)


class Curl(Client):
    """curl, which has libssh2."""

    suite: ClassVar[str]
    cannot: ClassVar[Mapping[str, str]] = {"copy": "copies single files"}

    def _curl(self, path: str, *options: str | Path) -> bytes:
        known_hosts = self.folder / ".ssh/known_hosts"
        known_hosts.parent.mkdir(exist_ok=True)
        shutil.copy(self.gateway.known_hosts, known_hosts)
        return self.run(
            debian(self.suite, "curl"), "--disable", "--silent", "--show-error", "--user",
            "gvpocr:", "--key", self.gateway.key, "--pubkey", f"{self.gateway.key}.pub", *options,
            f"sftp://127.0.0.1:{self.gateway.port}{path}",
            env={"HOME": str(self.folder)},
        )  # fmt: skip

    def list(self, path: str) -> set[str]:
        return {*self._curl(f"{path}/", "--list-only").decode().splitlines()}

    def read(self, path: str) -> bytes:
        return self._curl(path)

    def resume(self, path: str, local: Path) -> None:
        self._curl(path, "--continue-at", "-", "--output", local)

    def copy(self, path: str, local: Path) -> None:
        raise NotImplementedError

    def link(self, path: str) -> str:
        folder, _, name = path.rpartition("/")
        return _in_long_listing(self._curl(f"{folder}/").decode(), name)

    def write(self, local: Path, path: str) -> None:
        self._curl(path, "--upload-file", local)


class Lftp(Client):
    """lftp, which starts ssh."""

    def _lftp(self, *commands: str) -> bytes:
        ssh = shlex.join([str(debian("bookworm", "ssh")), "-a", "-x", *self.gateway.ssh_options()])
        settings = f'set sftp:connect-program "{ssh}"; set net:max-retries 1; set cmd:fail-exit yes'
        login = f"open -u gvpocr, -p {self.gateway.port} sftp://127.0.0.1"
        script = "; ".join([settings, login, *commands])
        return self.run(debian("bookworm", "lftp"), "--norc", "-c", script)

    def list(self, path: str) -> set[str]:
        names = self._lftp(f"cd {path}", "cls -1a").decode().splitlines()
        return {name.rstrip("/@") for name in names}

    def read(self, path: str) -> bytes:
        (self.folder / "read").unlink(missing_ok=True)
        self._lftp(f"get {path} -o {self.folder}/read")
        return (self.folder / "read").read_bytes()

    def resume(self, path: str, local: Path) -> None:
        self._lftp(f"get -c {path} -o {local}")

    def copy(self, path: str, local: Path) -> None:
        self._lftp(f"mirror {path} {local}")

    def link(self, path: str) -> str:
        folder, _, name = path.rpartition("/")
        return _in_long_listing(self._lftp(f"cd {folder}", "ls").decode(), name)

    def write(self, local: Path, path: str) -> None:
        self._lftp(f"put {local} -o {path}")


class Psftp(Sftp):
    """PuTTY's psftp, which has most commands of OpenSSH's sftp."""

    fails_on_stdout = True

    @functools.cached_property
    def _login(self) -> Sequence[str | Path]:
        key = self.folder / "key.ppk"
        self.run(debian("bookworm", "puttygen"), self.gateway.key, "-O", "private", "-o", key)
        host_key = self.gateway.folder / "keys/ssh_host_ed25519_key.pub"
        pinned = self.run("ssh-keygen", "-lf", host_key).decode().split()[1]
        return ["-hostkey", pinned, "-i", key]

    def _batch(self, *commands: str) -> str:
        return self.run(
            debian("bookworm", "psftp"), "-batch", *self._login, "-P", str(self.gateway.port),
            "-b", "/dev/stdin", _USER, stdin="\n".join(commands) + "\n",
            env={"HOME": str(self.folder)},
        ).decode()  # fmt: skip

    def list(self, path: str) -> set[str]:
        # Mode, links, owner, group, size, month, day, time, name.
        lines = self._batch(f"ls {path}").splitlines()
        return {line.split(None, 8)[8] for line in lines if re.match("[-dl][-rwx]{9}", line)}

    def link(self, path: str) -> str:
        folder, _, name = path.rpartition("/")
        return _in_long_listing(self._batch(f"ls {folder}"), name)


class Gvfs(Client):
    """gio and its daemons, in their own D-Bus session."""

    cannot: ClassVar[Mapping[str, str]] = {
        "resume": "starts from the beginning",
        "copy": "gio copies single files",
    }

    @contextlib.contextmanager
    def connected(self) -> Iterator[None]:
        with tempfile.TemporaryDirectory(dir="/tmp") as made:
            self._runtime = made  # for sockets, whose paths have to be short
            yield

    def _gio(self, *command: str) -> bytes:
        programs = self.folder / "bin"
        programs.mkdir(exist_ok=True)
        ssh = [str(debian("bookworm", "ssh")), *self.gateway.ssh_options(BatchMode="no")]
        (programs / "ssh").write_text(f'#!/bin/sh\nexec {shlex.join(ssh)} "$@"\n')
        (programs / "ssh").chmod(0o755)
        url = f"sftp://{_USER}:{self.gateway.port}"
        words = shlex.join(each.replace("URL", url) for each in command)
        return self.run(
            "dbus-run-session", "--", "sh", "-ec", f"gio mount {url}/; gio {words}",
            env={
                "PATH": f"{programs}:{os.environ['PATH']}",
                "HOME": str(self.folder),
                "XDG_RUNTIME_DIR": self._runtime,
                "XDG_DATA_HOME": str(self.folder),
            },
        )  # fmt: skip

    def _said(self, lines: Sequence[str]) -> str:
        """gio's own message, without those of its daemons."""
        return super()._said([line for line in lines if line.startswith("gio: ")])

    def list(self, path: str) -> set[str]:
        return {*self._gio("list", "-h", f"URL{path}").decode().splitlines()}

    def read(self, path: str) -> bytes:
        return self._gio("cat", f"URL{path}")

    def resume(self, path: str, local: Path) -> None:
        raise NotImplementedError

    def copy(self, path: str, local: Path) -> None:
        raise NotImplementedError

    def link(self, path: str) -> str:
        attribute = "standard::symlink-target"
        output = self._gio("info", "-n", "-a", attribute, f"URL{path}").decode()
        return f"link to {output.partition(f'{attribute}: ')[2].split()[0]}"

    def write(self, local: Path, path: str) -> None:
        self._gio("copy", str(local), f"URL{path}")


def _in_long_listing(listing: str, name: str) -> str:
    """How a listing like that of `ls -l` shows a symbolic link."""
    [line] = [line for line in listing.splitlines() if re.search(rf" {name}( |$|@)", line)]
    assert line.startswith("l")
    target = line.partition(" -> ")[2]
    return f"link to {target}" if target else "link"


def _client(base: type[Client], **attributes: object) -> type[Client]:
    return type(base.__name__, (base,), attributes)


#: Clients by their names in docs/clients.md.
CLIENTS: Final[Mapping[str, type[Client]]] = {
    **{f"sshfs {version}": _client(Sshfs, version=version) for version in SSHFS_VERSIONS},
    "OpenSSH 9.2 sftp": _client(Sftp, suite="bookworm"),
    "OpenSSH 9.2 scp": _client(Scp, suite="bookworm"),
    "OpenSSH 10.0 sftp": _client(Sftp, suite="trixie"),
    "OpenSSH 10.0 scp": _client(Scp, suite="trixie"),
    "rclone 1.60": _client(Rclone, program="bookworm/bin/rclone"),
    "rclone 1.75": _client(Rclone, program="rclone-1.75/bin/rclone"),
    "paramiko 2.12": _client(Driven, driver="paramiko_driver.py", packages="paramiko-2.12"),
    "paramiko 3.4": _client(Driven, driver="paramiko_driver.py", packages="paramiko-3.4"),
    "paramiko 5.1": _client(Driven, driver="paramiko_driver.py"),
    "asyncssh 2.24": _client(Driven, driver="asyncssh_driver.py"),
    "fsspec's sshfs 2026.8": _client(
        Driven,
        driver="fsspec_driver.py",
        packages="fsspec-sshfs",
        links="{}",
        fails={"copy": "get() fails on folders"},
    ),
    "curl 7.88, libssh2 1.10": _client(Curl, suite="bookworm"),
    "curl 8.14, libssh2 1.11": _client(Curl, suite="trixie"),
    "lftp 4.9": Lftp,
    "psftp 0.78": Psftp,
    "ssh2-sftp-client 12.1": _client(Driven, driver="ssh2_driver.mjs", packages="npm", links="{}"),
    "gvfs 1.50": Gvfs,
}
