"""A mount stays right byte for byte, whatever happens to its connection meanwhile.

`python -m benchmarks.endurance` reads gigabytes at random places of files whose contents can be
told from the place (pattern.py), through stock sshfs, under each of CONDITIONS; see README.md.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import random
import re
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from benchmarks.bed import Bed, Mount
from benchmarks.pattern import Pattern, places
from benchmarks.server import PATIENCE, POLL

MIB = 1024 * 1024

#: Threads that read at once, each a file of its own as long as there are some.
READERS = 8
_FILES = 4
_FILE_BYTES = 64 * MIB
_LONGEST = MIB

#: Seconds without a byte after which a mount is given up.
_STALL = 60.0

#: How often the workers are restarted while one condition is looked at.
_RESTARTS = 8

_GCM = "aes128-gcm@openssh.com"


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """What happens to the connection; `weight` is its part of all that is read.

    `mac` is for ciphers that need one. `rekeys` tells who asks for new keys.
    """

    name: str
    weight: float = 1.0
    cipher: str = _GCM
    mac: str | None = None
    compression: bool = False
    rekeys: frozenset[str] = frozenset({"client", "server"})
    restarts: bool = False

    def gateway_options(self, rekey_bytes: int) -> dict[str, object]:
        # A list of ciphers comes with encrypt-then-MAC only.
        plain = self.mac is not None and "-etm@" not in self.mac
        options: dict[str, object] = {"ciphers": "compatible" if plain else [self.cipher]}
        if "server" in self.rekeys:
            options["rekey_limit"] = rekey_bytes
        if self.restarts:
            # Who reads while a restart is asked for reads on to the end.
            options |= {"workers": 2, "drain_timeout": 2 * PATIENCE}
        return options

    def ssh_options(self, rekey_bytes: int) -> dict[str, str]:
        options = {"Compression": "yes" if self.compression else "no", "Ciphers": self.cipher}
        if self.mac is not None:
            options["MACs"] = self.mac
        if "client" in self.rekeys:
            options["RekeyLimit"] = str(rekey_bytes)
        return options


#: Slow ciphers and compression get less of the whole.
CONDITIONS = (
    Condition(name="client rekeys", weight=4, rekeys=frozenset({"client"})),
    Condition(name="server rekeys", weight=4, rekeys=frozenset({"server"})),
    Condition(name="aes128-gcm", weight=2),
    Condition(name="aes256-gcm", weight=2, cipher="aes256-gcm@openssh.com"),
    Condition(name="chacha20-poly1305", weight=2, cipher="chacha20-poly1305@openssh.com"),
    Condition(name="aes256-ctr etm", cipher="aes256-ctr", mac="hmac-sha2-256-etm@openssh.com"),
    Condition(name="aes256-ctr", cipher="aes256-ctr", mac="hmac-sha2-256"),
    Condition(name="aes192-ctr", weight=0.5, cipher="aes192-ctr", mac="hmac-sha2-512"),
    Condition(
        name="aes128-ctr etm", weight=0.5, cipher="aes128-ctr", mac="hmac-sha2-512-etm@openssh.com"
    ),
    Condition(name="compression", weight=0.5, compression=True),
    Condition(name="workers restart", weight=2, rekeys=frozenset(), restarts=True),
)


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What came of a condition; it held if there are no `problems`."""

    condition: Condition
    verified: int = 0
    seconds: float = 0.0
    rekeys_by_client: int = 0
    rekeys_by_server: int = 0
    connections: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def rekeys(self) -> int:
        """Key exchanges besides the first of each connection."""
        return self.rekeys_by_client + self.rekeys_by_server


def make_pattern(folder: Path) -> Pattern:
    """The files that all conditions read, in `folder`."""
    pattern = Pattern(files=_FILES, size=_FILE_BYTES)
    folder.mkdir()
    pattern.write(folder)
    return pattern


def endure(
    condition: Condition, *, pattern: Pattern, data: Path, folder: Path, size: int, rekey_bytes: int
) -> Outcome:
    """Read and verify at least `size` bytes under `condition`, with a gateway of its own.

    The mount has `direct_io`, so that every read is the server's to answer; that the gateway says
    it sent no less than what was verified shows it.
    """
    outcome = Outcome(condition=condition)
    bed = Bed(folder=folder, data=data, options=condition.gateway_options(rekey_bytes))
    flags = ("direct_io", "reconnect") if condition.restarts else ("direct_io",)
    with bed.running() as server:
        with bed.mounted(*flags, **condition.ssh_options(rekey_bytes)) as mount:
            started = time.monotonic()
            readers = _Readers(outcome=outcome, pattern=pattern, mount=mount)
            if condition.restarts:
                _read_through_restarts(readers, mount, outcome, server.pid, size)
            else:
                readers.run(size)
            outcome.seconds = time.monotonic() - started
        if not poll(lambda: bed.bytes_sent() >= outcome.verified):
            outcome.problems.append(f"only {bed.bytes_sent()} bytes came from the gateway")
    _judge(outcome, mount.log.read_text(errors="replace"), rekey_bytes)
    return outcome


def _read_through_restarts(
    readers: _Readers, mount: Mount, outcome: Outcome, gateway: int, size: int
) -> None:
    """Ask for a restart of the workers while all read, again and again.

    A worker that is restarted serves what is open to its end. So the readers close all, the
    mount's connection ends, and what they open next is on a new one, of another worker.
    """
    for number in range(1, _RESTARTS + 1):
        readers.run(size // _RESTARTS, halfway=lambda: os.kill(gateway, signal.SIGUSR1))
        if not poll(functools.partial(_have_ended, mount, number)):
            outcome.problems.append("a restart did not reach the mount's connection")
            return
        # What is sent before sshfs has noticed fails: sshfs does not repeat a request, and may not
        # know of a file that it has asked the new connection to open.
        poll(readers.answered)


class _Readers:
    """READERS threads that open their files, read, verify, and close them again."""

    def __init__(self, *, outcome: Outcome, pattern: Pattern, mount: Mount) -> None:
        self._outcome = outcome
        self._pattern = pattern
        self._mount = mount
        self._noise = [random.Random(number) for number in range(READERS)]
        self._lock = threading.Lock()

    def answered(self) -> bool:
        """Whether the mount answers, by something that nothing keeps and that opens nothing."""
        try:
            os.statvfs(self._mount.at)
        except OSError:
            return False
        return True

    def run(self, size: int, *, halfway: Callable[[], None] = lambda: None) -> None:
        """Verify `size` bytes; `halfway` is called once, while all read."""
        self._half = self._outcome.verified + size // 2
        self._halfway = halfway
        # A worker that is to end ends with its last open file: none may be opened later.
        all_open = threading.Barrier(READERS)
        with ThreadPoolExecutor(READERS) as readers:
            share = -(-size // READERS)
            self._watch(
                [readers.submit(self._read, number, share, all_open) for number in range(READERS)]
            )

    def _watch(self, readers: list[Future[None]]) -> None:
        before = -1
        while wait(readers, timeout=_STALL).not_done and self._mount.sshfs.poll() is None:
            if self._outcome.verified == before:
                self._problem(f"nothing came for {_STALL:.0f} s")
                self._mount.sshfs.kill()  # which gives the readers an error
            before = self._outcome.verified
        for reader in readers:
            reader.result()

    def _read(self, number: int, share: int, all_open: threading.Barrier) -> None:
        file = number % len(self._pattern.names)
        noise = self._noise[number]
        try:
            with opened(self._mount.at / self._pattern.names[file]) as descriptor:
                all_open.wait(PATIENCE)
                for offset, length in places(noise, size=self._pattern.size, longest=_LONGEST):
                    if wrong := what_is_wrong(descriptor, self._pattern, file, offset, length):
                        self._problem(wrong)
                        return
                    self._verified(length)
                    share -= length
                    if share <= 0:
                        return
        except OSError as error:
            all_open.abort()
            self._problem(f"file {file}: {error}")
        except threading.BrokenBarrierError:
            self._problem(f"file {file}: not all readers have opened their files")

    def _verified(self, length: int) -> None:
        with self._lock:
            before = self._outcome.verified
            self._outcome.verified += length
        if before < self._half <= before + length:
            self._halfway()

    def _problem(self, words: str) -> None:
        with self._lock:
            self._outcome.problems.append(words)


def what_is_wrong(
    descriptor: int, pattern: Pattern, file: int, offset: int, length: int
) -> str | None:
    """Read `length` bytes of an open file of the pattern; None if they are right."""
    data = os.pread(descriptor, length, offset)
    where = f"file {file}, offset {offset}, {length} bytes"
    if len(data) != length:
        return f"{where}: only {len(data)} came"
    if not pattern.is_right(file, offset, data):
        return f"{where}: they differ"
    return None


@contextlib.contextmanager
def opened(path: Path) -> Iterator[int]:
    """A descriptor to read from."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def poll(look: Callable[[], bool]) -> bool:
    """Look until there is what is waited for, or PATIENCE is over; whether there is."""
    deadline = time.monotonic() + PATIENCE
    while not (seen := look()) and time.monotonic() < deadline:
        time.sleep(POLL)
    return seen


def _have_ended(mount: Mount, connections: int) -> bool:
    """Whether so many connections of the mount have come to their end."""
    return mount.log.read_text(errors="replace").count("Transferred: sent") >= connections


def _judge(outcome: Outcome, said: str, rekey_bytes: int) -> None:
    """See in what ssh said that the condition was met."""
    condition = outcome.condition
    compression = "zlib@openssh.com" if condition.compression else "none"
    agreed = set(
        re.findall(r"kex: server->client cipher: (\S+) MAC: (\S+) compression: (\S+)", said)
    )
    wanted = {(condition.cipher, condition.mac or "<implicit>", compression)}
    if agreed != wanted:
        outcome.problems.append(f"{agreed} was agreed on, and not {wanted}")
    outcome.connections = said.count("Local version string")
    outcome.rekeys_by_client, outcome.rekeys_by_server = count_rekeys(said)
    counts = {"client": outcome.rekeys_by_client, "server": outcome.rekeys_by_server}
    # What is compressed counts as what it becomes, several times less.
    least = max(1, outcome.verified // (rekey_bytes * (16 if condition.compression else 2)))
    if condition.rekeys and sum(counts[who] for who in condition.rekeys) < least:
        outcome.problems.append(f"{counts} rekeys, and not {least} of {set(condition.rekeys)}")


def count_rekeys(said: str) -> tuple[int, int]:
    """Rekeys in the log of `ssh -v`: those that the client asked for first, and the server.

    Only exchanges that ended with the server's NEWKEYS count, and not a connection's first.
    """
    counts = {"sent": 0, "received": 0}
    first, asked = True, ""
    for line in said.splitlines():
        if "Local version string" in line:
            first, asked = True, ""
        elif match := re.search(r"SSH2_MSG_KEXINIT (sent|received)", line):
            asked = asked or match[1]
        elif "SSH2_MSG_NEWKEYS received" in line:
            if not first and asked:
                counts[asked] += 1
            first, asked = False, ""
    return counts["sent"], counts["received"]


def main() -> int:
    """Run what the command line asks for, print a table; 1 if anything was not as it should be."""
    options = _parser().parse_args()
    signal.signal(signal.SIGTERM, leave)  # so that servers, mounts and data are cleared away
    wanted = [each for each in CONDITIONS if each.name in (options.only or [each.name])]
    weights = sum(each.weight for each in wanted)
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="sftp-endurance-", dir=options.folder) as name:
        folder = Path(name)
        pattern = make_pattern(folder / "data")
        for number, condition in enumerate(wanted):
            print(f"{condition.name} ...", file=sys.stderr, flush=True)
            outcome = endure(
                condition,
                pattern=pattern,
                data=folder / "data",
                folder=folder / str(number),
                size=int(options.gib * 1024 * MIB * condition.weight / weights),
                rekey_bytes=options.rekey_mib * MIB,
            )
            outcomes.append(outcome)
            for problem in outcome.problems:
                print(f"  {problem}", file=sys.stderr, flush=True)
    print(as_markdown(outcomes))
    return 1 if any(outcome.problems for outcome in outcomes) else 0


def as_markdown(outcomes: list[Outcome]) -> str:
    """A row for each condition."""
    lines = [
        "| condition | GiB verified | MB/s | rekeys by client | by server | connections | errors |",
        f"|---{'|---:' * 6}|",
    ]
    for each in outcomes:
        rate = each.verified / each.seconds / 1e6
        lines.append(
            f"| {each.condition.name} | {each.verified / 1024 / MIB:.2f} | {rate:.0f} "
            f"| {each.rekeys_by_client} | {each.rekeys_by_server} | {each.connections} "
            f"| {len(each.problems)} |"
        )
    total, rekeys = sum(each.verified for each in outcomes), sum(each.rekeys for each in outcomes)
    lines.append(f"\n{total / 1024 / MIB:.2f} GiB verified, {rekeys} rekeys.")
    return "\n".join(lines)


def leave(_signal: int, _frame: FrameType | None) -> None:
    """A signal's handler that ends the program by way of every `finally`."""
    sys.exit(143)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.endurance",
        description="Read at random through sshfs, and verify every byte, under each condition.",
    )
    names = [condition.name for condition in CONDITIONS]
    parser.add_argument(
        "--gib", type=float, default=20.0, help="how much is read in all (default: 20)"
    )
    parser.add_argument(
        "--only", nargs="+", choices=names, metavar="CONDITION", help=", ".join(names)
    )
    parser.add_argument(
        "--rekey-mib", type=int, default=16, help="new keys after so many MiB (default: 16)"
    )
    parser.add_argument("--folder", type=Path, help="where the data is made (default: TMPDIR)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
