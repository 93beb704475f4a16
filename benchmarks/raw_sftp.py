"""SFTP spoken by hand through `ssh -s sftp`, for what clients do not do alone: one kind of request,
or requests whose answers are never read."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable
from struct import pack

# draft-ietf-secsh-filexfer-02 §3
_INIT, _OPEN, _CLOSE, _READ, _LSTAT, _OPENDIR, _READDIR = 1, 3, 4, 5, 7, 11, 12
_VERSION, _STATUS, _HANDLE, _DATA, _NAME, _ATTRS = 2, 101, 102, 103, 104, 105

#: What one READ asks for at most: a client of OpenSSH's name gets no more in one answer.
LONGEST_READ = 255 * 1024

#: Bytes that sshfs asks for with each READ, by default.
_SSHFS_READ = 32_768


class RawSftp:
    """A session that has begun, of an `ssh` whose standard input and output are pipes."""

    def __init__(self, ssh: subprocess.Popen[bytes]) -> None:
        """Raises RuntimeError if the session ends before its VERSION."""
        if ssh.stdin is None or ssh.stdout is None:
            raise AssertionError("both are pipes")
        self._ssh, self._stdin, self._stdout = ssh, ssh.stdin, ssh.stdout
        self._ask(_packet(_INIT, 3), _VERSION)

    def open(self, path: bytes) -> bytes:
        """The handle of a file."""
        return self._ask(_open(path), _HANDLE)[8:]

    def read(self, handle: bytes, offset: int, length: int) -> None:
        """Wait for bytes of an open file."""
        self._ask(_read(handle, offset, length), _DATA)

    def close(self, handle: bytes) -> None:
        """Close a file or folder."""
        self._ask(_packet(_CLOSE, 1, _string(handle)), _STATUS)

    def lstat(self, path: bytes) -> None:
        """Wait for the attributes of `path`."""
        self._ask(_lstat(path), _ATTRS)

    def open_folder(self, path: bytes) -> None:
        """Open a folder, and close it again."""
        self.close(self._opendir(path))

    def read_folder(self, path: bytes) -> int:
        """Open, list and close a folder; the number of its entries."""
        handle = self._opendir(path)
        entries = 0
        while True:
            self._send(_packet(_READDIR, 1, _string(handle)))
            kind, body = self._answer()
            if kind != _NAME:
                break
            entries += int.from_bytes(body[4:8], "big")
        self.close(handle)
        return entries

    def _opendir(self, path: bytes) -> bytes:
        return self._ask(_packet(_OPENDIR, 1, _string(path)), _HANDLE)[8:]

    def read_file(self, path: bytes, size: int) -> None:
        """Look up, open, read and close a file of `size` bytes with the requests of sshfs.

        Raises RuntimeError if not all of it comes.
        """
        self.lstat(path)
        self._send(_open(path), _lstat(path))
        answers = dict(self._answer() for _ in range(2))  # they may overtake each other (§6.1)
        if _HANDLE not in answers:
            raise RuntimeError("a file cannot be opened")
        handle = answers[_HANDLE][8:]
        reads = [
            _read(handle, offset, min(_SSHFS_READ, size - offset))
            for offset in range(0, size, _SSHFS_READ)
        ]
        self._send(*reads)
        received = sum(len(self._answer(_DATA)[1]) - 8 for _ in reads)
        if received != size:
            raise RuntimeError(f"{received} bytes instead of {size}")
        self.close(handle)

    @property
    def descriptor(self) -> int:
        """Where requests are written; it does not block from now on."""
        os.set_blocking(self._stdin.fileno(), False)
        return self._stdin.fileno()

    def end(self) -> None:
        """End `ssh`, whatever it is doing."""
        self._ssh.kill()
        self._ssh.wait()
        self._stdin.close()
        self._stdout.close()

    def _ask(self, packet: bytes, expected: int) -> bytes:
        """Send one request; what its answer has behind the type: the id, and more."""
        self._send(packet)
        return self._answer(expected)[1]

    def _send(self, *packets: bytes) -> None:
        self._stdin.write(b"".join(packets))
        self._stdin.flush()

    def _answer(self, expected: int | None = None) -> tuple[int, bytes]:
        """Wait for one answer: its type, and what is behind it. Raises RuntimeError if the type is
        not the one that is expected."""
        body = self.take(int.from_bytes(self.take(4), "big"))
        if expected not in (None, body[0]):
            raise RuntimeError(f"an answer of type {body[0]}, and not {expected}")
        return body[0], body[1:]

    def take(self, length: int) -> bytes:
        """Wait for so many bytes of answers; raises RuntimeError if the session ends before."""
        taken = b""
        while len(taken) < length:  # the pipe may be unbuffered
            if not (received := self._stdout.read(length - len(taken))):
                raise RuntimeError("the session ended")
            taken += received
        return taken


class SilentReader:
    """Asks for `total` bytes of a file in READs of `length`, and takes no answer to any of them."""

    def __init__(self, session: RawSftp, path: bytes, *, length: int, total: int) -> None:
        handle = session.open(path)
        self._unsent = b"".join(
            _read(handle, 0, length, number) for number in range(-(-total // length))
        )
        self._descriptor = session.descriptor

    def ask(self) -> bool:
        """Send what `ssh` takes now; whether it took anything."""
        sent = 0
        try:
            while sent < len(self._unsent):
                sent += os.write(self._descriptor, self._unsent[sent : sent + 65536])
        except BlockingIOError:
            pass  # the server's window is closed, and so ssh takes no more
        self._unsent = self._unsent[sent:]
        return sent > 0


def silence(readers: Iterable[SilentReader]) -> bool:
    """Let all ask; whether any could."""
    asked = [reader.ask() for reader in readers]
    return any(asked)


def _open(path: bytes) -> bytes:
    return _packet(_OPEN, 1, _string(path), pack(">II", 1, 0))


def _lstat(path: bytes) -> bytes:
    return _packet(_LSTAT, 1, _string(path))


def _read(handle: bytes, offset: int, length: int, number: int = 1) -> bytes:
    return _packet(_READ, number, _string(handle), pack(">QI", offset, length))


def _packet(kind: int, number: int, *body: bytes) -> bytes:
    """§3: a length, a type, and for all but INIT the request's id; INIT has the version there."""
    return _string(pack(">BI", kind, number) + b"".join(body))


def _string(value: bytes) -> bytes:
    return pack(">I", len(value)) + value
