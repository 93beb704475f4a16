"""What one key can do to the access log, and whether another user's lines survive it.

    python -m benchmarks.log_flood [SECONDS]     # of each flood; 60

A gateway with the defaults of docker-compose.yml: the log's file is rotated at 100 MiB. The
attacker sends requests over some connections as fast as stock `ssh` carries them, without waiting
for answers; another user reads files with stock `sftp` all the while. Behind each flood, every line
of the other user is looked for in the log's files and in the history.
"""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from sftp_gateway.observability.history.queries import Filter, History
from tests.support.gateway import Gateway, fill, wait_for
from tests.support.keys import make_key, public_line
from tests.support.sftp_wire import (
    encode_close,
    encode_init,
    encode_open,
    encode_read,
    encode_rename,
)

_CONNECTIONS: Final = 2
_HOME: Final = b"/home/mallory/share/"
_READ: Final = 20
_LOOKED_FOR: Final = ("login_accepted", "file_opened", "file_closed", "session_end")


def _renames() -> Iterator[bytes]:
    """Refused, with two paths that are as long in the log as they can be."""
    path = _HOME + b"\x1b" * 4000
    while True:
        yield encode_rename(1, path, path)


def _reads() -> Iterator[bytes]:
    """One byte of a file, which is opened and closed for it; handles are numbered."""
    number = 0
    while True:
        handle = struct.pack(">I", number)
        yield (
            encode_open(1, _HOME + b"file") + encode_read(2, handle, 0, 1) + encode_close(3, handle)
        )
        number += 1


class _Attack:
    """One connection that sends until it is stopped."""

    def __init__(self, gateway: Gateway, packets: Iterator[bytes]) -> None:
        self._ssh = subprocess.Popen(
            [
                "ssh", *gateway.ssh_options(), "-p", str(gateway.port), "-s", "mallory@127.0.0.1",
                "sftp",
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self._packets = packets
        self._thread = threading.Thread(target=self._send)
        self._thread.start()

    def _send(self) -> None:
        assert self._ssh.stdin is not None
        try:
            self._ssh.stdin.write(encode_init())
            for packet in self._packets:
                self._ssh.stdin.write(packet)
        except OSError:
            pass

    def stop(self) -> None:
        self._ssh.kill()
        self._ssh.wait()
        self._thread.join()


def _read_as_victim(gateway: Gateway, until: float) -> int:
    """Read files until then; how often all of them were read."""
    sessions = 0
    (gateway.folder / "taken").mkdir(exist_ok=True)
    while time.monotonic() < until:
        got = gateway.sftp(f"get others/* {gateway.folder}/taken", user="ana")
        sessions += got.returncode == 0
    return sessions


def _wait_for_history(gateway: Gateway) -> None:
    """The history is written a little later: wait until it grows no more."""
    rows = -1.0
    while rows != (rows := gateway.metric("sftp_gateway_history_rows_total")):
        time.sleep(5)


def _kept(gateway: Gateway) -> Iterator[str]:
    for file in gateway.folder.glob("logs/access.log*"):
        with file.open(encoding="utf-8") as lines:
            yield from lines


def _remembered(gateway: Gateway) -> Iterator[str]:
    history = History(gateway.folder / "state/history.sqlite3")
    return (entry.line for entry in history.lines(Filter()))


def _victims(lines: Iterator[str]) -> Counter[str]:
    return Counter(json.loads(line)["event"] for line in lines if '"user":"ana"' in line)


def _flood(folder: Path, name: str, packets: Callable[[], Iterator[bytes]], seconds: float) -> None:
    fill(folder / "data/share", {"file": b"x" * 1000})
    fill(folder / "data/others", {str(number): b"x" * 1000 for number in range(_READ)})
    config = f"""
        [shares.share]
        path = "{folder / "data/share"}"
        [shares.others]
        path = "{folder / "data/others"}"
        [users.mallory]
        shares = ["share"]
        [users.ana]
        shares = ["others"]
        [access_log]
        stdout = true
        file = "logs/access.log"
        file_max_bytes = {100 << 20}
    """
    gateway = Gateway(folder, config)
    (folder / "logs").mkdir()
    gateway.key.parent.mkdir()
    make_key(gateway.key, "ed25519")
    for user in ("mallory", "ana"):
        gateway.authorize(user, public_line(gateway.key))
    gateway.start()
    try:
        began = time.monotonic()
        attacks = [_Attack(gateway, packets()) for _ in range(_CONNECTIONS)]
        sessions = _read_as_victim(gateway, began + seconds)
        for attack in attacks:
            attack.stop()
        lasted = time.monotonic() - began
        wait_for(lambda: gateway.metric("sftp_gateway_sessions") == 0, "all sessions to end", 60)
        wait_for(
            lambda: gateway.metric("sftp_gateway_access_log_queue_depth") == 0,
            "the log's queue",
            60,
        )
        _wait_for_history(gateway)
        print(f"\n{name}, {_CONNECTIONS} connections, {lasted:.0f} s:")
        written = sum(file.stat().st_size for file in folder.glob("logs/access.log*"))
        count = sum(1 for _ in _kept(gateway))
        print(f"  {count:,} lines, {written / 1e6:,.1f} MB, {written / lasted / 1e6:.2f} MB/s")
        suppressed = gateway.metric("sftp_gateway_access_log_suppressed_total")
        dropped = gateway.metric("sftp_gateway_access_log_dropped_total")
        forgotten = gateway.metric("sftp_gateway_history_dropped_total")
        print(
            f"  summed up {suppressed:,.0f}, dropped {dropped:.0f}; by the history {forgotten:.0f}"
        )
        expected = dict(
            zip(_LOOKED_FOR, (sessions, *[sessions * _READ] * 2, sessions), strict=True)
        )
        for where, lines in (("files", _kept(gateway)), ("history", _remembered(gateway))):
            found = _victims(lines)
            missing = {
                event: number - found[event]
                for event, number in expected.items()
                if number > found[event] and (where, event) != ("history", "file_opened")
            }
            print(f"  of {sum(expected.values())} lines of the other user, {where} lack {missing}")
    finally:
        gateway.close()


def main() -> None:
    """Measure both floods."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 60.0
    for name, packets in (("refused renames", _renames), ("files read by one byte", _reads)):
        with tempfile.TemporaryDirectory() as folder:
            _flood(Path(folder), name, packets, seconds)


if __name__ == "__main__":
    main()
