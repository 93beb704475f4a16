"""Storage that fails below a share: no client ends with success and wrong or missing bytes."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import paramiko
import pytest

from tests.support.clients import sshfs_versions
from tests.support.faulty_filesystem import FaultyFileSystem, faulty_filesystem
from tests.support.gateway import Gateway, fill, running, wait_for

pytestmark = pytest.mark.integration

CONTENT: Final = bytes(number * 7 % 251 for number in range(600 * 1024))

#: The versions of sshfs, as tests.support.clients has them.
SSHFS: Final = ("3.7.3", "3.7.3 on FUSE 3.17")

#: Where the storage fails: within a READ, in the second half.
BAD: Final = 500 * 1024 + 100

#: Seconds for which the gateway waits for the storage.
DISK_TIMEOUT: Final = 2

#: What the storage does, and whether the file can be read all the same.
FAULTS: Final = {
    "EIO": False,
    "ENOTCONN": False,
    "ESTALE": False,
    "ENODATA": False,
    "hang": False,
    "shrink": False,
    "EINTR": True,
    "short": True,
    "hang and come back": True,
}

_PYTHON = (
    "import pathlib, sys; source, target = map(pathlib.Path, sys.argv[1:]);"
    "target.write_bytes(source.read_bytes())"
)
#: It is told of no error of close(2).
_UNCLOSED = "import sys; data = open(sys.argv[1], 'rb').read(); open(sys.argv[2], 'wb').write(data)"
_MMAP = (
    "import mmap, os, sys; file = os.open(sys.argv[1], os.O_RDONLY);"
    "data = bytes(mmap.mmap(file, 0, prot=mmap.PROT_READ)); open(sys.argv[2], 'wb').write(data)"
)

#: Programs that read a file of a mount and write it elsewhere.
READERS: Final[dict[str, tuple[str, ...]]] = {
    "cp": ("cp",),
    "cat": ("sh", "-c", 'cat "$0" >"$1"'),
    "read": (sys.executable, "-c", _PYTHON),
    "unclosed": (sys.executable, "-c", _UNCLOSED),
    "mmap": (sys.executable, "-c", _MMAP),
    "rsync": ("rsync", "--inplace"),
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a reader ended, and what it got."""

    succeeded: bool
    content: bytes
    message: str

    def has(self, *contents: bytes) -> bool:
        """Whether it got one of these. (pytest would show all bytes of a comparison.)"""
        return self.content in contents

    def __repr__(self) -> str:
        verb = "succeeded" if self.succeeded else "failed"
        return f"{verb} with {len(self.content)} bytes: {self.message}"


def _run(*command: str, target: Path) -> Outcome:
    target.unlink(missing_ok=True)
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False
    )
    content = target.read_bytes() if target.exists() else b""
    return Outcome(done.returncode == 0, content, f"status {done.returncode}, {done.stderr[-300:]}")


class Client:
    """A client of the gateway that reads one file of the share, which is its own."""

    def __init__(self, name: str, gateway: Gateway, folder: Path) -> None:
        self.name = name
        self.gateway = gateway
        self.target = folder / f"{name}.out"

    @contextmanager
    def connected(self) -> Iterator[Callable[[], Outcome]]:
        """A function that reads the file."""
        remote = f"/home/gvpocr/bad/{self.name}"
        server, port = "gvpocr@127.0.0.1", str(self.gateway.port)
        options = self.gateway.ssh_options()
        match self.name:
            case "sftp":
                command = ["sftp", *options, "-P", port, f"{server}:{remote}", str(self.target)]
            case "scp":
                command = ["scp", *options, "-P", port, f"{server}:{remote}", str(self.target)]
            case "rclone":
                source = (
                    f":sftp,host=127.0.0.1,port={port},user=gvpocr,"
                    f"key_file={self.gateway.key}:{remote}"
                )
                command = [
                    "rclone", "--config=", "--retries=1", "--low-level-retries=1", "copyto",
                    source, str(self.target),
                ]  # fmt: skip
            case _:
                yield self._paramiko
                return
        yield functools.partial(_run, *command, target=self.target)

    def _paramiko(self) -> Outcome:
        self.target.unlink(missing_ok=True)
        with paramiko.Transport(("127.0.0.1", self.gateway.port)) as transport:
            transport.connect(
                username="gvpocr", pkey=paramiko.Ed25519Key.from_private_key_file(self.gateway.key)
            )
            sftp = paramiko.SFTPClient.from_transport(transport)
            assert sftp is not None
            try:
                sftp.get(f"bad/{self.name}", str(self.target))
            except OSError as error:
                return Outcome(False, self.target.read_bytes(), str(error))
            return Outcome(True, self.target.read_bytes(), "")


class MountClient(Client):
    """A program that reads the file through a mount of its own."""

    def __init__(
        self, reader: str, sshfs: str, gateway: Gateway, folder: Path, *options: str
    ) -> None:
        name = "-".join((reader, sshfs, *options))
        super().__init__(name, gateway, folder)
        self._reader, self._sshfs, self._options = reader, sshfs, options
        self._mount = folder / f"{name}.mnt"

    @contextmanager
    def connected(self) -> Iterator[Callable[[], Outcome]]:
        sshfs = sshfs_versions()[self._sshfs]
        with self.gateway.mounted(
            self._mount, "/home/gvpocr", *self._options, sshfs=sshfs
        ) as mount:
            command = [*READERS[self._reader], str(mount / "bad" / self.name), str(self.target)]
            yield functools.partial(_run, *command, target=self.target)


def _clients(gateway: Gateway, folder: Path) -> list[Client]:
    return [
        *(Client(name, gateway, folder) for name in ("sftp", "scp", "rclone", "paramiko")),
        *(
            MountClient(reader, sshfs, gateway, folder, *options)
            for reader in READERS
            for sshfs in SSHFS
            for options in (("reconnect",), ())
        ),
    ]


NAMES: Final = [
    "sftp", "scp", "rclone", "paramiko",
    *(f"{reader}-{sshfs}{more}" for reader in READERS for sshfs in SSHFS
      for more in ("-reconnect", "")),
]  # fmt: skip


class Storage:
    """A gateway with a share on a faulty file system, and what clients got from it."""

    def __init__(self, gateway: Gateway, disk: FaultyFileSystem, folder: Path) -> None:
        self.gateway = gateway
        self._disk = disk
        self._clients = _clients(gateway, folder)
        self.restore()

    def restore(self) -> None:
        """Have all files whole, and no fault."""
        self._disk.heal()
        fill(self._disk.behind, dict.fromkeys([client.name for client in self._clients], CONTENT))

    @functools.cache  # noqa: B019 - as many as there are faults
    def outcomes(self, fault: str) -> Mapping[str, Sequence[Outcome]]:
        """What each client got in two attempts, one right after the other, with the fault, and in
        one without it.
        """
        self.restore()
        with ExitStack() as stack, ThreadPoolExecutor(len(self._clients)) as pool:
            contexts = [client.connected() for client in self._clients]
            reads = list(pool.map(stack.enter_context, contexts))
            self._begin(fault)
            attempts = [pool.submit(_twice, read) for read in reads]
            if fault == "hang and come back":
                wait_for(self._some_hang, "reads that hang")
                self._disk.heal()
            both = [attempt.result() for attempt in attempts]
            self.restore()
            last = pool.map(lambda read: read(), reads)
            return {
                client.name: (*first, then)
                for client, first, then in zip(self._clients, both, last, strict=True)
            }

    def _begin(self, fault: str) -> None:
        word = fault.partition(" ")[0]
        self._disk.fail(word, offset=BAD, times=50 if fault == "EINTR" else -1)

    def _some_hang(self) -> bool:
        return self.gateway.metric("sftp_gateway_slow_lane_depth", share="bad", lane="read") > 0


def _twice(read: Callable[[], Outcome]) -> tuple[Outcome, Outcome]:
    return read(), read()


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Storage]:
    folder = tmp_path_factory.mktemp("storage")
    (folder / "behind").mkdir()
    (folder / "gateway").mkdir()
    (folder / "clients").mkdir()
    with (
        faulty_filesystem(folder / "behind", folder / "bad", folder / "control") as disk,
        running(
            folder / "gateway",
            f'[shares.bad]\npath = "{folder}/bad"\n',
            SFTP_GATEWAY_DISK_TIMEOUT=str(DISK_TIMEOUT),
            SFTP_GATEWAY_PENALTIES__ENABLED="false",
            SFTP_GATEWAY_MAX_STARTUPS="100:30:100",
            SFTP_GATEWAY_MAX_STARTUPS_PER_SOURCE="100",
        ) as gateway,
    ):
        yield Storage(gateway, disk, folder / "clients")


@pytest.mark.parametrize(
    ("fault", "name"),
    [
        (fault, name)
        for fault in FAULTS
        for name in NAMES
        # Where the first read(2) of a file hangs, only close(2) fails.
        if not (fault == "hang" and name.startswith("unclosed"))
    ],
)
def test_no_client_ends_with_success_and_wrong_or_missing_bytes(
    storage: Storage, fault: str, name: str
) -> None:
    first, second, last = storage.outcomes(fault)[name]
    assert first.succeeded == FAULTS[fault], first
    assert not first.succeeded or first.has(CONTENT), first
    right = [CONTENT, CONTENT[:BAD]] if fault == "shrink" else [CONTENT]
    assert not second.succeeded or second.has(*right), second
    # Of a file that grows, sshfs and the kernel show the size in their caches for a while.
    assert not last.succeeded or last.has(*right), last


@pytest.mark.parametrize("name", [name for name in NAMES if "-" not in name or "reconnect" in name])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_repeat_is_identical_once_the_storage_is_well(
    storage: Storage, fault: str, name: str
) -> None:
    *_, last = storage.outcomes(fault)[name]
    assert last.succeeded, last
