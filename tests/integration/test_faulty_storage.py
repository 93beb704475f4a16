"""With failing storage below a share, no client reports success with wrong or missing bytes."""

from __future__ import annotations

import functools
import os
import re
import shutil
import signal
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

pytestmark = [
    pytest.mark.integration,
    # paramiko's prefetch thread does not expect to lose its connection.
    pytest.mark.filterwarnings(r"ignore:Exception in thread Thread-\d+ \(_prefetch_thread\)"),
]

CONTENT: Final = bytes(number * 7 % 251 for number in range(600 * 1024))

#: Versions of sshfs in tests.support.clients.
SSHFS: Final = ("3.7.3", "3.7.3 on FUSE 3.17")

#: Offset of the failure: within a READ, in the second half.
BAD: Final = 500 * 1024 + 100

#: Seconds that the gateway waits for the storage.
DISK_TIMEOUT: Final = 2

#: Faults, and whether the file can be read in spite of them.
FAULTS: Final = {
    "EIO": False,
    "ENOTCONN": False,
    "ESTALE": False,
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
#: It does not check for errors of close(2).
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
    """A reader's exit status and the bytes it got."""

    succeeded: bool
    content: bytes
    message: str

    def has(self, content: bytes) -> bool:
        """Whether it got `content`; a plain comparison would make pytest print all bytes."""
        return self.content == content

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
    """A client that reads its own file of the share."""

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
    """A program that reads the file through its own mount."""

    def __init__(
        self, reader: str, sshfs: str, gateway: Gateway, folder: Path, *options: str
    ) -> None:
        name = "-".join((reader, sshfs, *options))
        super().__init__(name, gateway, folder)
        self._reader, self._sshfs, self._options = reader, sshfs, options
        self._mount = folder / f"{name}.mnt"

    @contextmanager
    def connected(self) -> Iterator[Callable[[], Outcome]]:
        options = ("ro", *self._options)  # as the worker kit mounts
        sshfs = sshfs_versions()[self._sshfs]
        with self.gateway.mounted(self._mount, "/home/gvpocr", *options, sshfs=sshfs) as mount:
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
    """A gateway with a share on a faulty file system, and the clients' outcomes."""

    def __init__(self, gateway: Gateway, disk: FaultyFileSystem, folder: Path) -> None:
        self.gateway = gateway
        self.disk = disk
        self._clients = _clients(gateway, folder)
        self.restore()

    def restore(self) -> None:
        """Restore all files and remove the fault."""
        self.disk.heal()
        fill(self.disk.behind, dict.fromkeys([client.name for client in self._clients], CONTENT))

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
                wait_for(lambda: self.disk.hangs, "reads that hang")
                self.disk.heal()
            both = [attempt.result() for attempt in attempts]
            self.restore()
            last = pool.map(lambda read: read(), reads)
            return {
                client.name: (*first, then)
                for client, first, then in zip(self._clients, both, last, strict=True)
            }

    def _begin(self, fault: str) -> None:
        word = fault.partition(" ")[0]
        self.disk.fail(word, offset=BAD, times=50 if fault == "EINTR" else -1)


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
            f'[shares.bad]\npath = "{folder}/bad"\n'
            f'[shares.reported]\npath = "{folder}/bad"\nread_errors = "status"\n',
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
def test_no_client_reports_success_with_wrong_or_missing_bytes(
    storage: Storage, fault: str, name: str
) -> None:
    first, second, last = storage.outcomes(fault)[name]
    assert first.succeeded == FAULTS[fault], first
    assert not first.succeeded or first.has(CONTENT), first
    if fault != "shrink":  # then the file is another, whose old size the mount caches for a while
        assert not second.succeeded or second.has(CONTENT), second
        assert not last.succeeded or last.has(CONTENT), last


@pytest.mark.parametrize("name", [name for name in NAMES if "-" not in name or "reconnect" in name])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_retry_is_identical_once_the_storage_recovers(
    storage: Storage, fault: str, name: str
) -> None:
    *_, last = storage.outcomes(fault)[name]
    assert last.succeeded, last


def test_the_log_names_the_failed_file_offset_and_error(storage: Storage) -> None:
    storage.outcomes("EIO")
    gateway = storage.gateway
    for name, effect in (("cp-3.7.3-reconnect", "disconnect"), ("rclone", "status")):
        path = f"/home/gvpocr/bad/{name}"
        lines = gateway.events("read_failed", path=path, share="bad", error="EIO", effect=effect)
        assert any(line["offset"] <= BAD < line["offset"] + line["length"] for line in lines)
    gateway.wait_event("session_end", reason="read_failed")
    ends = gateway.events("session_end", reason="read_failed")
    assert all("OpenSSH" in end["client_version"] for end in ends)
    assert (
        gateway.metric(
            "sftp_gateway_requests_total", share="bad", operation="read", result="failure"
        )
        > 0
    )


def test_openssh_clients_print_why_they_are_disconnected(storage: Storage) -> None:
    for name in ("sftp", "scp"):
        first, *_ = storage.outcomes("EIO")[name]
        assert "sftp-gateway: a read failed (Input/output error); disconnecting" in first.message


def test_read_errors_as_statuses_keep_the_session(storage: Storage) -> None:
    storage.restore()
    storage.disk.fail("EIO", offset=BAD)
    got = storage.gateway.sftp("-get reported/sftp /dev/null", "ls reported/sftp")
    storage.restore()
    assert b'read remote "/home/gvpocr/reported/sftp" : Failure' in got.stderr
    assert b"reported/sftp" in got.stdout
    assert got.returncode == 0


# Killed workers


@pytest.mark.parametrize("sshfs", SSHFS)
def test_a_file_cut_short_by_a_killed_worker_is_complete_on_retry(
    storage: Storage, tmp_path: Path, sshfs: str
) -> None:
    """The worker's kernel sees the truncated size until its attribute cache expires."""
    gateway = storage.gateway
    storage.restore()
    with gateway.mounted(
        tmp_path / "mnt", "/home/gvpocr", "reconnect", "ro", sshfs=sshfs_versions()[sshfs]
    ) as mount:
        file = mount / "bad/sftp"
        worker = _serving(gateway.port)
        storage.disk.fail("hang", offset=BAD)
        reading = subprocess.Popen(["cp", str(file), str(tmp_path / "first")])
        wait_for(lambda: storage.disk.hangs, "a read that hangs")
        os.kill(worker, signal.SIGKILL)  # there is another, so the mount could be back at once
        storage.disk.heal()
        assert reading.wait(60) != 0
        second = _run("cp", str(file), str(tmp_path / "second"), target=tmp_path / "second")
        assert second.succeeded, second
        assert second.has(CONTENT), second


def _serving(port: int) -> int:
    """The process that serves the port's only client."""
    command = ["ss", "-tnpH", "state", "established", f"sport = :{port}"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    (pid,) = set(re.findall(r"pid=(\d+)", listed))
    return int(pid)


# Folders


@pytest.fixture
def folder(storage: Storage) -> Iterator[set[str]]:
    """The names in `bad/folder`, whose listing fails near its end."""
    storage.restore()
    names = {f"{number:04}" for number in range(2000)}
    fill(storage.disk.behind / "folder", dict.fromkeys(names, b"x"))
    storage.disk.fail("EIO", offset=1 << 62, names=[".."])
    yield names
    storage.restore()
    shutil.rmtree(storage.disk.behind / "folder")


@pytest.mark.parametrize("sshfs", SSHFS)
def test_a_listing_that_fails_midway_fails_on_a_mount(
    storage: Storage, folder: set[str], tmp_path: Path, sshfs: str
) -> None:
    with storage.gateway.mounted(
        tmp_path / "mnt", "/home/gvpocr", "reconnect", sshfs=sshfs_versions()[sshfs]
    ) as mount:
        for command in (["ls"], ["find"], ["rsync", "-n", "-r"]):
            done = subprocess.run([*command, str(mount / "bad/folder")], capture_output=True)
            assert done.returncode != 0, command
        storage.disk.heal()
        assert set(os.listdir(mount / "bad/folder")) == folder


def test_a_listing_that_fails_midway_fails_in_other_clients(
    storage: Storage, folder: set[str], tmp_path: Path
) -> None:
    gateway = storage.gateway
    assert gateway.sftp("ls bad/folder").returncode != 0
    assert gateway.sftp(f"get -r bad/folder {tmp_path}").returncode != 0
    listed = subprocess.run(
        [
            "rclone", "--config=", "--retries=1", "--low-level-retries=1", "lsf",
            f":sftp,host=127.0.0.1,port={gateway.port},user=gvpocr,key_file={gateway.key}:"
            "/home/gvpocr/bad/folder",
        ],
        capture_output=True,
    )  # fmt: skip
    assert listed.returncode != 0
    with paramiko.Transport(("127.0.0.1", gateway.port)) as transport:
        key = paramiko.Ed25519Key.from_private_key_file(str(gateway.key))
        transport.connect(username="gvpocr", pkey=key)
        client = paramiko.SFTPClient.from_transport(transport)
        assert client is not None
        with pytest.raises(OSError, match="Input/output error"):
            client.listdir("bad/folder")
        storage.disk.heal()
        assert set(client.listdir("bad/folder")) == folder


@pytest.mark.parametrize("sshfs", SSHFS)
def test_a_file_whose_stat_failed_in_a_listing_is_not_read_as_empty(
    storage: Storage, tmp_path: Path, sshfs: str
) -> None:
    storage.restore()
    with storage.gateway.mounted(
        tmp_path / "mnt", "/home/gvpocr", "reconnect", sshfs=sshfs_versions()[sshfs]
    ) as mount:
        storage.disk.fail("EIO", offset=1 << 62, names=["scp"])
        assert {"scp", "sftp"} <= set(os.listdir(mount / "bad"))
        storage.disk.heal()
        assert (mount / "bad/scp").read_bytes() == CONTENT
