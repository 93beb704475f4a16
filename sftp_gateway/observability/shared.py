"""Counters and gauges of several processes, in files that one of them reads.

Each process has files of its own and writes its numbers there, by mmap: without a system call, and
readable after it was killed. The files are those of prometheus_client's multiprocess mode, whose
`MultiProcessCollector` sums them up. Its metric classes are not used: in that mode they find their
files by a global and an environment variable, and name them after process ids, so that a gateway
whose workers are replaced would gather files for ever. Here a file is named after a writer, and
the next process that has that name counts on where the last one stopped.

What of prometheus_client this relies on, and `test_shared.py` holds:

- `MmapedDict(path)`: `read_value(key)` gives (value, timestamp) and makes the key if need be,
  `write_value(key, value, timestamp)`;
- `mmap_key(metric, sample, label names, label values, help)` makes the key;
- files named `counter_WRITER.db`, `histogram_WRITER.db` (`le` buckets not cumulated, no `_count`)
  and `gauge_MODE_WRITER.db`, WRITER without `_`, the modes `livesum` and `livemin`;
- `mark_process_dead(writer, path)` removes the files of such gauges.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final, Literal, TypeAlias

from prometheus_client.mmap_dict import MmapedDict, mmap_key
from prometheus_client.multiprocess import mark_process_dead
from prometheus_client.utils import floatToGoString

NAMESPACE: Final = "sftp_gateway"

#: How the gauges of several processes become one: their sum, or the least of them.
GaugeMode: TypeAlias = Literal["livesum", "livemin"]


class SharedValues:
    """The numbers of the process that is called `writer`; from any of its threads."""

    def __init__(self, folder: Path, writer: str) -> None:
        self.folder = folder
        self._writer = writer
        self._files: dict[str, MmapedDict] = {}
        self._lock = threading.Lock()

    def counter(self, name: str, help_text: str, *labels: str) -> SharedCounter:
        """A counter; `name` goes without namespace and `_total`."""
        return SharedCounter(self, "counter", name, help_text, labels)

    def gauge(
        self, name: str, help_text: str, *labels: str, mode: GaugeMode = "livesum"
    ) -> SharedGauge:
        """A gauge that ends with its process."""
        return SharedGauge(self, f"gauge_{mode}", name, help_text, labels)

    def histogram(
        self, name: str, help_text: str, *labels: str, bounds: Iterable[float]
    ) -> SharedHistogram:
        """A histogram with these upper bounds, and one without."""
        return SharedHistogram(self, name, help_text, labels, bounds)

    def update(self, kind: str, changes: Mapping[str, float], *, add: bool) -> None:
        """Add to the values of some keys, or set them."""
        with self._lock:
            file = self._files.get(kind)
            if file is None:
                file = self._files[kind] = self._open(f"{kind}_{self._writer}")
            for key, change in changes.items():
                before = file.read_value(key)[0]
                file.write_value(key, before + change if add else change, 0.0)

    def _open(self, name: str) -> MmapedDict:
        path = self.folder / f"{name}.db"
        if not path.exists():
            # A reader must not find a file that is empty yet.
            unfinished = self.folder / f"{name}.new"
            MmapedDict(str(unfinished)).close()
            unfinished.rename(path)
        return MmapedDict(str(path))

    def close(self) -> None:
        """Let go of the files, whose numbers stay."""
        with self._lock:
            for file in self._files.values():
                file.close()
            self._files.clear()


class _Shared:
    def __init__(
        self, values: SharedValues, kind: str, name: str, help_text: str, labels: tuple[str, ...]
    ) -> None:
        self._values = values
        self._kind = kind
        self._name = f"{NAMESPACE}_{name}"
        self._help = help_text
        self._labels = labels
        self._keys: dict[tuple[str, ...], str] = {}

    def _key(self, words: tuple[str, ...]) -> str:
        key = self._keys.get(words)
        if key is None:
            sample = self._name + ("_total" if self._kind == "counter" else "")
            key = mmap_key(self._name, sample, list(self._labels), list(words), self._help)
            self._keys[words] = key
        return key


class SharedCounter(_Shared):
    """Goes up. The arguments before the last are the labels' values."""

    def inc(self, *words: str, by: float = 1.0) -> None:
        """Count."""
        self._values.update(self._kind, {self._key(words): by}, add=True)


class SharedGauge(_Shared):
    """Goes up and down."""

    def inc(self, *words: str, by: float = 1.0) -> None:
        """Add."""
        self._values.update(self._kind, {self._key(words): by}, add=True)

    def set(self, value: float, *words: str) -> None:
        """Be this now."""
        self._values.update(self._kind, {self._key(words): value}, add=False)


class SharedHistogram:
    """Counts by size."""

    def __init__(
        self,
        values: SharedValues,
        name: str,
        help_text: str,
        labels: tuple[str, ...],
        bounds: Iterable[float],
    ) -> None:
        self._values = values
        self._name = f"{NAMESPACE}_{name}"
        self._help = help_text
        self._labels = list(labels)
        self._bounds = [floatToGoString(bound) for bound in (*bounds, float("inf"))]
        self._keys: dict[tuple[str, ...], list[str]] = {}

    def add(self, *words: str, counts: Iterable[int], total: float) -> None:
        """Add so many observations to each bucket, which together make `total`."""
        keys = self._keys.get(words) or self._make_keys(words)
        changes = dict(zip(keys, (*counts, total), strict=True))
        self._values.update("histogram", changes, add=True)

    def _make_keys(self, words: tuple[str, ...]) -> list[str]:
        """Of the buckets, and of the sum."""
        bucket, labels = f"{self._name}_bucket", [*self._labels, "le"]
        keys = [
            mmap_key(self._name, bucket, labels, [*words, bound], self._help)
            for bound in self._bounds
        ]
        keys.append(mmap_key(self._name, f"{self._name}_sum", self._labels, [*words], self._help))
        self._keys[words] = keys
        return keys


def forget_gauges(folder: Path, writer: str) -> None:
    """`writer` has ended: it has no connections, files or the like any more."""
    mark_process_dead(writer, str(folder))
