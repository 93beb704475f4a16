"""A FUSE file system that shows a folder and injects faults.

`python -m tests.support.faulty_filesystem FOLDER MOUNT CONTROL` serves it in the foreground.
CONTROL is a JSON file, read at each request:

    {"fault": WORD, "offset": BYTES, "names": [NAME, ...], "times": COUNT}

WORD is the name of an errno, `hang`, `short` (a read returns less than it asks for), or `shrink`
(a read cuts the file at `offset`). It applies to reads that reach `offset`, and, with a name in
`names`, to stat(2) of these files; with one that is `..`, to listings behind their 1,500th entry. A
fault with `times` is over after so many requests. The kernel caches no pages (`direct_io`): it
would take a short read for the end of a file.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.support.gateway import filesystem

#: Bytes that a short read returns.
_SHORT = 1000


#: FUSE_CAP_READDIRPLUS (fuse_common.h).
_READDIRPLUS = 1 << 13

#: Entries of a folder that are listed before a fault.
_LISTED = 1500


class FaultyFileSystem:
    """The mount of such a file system."""

    def __init__(self, behind: Path, mount: Path, control: Path) -> None:
        self.behind = behind
        self.mount = mount
        self._control = control
        self.heal()

    def fail(
        self, fault: str, *, offset: int = 0, names: Sequence[str] = (), times: int = -1
    ) -> None:
        """Let reads from `offset` on, and stat(2) of `names`, fail."""
        self._set({"fault": fault, "offset": offset, "names": list(names), "times": times})

    @property
    def hangs(self) -> bool:
        """Whether anything has hung since the fault began."""
        return Path(f"{self._control}.hangs").exists()

    def heal(self) -> None:
        """Let everything succeed."""
        self._set({"fault": ""})

    def _set(self, rule: dict[str, Any]) -> None:
        Path(f"{self._control}.hangs").unlink(missing_ok=True)
        new = self._control.with_suffix(".new")
        new.write_text(json.dumps({**rule, "number": time.monotonic_ns()}))
        new.rename(self._control)


@contextlib.contextmanager
def faulty_filesystem(behind: Path, mount: Path, control: Path) -> Iterator[FaultyFileSystem]:
    """Show the folder `behind` at `mount`, served by its own process."""
    mount.mkdir(parents=True)
    found = FaultyFileSystem(behind, mount, control)
    with filesystem("tests.support.faulty_filesystem", behind, mount, control, mount=mount):
        try:
            yield found
        finally:
            found.heal()


class _Rule:
    """The control file's rule, and how often it was applied."""

    def __init__(self, control: str) -> None:
        self._control = control
        self._number = 0
        self._left = -1
        self.offset = 0

    def apply(self, *, name: str, end: int | None) -> str:
        """The fault of a read that ends at `end`, or, without one, of a stat(2); or nothing."""
        while fault := self._fault(name, end):
            if fault != "hang":
                return fault
            Path(f"{self._control}.hangs").touch()
            time.sleep(0.01)
        return ""

    def _fault(self, name: str, end: int | None) -> str:
        with open(self._control) as file:
            rule = json.load(file)
        if not rule["fault"]:
            return ""
        if rule["number"] != self._number:
            self._number, self._left = rule["number"], rule["times"]
        meant = name in rule["names"] if end is None else end > rule["offset"]
        if not meant or not self._left:
            return ""
        self._left -= 1
        self.offset = int(rule["offset"])
        return str(rule["fault"])


def _serve(folder: str, mount: str, control: str, *options: str) -> None:
    import mfusepy as fuse

    rule = _Rule(control)

    def raise_if_error(fault: str) -> None:
        if fault.startswith("E"):
            raise fuse.FuseOSError(getattr(errno, fault))

    class FileSystem(fuse.Operations):
        use_ns = True

        def init_with_config(self, conn: Any, config: Any) -> None:
            conn.want &= ~_READDIRPLUS  # one bad file would fail its folder's listing

        def _real(self, path: str) -> str:
            return os.path.join(folder, path.lstrip("/"))

        def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
            raise_if_error(rule.apply(name=path.rpartition("/")[2], end=None))
            try:
                status = os.lstat(self._real(path))
            except OSError as error:
                raise fuse.FuseOSError(error.errno) from None
            names = ("st_mode", "st_size", "st_uid", "st_gid", "st_nlink")
            times = ("st_atime", "st_mtime", "st_ctime")
            return {
                **{name: getattr(status, name) for name in names},
                **{name: getattr(status, f"{name}_ns") for name in times},
            }

        def readdir_with_offset(
            self, path: str, offset: int, fh: int
        ) -> Iterator[tuple[str, dict[str, int], int]]:
            names = [".", "..", *sorted(os.listdir(self._real(path)))]
            for number, name in enumerate(names[offset:], offset + 1):
                if number > _LISTED:
                    raise_if_error(rule.apply(name="..", end=None))
                yield name, {"st_mode": 0}, number

        def open(self, path: str, flags: int) -> int:
            return os.open(self._real(path), os.O_RDONLY)

        def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
            fault = rule.apply(name="", end=offset + size)
            raise_if_error(fault)
            if fault == "shrink":
                os.truncate(self._real(path), rule.offset)
            return os.pread(fh, min(size, _SHORT) if fault == "short" else size, offset)

        def release(self, path: str, fh: int) -> int:
            os.close(fh)
            return 0

    fuse.FUSE(
        FileSystem(),
        mount,
        foreground=True,
        nothreads=False,
        direct_io=True,
        ro=True,
        attr_timeout=0,
        entry_timeout=0,
    )


if __name__ == "__main__":
    _serve(*sys.argv[1:])
