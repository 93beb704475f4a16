"""Open files return complete reads and keep their descriptor until the last read ends."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate
from pathlib import Path

import pytest

from sftp_gateway.errors import InvalidHandle
from sftp_gateway.vfs.files import OpenFile
from tests.unit.vfs.helpers import DEADLINE

SIZE = 3_000_000
CONTENT = os.urandom(SIZE)

Open = Callable[[Path], OpenFile]


@pytest.fixture
def opened() -> Iterator[Open]:
    files: list[OpenFile] = []

    def make(path: Path) -> OpenFile:
        descriptor = os.open(path, os.O_RDONLY)
        files.append(OpenFile(descriptor=descriptor, size=path.stat().st_size, local=True))
        return files[-1]

    yield make
    for file in files:
        file.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    return path


def read(file: OpenFile, offset: int, length: int, *, wait: bool = True) -> bytes:
    """Read into two buffers, as for two packets."""
    buffer = memoryview(bytearray(length))
    places = [buffer[: length // 3], buffer[length // 3 :]]
    count = file.read(places, offset) if wait else file.read_cached(places, offset)
    return bytes(buffer[:count])


def is_open(descriptor: int) -> bool:
    return Path(f"/proc/self/fd/{descriptor}").exists()


# Reads


@pytest.mark.parametrize("offset", [0, 1, 4095, 4096, 1_000_001, SIZE - 262_144])
@pytest.mark.parametrize("length", [1, 4096, 32_768, 262_144])
def test_a_read_inside_the_file_is_complete(
    opened: Open, path: Path, offset: int, length: int
) -> None:
    assert read(opened(path), offset, length) == CONTENT[offset : offset + length]


@pytest.mark.parametrize("left", [0, 1, 100, 32_767])
def test_a_read_is_short_only_at_the_end(opened: Open, path: Path, left: int) -> None:
    assert read(opened(path), SIZE - left, 32_768) == CONTENT[SIZE - left :]


def test_a_read_may_exceed_the_file(opened: Open, path: Path) -> None:
    assert read(opened(path), 0, SIZE + 1) == CONTENT


def test_a_read_of_zero_bytes_is_empty(opened: Open, path: Path) -> None:
    assert read(opened(path), 5, 0) == b""


@pytest.mark.parametrize("wait", [True, False])
def test_a_read_is_complete_if_the_kernel_returns_short_reads(
    opened: Open, path: Path, monkeypatch: pytest.MonkeyPatch, wait: bool
) -> None:
    whole = os.preadv

    def in_pieces(descriptor: int, buffers: list[memoryview], offset: int, flags: int) -> int:
        del flags  # everything is cached
        return whole(descriptor, [buffers[0][:1000]], offset)

    monkeypatch.setattr(os, "preadv", in_pieces)
    assert read(opened(path), 10, 100_500, wait=wait) == CONTENT[10:100_510]
    assert read(opened(path), SIZE - 1500, 4000, wait=wait) == CONTENT[-1500:]


@pytest.mark.parametrize(
    "offset", [SIZE, SIZE + 1, 1 << 32, 1 << 62, (1 << 63) - 32_769, (1 << 63) - 32_768]
)
def test_a_read_past_the_end_is_empty(opened: Open, path: Path, offset: int) -> None:
    assert read(opened(path), offset, 32_768) == b""


@pytest.mark.parametrize("offset", [(1 << 63) - 2, (1 << 63) - 1, 1 << 63, (1 << 64) - 1])
@pytest.mark.parametrize("wait", [True, False])
def test_an_impossible_offset_is_past_the_end(
    opened: Open, path: Path, offset: int, wait: bool
) -> None:
    assert read(opened(path), offset, 32_768, wait=wait) == b""


def test_the_last_bytes_of_the_largest_possible_file_are_readable(
    opened: Open, tmpfs: Path
) -> None:
    sparse = tmpfs / "sparse"
    with open(sparse, "wb") as file:
        file.truncate((1 << 63) - 1)
    for left in (1, 9, 4096):
        assert read(opened(sparse), (1 << 63) - 1 - left, 8192) == bytes(left)


def test_a_truncated_file_ends_at_its_new_end(opened: Open, path: Path) -> None:
    file = opened(path)
    assert len(read(file, 0, 100_000)) == 100_000
    os.truncate(path, 50_000)
    assert read(file, 0, 100_000) == CONTENT[:50_000]
    assert read(file, 60_000, 100) == b""
    assert file.stat().st_size == 50_000


def test_a_grown_file_is_read_to_its_new_end(opened: Open, path: Path) -> None:
    file = opened(path)
    assert read(file, SIZE, 100) == b""
    with open(path, "ab") as more:
        more.write(b"more")
    assert read(file, SIZE - 2, 100) == CONTENT[-2:] + b"more"
    assert file.stat().st_size == SIZE + 4
    assert file.size == SIZE


def test_a_deleted_open_file_stays_readable(opened: Open, path: Path) -> None:
    file = opened(path)
    path.unlink()
    assert read(file, SIZE - 7, 100) == CONTENT[-7:]


# Non-waiting reads


@pytest.mark.parametrize(("offset", "length"), [(0, 262_144), (SIZE - 10, 100), (SIZE, 100)])
def test_a_non_waiting_read_is_complete_or_refused(
    opened: Open, tmpfs: Path, offset: int, length: int
) -> None:
    (tmpfs / "file").write_bytes(CONTENT)
    file = opened(tmpfs / "file")
    for _ in range(100):
        try:
            found = read(file, offset, length, wait=False)
        except BlockingIOError:
            found = read(file, offset, length, wait=True)
        assert found == CONTENT[offset : offset + length]


def test_a_non_waiting_read_is_never_short_while_the_cache_is_dropped(
    opened: Open, path: Path
) -> None:
    file = opened(path)
    with open(path, "rb") as real:
        os.fsync(real.fileno())
        for number in range(200):
            os.posix_fadvise(real.fileno(), (number % 20) * 100_000, 50_000, os.POSIX_FADV_DONTNEED)
            try:
                found = read(file, 0, 2_500_000, wait=False)
            except BlockingIOError:
                found = read(file, 0, 2_500_000, wait=True)
            assert found == CONTENT[:2_500_000]


def test_an_empty_read_instead_of_eagain_is_not_the_end(
    opened: Open, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = opened(path)
    monkeypatch.setattr(os, "preadv", lambda *_: 0)
    with pytest.raises(BlockingIOError):
        read(file, 0, 100, wait=False)
    assert read(file, SIZE, 100, wait=False) == b""


def test_a_file_system_without_nowait_is_tried_once(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """/proc has no RWF_NOWAIT, as NFS and FUSE have none."""
    file = opened(Path("/proc/version"))
    with pytest.raises(BlockingIOError):
        read(file, 0, 10, wait=False)
    asked: list[int] = []
    real = os.preadv

    def count(descriptor: int, buffers: list[memoryview], offset: int, flags: int) -> int:
        asked.append(flags)
        return real(descriptor, buffers, offset, flags)

    monkeypatch.setattr(os, "preadv", count)
    with pytest.raises(BlockingIOError):
        read(file, 0, 10, wait=False)
    assert asked == []
    assert read(file, 0, 5, wait=True) == b"Linux"
    assert asked == [0]


def test_disk_errors_are_passed_on(
    opened: Open, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> int:
        raise OSError(errno.EIO, "broken disk")

    file = opened(path)
    monkeypatch.setattr(os, "preadv", broken)
    for wait in (True, False):
        with pytest.raises(OSError, match="broken disk"):
            read(file, 0, 10, wait=wait)


# Readahead


@pytest.fixture
def advised(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Records the readahead advice given to the kernel, and gives it."""
    given: list[int] = []
    real = os.posix_fadvise

    def tell(descriptor: int, offset: int, length: int, advice: int) -> None:
        given.append(advice)
        real(descriptor, offset, length, advice)

    monkeypatch.setattr(os, "posix_fadvise", tell)
    return given


def miss(file: OpenFile, monkeypatch: pytest.MonkeyPatch, offsets: Iterable[int]) -> None:
    """Read as if nothing were in the page cache."""

    def nothing(*_: object) -> int:
        raise BlockingIOError(errno.EAGAIN, "not in the page cache")

    with monkeypatch.context() as patch:
        patch.setattr(os, "preadv", nothing)
        for offset in offsets:
            with pytest.raises(BlockingIOError):
                read(file, offset, 32_768, wait=False)


def test_a_sequential_reader_gets_more_readahead(
    opened: Open, path: Path, advised: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Four reads run concurrently and overtake each other.
    offsets = [at * 32_768 for at in (0, 2, 1, 3, 6, 5, 4, 7, 16, 17, 40, 64)]
    miss(opened(path), monkeypatch, offsets)
    assert advised == [os.POSIX_FADV_SEQUENTIAL]


@pytest.mark.parametrize("steps", [(0, 9 << 20), (5 << 20, 1 << 30, 3 << 20), (7 << 20,) * 20])
def test_a_random_reader_gets_no_more_readahead(
    opened: Open, path: Path, advised: list[int], monkeypatch: pytest.MonkeyPatch, steps: list[int]
) -> None:
    offsets = accumulate(steps)
    miss(opened(path), monkeypatch, (each for at in offsets for each in (at, at + 4096)))
    assert advised == []


def test_cached_reads_give_no_readahead_advice(
    opened: Open, tmpfs: Path, advised: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmpfs / "file").write_bytes(CONTENT)
    file = opened(tmpfs / "file")
    real = os.preadv
    monkeypatch.setattr(os, "preadv", lambda *arguments: real(*arguments[:3]))
    for offset in range(0, SIZE, 32_768):
        assert read(file, offset, 32_768, wait=False) == CONTENT[offset : offset + 32_768]
    assert advised == []


# Closing a file


class BlockingFile(OpenFile):
    """Blocks in the middle of a read until released."""

    __slots__ = ("go_on", "reading")

    def __init__(self, path: Path) -> None:
        super().__init__(descriptor=os.open(path, os.O_RDONLY), size=SIZE, local=True)
        self.reading = threading.Semaphore(0)
        self.go_on = threading.Event()

    def _fill(  # type: ignore[override]
        self, descriptor: int, view: memoryview, offset: int, flags: int
    ) -> int:
        self.reading.release()
        assert self.go_on.wait(DEADLINE)
        return OpenFile._fill(descriptor, view, offset, flags)


def test_closing_keeps_the_descriptor_until_the_last_read_ends(path: Path) -> None:
    file = BlockingFile(path)
    descriptor = file._descriptor
    found: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: found.append(read(file, 7, 100_000))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
        assert file.reading.acquire(timeout=DEADLINE)
    file.close()
    assert is_open(descriptor)
    with pytest.raises(InvalidHandle):
        read(file, 0, 10)
    assert is_open(descriptor)
    file.go_on.set()
    for thread in threads:
        thread.join(DEADLINE)
    assert found == [CONTENT[7:100_007]] * 3
    assert not is_open(descriptor)


def test_concurrent_reads_get_right_bytes_or_a_closed_file(path: Path) -> None:
    """A reused descriptor would return the bytes of another file."""
    wrong: list[bytes] = []

    def use(file: OpenFile, started: threading.Barrier) -> None:
        started.wait(DEADLINE)
        for offset in range(0, 50_000, 1000):
            try:
                found = read(file, offset, 1000)
            except InvalidHandle:
                return
            if found != CONTENT[offset : offset + 1000]:
                wrong.append(found)

    for _ in range(20):
        file = OpenFile(descriptor=os.open(path, os.O_RDONLY), size=SIZE, local=True)
        started = threading.Barrier(5)
        threads = [threading.Thread(target=use, args=(file, started)) for _ in range(4)]
        for thread in threads:
            thread.start()
        started.wait(DEADLINE)
        descriptor = file._descriptor
        file.close()
        with open("/dev/zero", "rb"), open("/dev/zero", "rb"):
            for thread in threads:
                thread.join(DEADLINE)
                assert not thread.is_alive()
        assert not is_open(descriptor)
    assert wrong == []


@pytest.mark.parametrize("wait", [True, False])
def test_a_closed_file_is_an_invalid_handle(opened: Open, path: Path, wait: bool) -> None:
    file = opened(path)
    file.close()
    with pytest.raises(InvalidHandle):
        read(file, 0, 10, wait=wait)
    with pytest.raises(InvalidHandle):
        file.stat()
    with pytest.raises(InvalidHandle):
        file.statvfs()


def test_closing_twice_does_not_close_a_reused_descriptor(opened: Open, path: Path) -> None:
    file = opened(path)
    number = file._descriptor
    file.close()
    with open(path, "rb") as other:
        assert other.fileno() == number
        file.close()
        assert other.read(5) == CONTENT[:5]


def test_closing_is_reported_once_after_the_last_read(path: Path) -> None:
    reported = []
    file = OpenFile(
        descriptor=os.open(path, os.O_RDONLY),
        size=SIZE,
        local=True,
        on_close=lambda: reported.append(is_open(file._descriptor)),
    )
    file._acquire()
    file.close()
    file.close()
    assert not reported
    file._release()
    assert reported == [False]


def test_closing_is_reported_if_close_fails(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reported: list[None] = []
    descriptor = os.open(path, os.O_RDONLY)
    file = OpenFile(
        descriptor=descriptor, size=SIZE, local=True, on_close=lambda: reported.append(None)
    )
    with monkeypatch.context() as patched:
        patched.setattr(os, "close", lambda _: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            file.close()
    os.close(descriptor)
    assert reported == [None]


def test_a_failed_read_does_not_keep_the_descriptor(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = OpenFile(descriptor=os.open(path, os.O_RDONLY), size=SIZE, local=True)
    monkeypatch.setattr(os, "preadv", lambda *_: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        read(file, 0, 10)
    file.close()
    assert not is_open(file._descriptor)


def test_an_open_file_has_its_file_systems_statistics(opened: Open, path: Path) -> None:
    assert opened(path).statvfs().f_blocks == os.statvfs(path).f_blocks
