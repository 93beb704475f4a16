"""What a GB costs at least on this machine: to be read, encrypted and sent, and nothing else.

The parts are those of one READ after another in one Python process with the libraries that the
gateway uses, without SSH, SFTP, and an event loop. Their sum is what a server that is all overhead
free would need; processor time, user and system, in seconds for 10^9 bytes.
"""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

#: What a stock client asks for with one READ, and what is sealed as one packet.
_READ = 32_768
_TAG = 16

#: Bytes of one send: what the gateway has together after one turn of its event loop, roughly.
_SEND = 8 * _READ

_GB = 1e9

#: Reads what comes, and does nothing with it.
_DRAIN = """\
import socket, sys
connection = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
buffer = bytearray(1 << 20)
while connection.recv_into(buffer):
    pass
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """Seconds of processor time for a GB."""

    encrypt: float
    read: float
    send: float

    @property
    def total(self) -> float:
        """What all of it comes to."""
        return self.encrypt + self.read + self.send


def measure(file: Path, *, rounds: int = 5) -> Limit:
    """Medians over `rounds`, with a file that is in the page cache; each handles all of it."""
    parts = {"encrypt": _encrypt, "read": _read, "send": _send}
    found: dict[str, list[float]] = {name: [] for name in parts}
    for _ in range(rounds):
        for name, part in parts.items():
            found[name].append(part(file) / (file.stat().st_size / _GB))
    return Limit(**{name: median(values) for name, values in found.items()})


def _encrypt(file: Path) -> float:
    cipher = AESGCM(bytes(16))
    plain, sealed = bytearray(_READ), bytearray(_READ + _TAG)
    packets = file.stat().st_size // _READ
    with _spent() as spent:
        for number in range(packets):
            cipher.encrypt_into(number.to_bytes(12, "big"), plain, None, sealed)
        return spent()


def _read(file: Path) -> float:
    buffer = [bytearray(_READ)]
    with open(file, "rb", buffering=0) as source, _spent() as spent:
        descriptor, offset = source.fileno(), 0
        while got := os.preadv(descriptor, buffer, offset):
            offset += got
        return spent()


def _send(file: Path) -> float:
    block = bytes(_SEND)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
        reader = subprocess.Popen([sys.executable, "-c", _DRAIN, port])
        connection, _ = listener.accept()
        with connection, _spent() as spent:
            for _ in range(file.stat().st_size // _SEND):
                connection.sendall(block)
            seconds = spent()
        reader.wait()
    return seconds


@contextmanager
def _spent() -> Iterator[Callable[[], float]]:
    """Gives a function that tells this process's processor time since."""

    def now() -> float:
        used = resource.getrusage(resource.RUSAGE_SELF)
        return used.ru_utime + used.ru_stime

    started = now()
    yield lambda: now() - started
