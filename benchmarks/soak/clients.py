"""The clients of a soak: each does one thing once, and is called over and over."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import struct
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.bed import Bed, make_key
from benchmarks.endurance import MIB, opened, what_is_wrong
from benchmarks.pattern import Pattern, places
from benchmarks.raw_sftp import LONGEST_READ, RawSftp, SilentReader
from benchmarks.soak.ledger import STALL, ClientError, Ledger, WrongBytesError

#: Random reads of a file before it is closed again, and the most that one asks for.
_READS = 64
_LONGEST = MIB

#: What a client asks for that is killed when it has got a little of it.
_UNREAD, _TAKEN = 64 * MIB, MIB

#: Loopback addresses: two that are not exempt from penalties, and one that is.
_STRANGER, _SCANNER, _EXEMPT = "127.0.0.9", "127.0.0.8", "127.0.0.1"

#: Seconds in which the gateway takes a change of keys over.
_TAKEN_OVER = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """What is served: big files at the top, small ones in `small`, empty ones in `tree`."""

    root: Path
    big: Pattern
    small: Pattern
    folders: int = 20
    files_per_folder: int = 50

    @property
    def entries(self) -> int:
        """What a walk of the tree finds below its root."""
        return self.folders * (1 + self.files_per_folder)

    def build(self) -> None:
        """Make all of it."""
        (self.root / "small").mkdir(parents=True)
        self.big.write(self.root)
        self.small.write(self.root / "small")
        for folder in range(self.folders):
            at = self.root / f"tree/{folder:03}"
            at.mkdir(parents=True)
            for file in range(self.files_per_folder):
                (at / f"{file:03}").touch()


class Clients:
    """Clients of the gateway of `bed`; `mounts` are where its data is mounted."""

    def __init__(
        self, *, bed: Bed, data: Data, ledger: Ledger, reads: Path, files: Path, folder: Path
    ) -> None:
        """`reads` and `files` are mounts of the data; `folder` is made, for keys and copies."""
        folder.mkdir()
        self._bed, self._data, self._ledger = bed, data, ledger
        self._reads, self._files, self._folder = reads, files, folder
        self._noise = random.Random(0)
        self._strange_key = make_key(folder / "strange_key")
        self._second_key = make_key(folder / "second_key")

    def all(self) -> list[tuple[str, Callable[[], None], float]]:
        """Each client's name, what it does, and the seconds that it then waits."""
        return [
            ("random reads of one file", self.read_at_random, 0.0),
            ("random reads of one file", self.read_at_random, 0.05),
            ("small files", self.read_small_files, 0.2),
            ("walks", self.walk, 1.0),
            ("sftp get", self.get, 1.0),
            ("refused logins", self.fail_to_log_in, 5.0),
            ("aborted connections", self.abort_connections, 2.0),
            ("killed readers", self.be_killed_while_reading, 3.0),
            ("changes of authorized_keys", self.change_keys, 10.0),
        ]

    def read_at_random(self) -> None:
        """Open a big file through the mount, and verify reads at random places of it."""
        big = self._data.big
        file = self._noise.randrange(len(big.names))
        wanted = places(self._noise, size=big.size, longest=_LONGEST)
        with opened(self._reads / big.names[file]) as descriptor:
            for _, (offset, length) in zip(range(_READS), wanted, strict=False):
                self._verify(descriptor, big, file, offset, length)
                if self._ledger.stopping.is_set():
                    return

    def read_small_files(self) -> None:
        """Verify all small files through the mount, each opened and closed."""
        small = self._data.small
        for file, name in enumerate(small.names):
            with opened(self._files / "small" / name) as descriptor:
                self._verify(descriptor, small, file, 0, small.size)

    def _verify(self, descriptor: int, pattern: Pattern, file: int, at: int, length: int) -> None:
        if wrong := what_is_wrong(descriptor, pattern, file, at, length):
            raise WrongBytesError(wrong)
        self._ledger.right(length)

    def walk(self) -> None:
        """`find` over the tree through the mount sees every entry, with its attributes."""
        command = ["find", str(self._files / "tree"), "-mindepth", "1", "-printf", "%s %m\\n"]
        with self._ledger.program(subprocess.Popen(command, stdout=subprocess.PIPE)) as find:
            lines, _ = find.communicate()
            if find.returncode:
                raise ClientError(f"find ended with {find.returncode}")
        if (seen := lines.count(b"\n")) != self._data.entries:
            raise ClientError(f"{seen} entries of {self._data.entries}")

    def get(self) -> None:
        """`sftp` gets a big file, which is compared."""
        file = self._noise.randrange(len(self._data.big.names))
        name, copy = self._data.big.names[file], self._folder / "copy"
        copy.unlink(missing_ok=True)
        command = f"get {os.fsdecode(self._bed.remote(name))} {copy}"
        with self._ledger.program(self._bed.sftp(command)) as sftp:
            if status := sftp.wait():
                raise ClientError(f"sftp ended with {status}")
        with opened(copy) as descriptor:
            self._verify(descriptor, self._data.big, file, 0, self._data.big.size)

    def fail_to_log_in(self) -> None:
        """A key that nobody knows, of an address that may be banned: it is refused either way."""
        ssh = self._bed.ssh_sftp(IdentityFile=str(self._strange_key), BindAddress=_STRANGER)
        with self._ledger.program(ssh):
            ssh.communicate()
        if ssh.returncode == 0:
            raise ClientError("a key that nobody knows was let in")

    def abort_connections(self) -> None:
        """Reset connections: at once, after the banner, and in the middle of a packet."""
        for source in (_SCANNER, _EXEMPT):
            for said in (None, b"", b"SSH-2.0-soak\r\n\x00\x00\x02\x00\x04\x14"):
                with contextlib.suppress(ConnectionError):  # as soon as the source is banned
                    self._abort(source, said)

    def _abort(self, source: str, said: bytes | None) -> None:
        with socket.create_connection(
            ("127.0.0.1", self._bed.port), timeout=STALL, source_address=(source, 0)
        ) as scanner:
            scanner.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            if said is not None:
                scanner.recv(256)
                scanner.sendall(said)

    def be_killed_while_reading(self) -> None:
        """A client asks for much, takes a little of it, and is gone without a word."""
        with self._ledger.program(self._bed.ssh_sftp()) as ssh:
            session = RawSftp(ssh)
            name = self._bed.remote(self._data.big.names[0])
            SilentReader(session, name, length=LONGEST_READ, total=_UNREAD).ask()
            session.take(_TAKEN)

    def change_keys(self) -> None:
        """A key that is added is let in; once it is taken away its session ends, and it is refused.

        The session of before is that of a client that looks at a file now and then.
        """
        keys = self._bed.authorized_keys
        before = keys.read_text()
        second = Path(f"{self._second_key}.pub").read_text()
        try:
            self._write_keys(before + second)
            self._wait(self._second_is_let_in, "a new key is not let in")
            with self._ledger.program(self._second()) as ssh:
                session = RawSftp(ssh)
                self._write_keys(before)
                self._wait(lambda: not self._answers(session), "a removed key keeps its session")
            self._wait(lambda: not self._second_is_let_in(), "a removed key is let in")
        finally:
            if keys.read_text() != before:
                self._write_keys(before)

    def _write_keys(self, text: str) -> None:
        """As editors do it: whoever reads the file sees all of the one or all of the other."""
        new = self._folder / "authorized_keys"
        new.write_text(text)
        new.replace(self._bed.authorized_keys)

    def _second(self) -> subprocess.Popen[bytes]:
        return self._bed.ssh_sftp(IdentityFile=str(self._second_key))

    def _second_is_let_in(self) -> bool:
        with self._ledger.program(self._second()) as ssh:
            try:
                RawSftp(ssh)
            except (RuntimeError, OSError):
                return False
            return True

    def _answers(self, session: RawSftp) -> bool:
        try:
            session.lstat(self._bed.remote(self._data.big.names[0]))
        except (RuntimeError, OSError):
            return False
        return True

    def _wait(self, look: Callable[[], bool], otherwise: str) -> None:
        deadline = self._ledger.clock() + _TAKEN_OVER
        while not look():
            if self._ledger.stopping.wait(0.25) or self._ledger.clock() > deadline:
                raise ClientError(otherwise)
