"""SFTP spoken by hand through `ssh -s sftp`, for what no client does: to ask and never to read."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable
from struct import pack

# draft-ietf-secsh-filexfer-02 §3
_INIT, _OPEN, _CLOSE, _READ, _LSTAT, _OPENDIR = 1, 3, 4, 5, 7, 11
_VERSION, _STATUS, _HANDLE, _DATA, _ATTRS = 2, 101, 102, 103, 105

#: What one READ asks for at most: a client of OpenSSH's name gets no more in one answer.
LONGEST_READ = 255 * 1024


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
        return self._ask(_packet(_OPEN, 1, _string(path), pack(">II", 1, 0)), _HANDLE)[8:]

    def read(self, handle: bytes, offset: int, length: int) -> None:
        """Wait for bytes of an open file."""
        self._ask(_packet(_READ, 1, _string(handle), pack(">QI", offset, length)), _DATA)

    def close(self, handle: bytes) -> None:
        """Close a file or folder."""
        self._ask(_packet(_CLOSE, 1, _string(handle)), _STATUS)

    def lstat(self, path: bytes) -> None:
        """Wait for the attributes of `path`."""
        self._ask(_packet(_LSTAT, 1, _string(path)), _ATTRS)

    def open_folder(self, path: bytes) -> None:
        """Open a folder, and close it again."""
        self.close(self._ask(_packet(_OPENDIR, 1, _string(path)), _HANDLE)[8:])

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
        self._stdin.write(packet)
        self._stdin.flush()
        body = self.take(int.from_bytes(self.take(4), "big"))
        if body[0] != expected:
            raise RuntimeError(f"an answer of type {body[0]}, and not {expected}")
        return body[1:]

    def take(self, length: int) -> bytes:
        """Wait for so many bytes of answers; raises RuntimeError if the session ends before."""
        taken = self._stdout.read(length)
        if len(taken) < length:
            raise RuntimeError("the session ended")
        return taken


class SilentReader:
    """Asks for `total` bytes of a file in READs of `length`, and takes no answer to any of them."""

    def __init__(self, session: RawSftp, path: bytes, *, length: int, total: int) -> None:
        handle = _string(session.open(path))
        self._unsent = b"".join(
            _packet(_READ, number, handle, pack(">QI", 0, length))
            for number in range(-(-total // length))
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


def _packet(kind: int, number: int, *body: bytes) -> bytes:
    """§3: a length, a type, and for all but INIT the request's id; INIT has the version there."""
    return _string(pack(">BI", kind, number) + b"".join(body))


def _string(value: bytes) -> bytes:
    return pack(">I", len(value)) + value
