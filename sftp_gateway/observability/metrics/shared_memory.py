"""Counters and gauges of several processes, in memory that one of them reads.

Each writer has memory of its own, which the supervisor allocates and every process of that writer
inherits. Values are written through mmap without a system call, and can be read after the writer
was killed. A successor continues the counters of its predecessor; gauges end with their process.

The memory is anonymous (memfd_create(2)), so that no one can delete it by cleaning temporary
folders, and none is left behind. It is allocated before it is used: writing to a page that cannot
be allocated would end the process with SIGBUS.

    used: u64, then entries: key length: u32, 4 bytes, value: f64, key: JSON padded to 8 bytes

The reader does not trust what a writer wrote: a worker may have been compromised.
prometheus_client's multiprocess mode has none of this: its files are in a folder, and trusted.
"""

from __future__ import annotations

import errno
import json
import logging
import mmap
import os
import re
import struct
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from prometheus_client.core import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample
from prometheus_client.utils import floatToGoString

NAMESPACE: Final = "sftp_gateway"

#: How the gauges of several processes become one: their sum, or the least of them.
GaugeMode: TypeAlias = Literal["livesum", "livemin"]

#: Bytes of a segment at first, and at most.
_SIZE: Final = 1 << 16
_MAX_SIZE: Final = 1 << 24

_USED: Final = struct.Struct("<Q")
_ENTRY: Final = struct.Struct("<I4xd")
_VALUE: Final = struct.Struct("<d")

#: Names of families, samples and labels; any other would break the page.
_NAME: Final = re.compile(rf"{NAMESPACE}_[a-z_]+")
_LABEL: Final = re.compile("[a-z_]+")

_log = logging.getLogger(__name__)


class Memory:
    """Two segments of one writer: its counts, which outlive its processes, and its gauges."""

    def __init__(self, counts: int, gauges: int) -> None:
        """Takes over the descriptors."""
        self.counts = counts
        self.gauges = gauges

    @classmethod
    def make(cls) -> Memory:
        """New, empty memory. Raises OSError if there is none."""
        counts = _make_segment()
        try:
            return cls(counts, _make_segment())
        except OSError:
            os.close(counts)
            raise

    def clear_gauges(self) -> None:
        """Clear the gauges: the writer's process has ended."""
        os.pwrite(self.gauges, _USED.pack(0), 0)

    def close(self) -> None:
        """Close both, in this process."""
        os.close(self.counts)
        os.close(self.gauges)


def _make_segment() -> int:
    descriptor = os.memfd_create("sftp-gateway-metrics")
    try:
        os.posix_fallocate(descriptor, 0, _SIZE)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


class _Segment:
    """One segment, mapped for writing; not thread-safe."""

    def __init__(self, descriptor: int) -> None:
        """Raises OSError if there is no memory. A corrupt segment is reset."""
        self._descriptor = descriptor
        self._size = max(os.fstat(descriptor).st_size, _SIZE)
        os.posix_fallocate(descriptor, 0, self._size)
        self._map = mmap.mmap(descriptor, self._size)
        self._used = _USED.unpack_from(self._map)[0]
        self._positions: dict[bytes, int] = {}
        self._full = False
        try:
            if _USED.size < self._used <= self._size:
                for key, _, position in _entries(self._map[: self._used]):
                    self._positions[key] = position
                return
        except struct.error:
            self._positions.clear()
        self._used = _USED.size

    def change(self, key: bytes, by: float, *, add: bool) -> None:
        """Add to the value of a key, or set it; without memory for a new key, do nothing."""
        position = self._positions.get(key)
        if position is None:
            position = self._append(key)
            if position is None:
                return
        if add:
            by += _VALUE.unpack_from(self._map, position)[0]
        # One assignment of eight aligned bytes: pack_into would let readers see a part of it.
        self._map[position : position + _VALUE.size] = _VALUE.pack(by)

    def _append(self, key: bytes) -> int | None:
        entry = _ENTRY.pack(len(key), 0.0) + key + bytes(-len(key) % 8)
        end = self._used + len(entry)
        try:
            while end > self._size:
                self._grow()
        except OSError as error:
            if not self._full:
                _log.error("there is no memory for another metric: %s", error.strerror)
            self._full = True
            return None
        self._map[self._used : end] = entry
        self._map[: _USED.size] = _USED.pack(end)
        position: int = self._used + _ENTRY.size - _VALUE.size
        self._used = end
        self._positions[key] = position
        return position

    def _grow(self) -> None:
        size = 2 * self._size
        if size > _MAX_SIZE:
            raise OSError(errno.ENOSPC, "there are too many")
        os.posix_fallocate(self._descriptor, 0, size)
        self._map.close()
        self._map = mmap.mmap(self._descriptor, size)
        self._size = size

    def close(self) -> None:
        self._map.close()


def _entries(data: bytes) -> Iterator[tuple[bytes, float, int]]:
    """Keys, values and where the values are. Raises struct.error if they make no sense."""
    position = _USED.size
    while position < len(data):
        length, value = _ENTRY.unpack_from(data, position)
        start = position + _ENTRY.size
        yield data[start : start + length], value, start - _VALUE.size
        position = start + length + -length % 8


class SharedValues:
    """The metrics of the process that writes to `memory`. Thread-safe."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._segments: dict[int, _Segment] = {}
        self._lock = threading.Lock()

    def counter(self, name: str, help_text: str, *labels: str) -> SharedCounter:
        """A counter; `name` goes without namespace and `_total`."""
        return SharedCounter(self, "counter", name, help_text, labels)

    def gauge(
        self, name: str, help_text: str, *labels: str, mode: GaugeMode = "livesum"
    ) -> SharedGauge:
        """A gauge that ends with its process."""
        return SharedGauge(self, mode, name, help_text, labels)

    def histogram(
        self, name: str, help_text: str, *labels: str, bounds: Iterable[float]
    ) -> SharedHistogram:
        """A histogram with these upper bounds, and one without."""
        return SharedHistogram(self, name, help_text, labels, bounds)

    def update(self, kind: str, changes: Mapping[bytes, float], *, add: bool) -> None:
        """Add to the values of some keys, or set them."""
        descriptor = self._memory.counts if kind in _COUNTS else self._memory.gauges
        with self._lock:
            segment = self._segments.get(descriptor)
            if segment is None:
                segment = self._segments[descriptor] = _Segment(descriptor)
            for key, change in changes.items():
                segment.change(key, change, add=add)

    def close(self) -> None:
        """Unmap the memory, which keeps its values."""
        with self._lock:
            for segment in self._segments.values():
                segment.close()
            self._segments.clear()


#: The kinds that outlive their process.
_COUNTS: Final = frozenset({"counter", "histogram"})


def _key(
    metric: str, kind: str, sample: str, labels: Iterable[tuple[str, str]], help_text: str
) -> bytes:
    return json.dumps([metric, kind, sample, list(labels), help_text]).encode()


class _Shared:
    def __init__(
        self, values: SharedValues, kind: str, name: str, help_text: str, labels: tuple[str, ...]
    ) -> None:
        self._values = values
        self._kind = kind
        self._name = f"{NAMESPACE}_{name}"
        self._help = help_text
        self._labels = labels
        self._keys: dict[tuple[str, ...], bytes] = {}

    def _key(self, words: tuple[str, ...]) -> bytes:
        key = self._keys.get(words)
        if key is None:
            sample = self._name + ("_total" if self._kind == "counter" else "")
            labels = zip(self._labels, words, strict=True)
            key = _key(self._name, self._kind, sample, labels, self._help)
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
        self._labels = labels
        self._bounds = [floatToGoString(bound) for bound in (*bounds, float("inf"))]
        self._keys: dict[tuple[str, ...], list[bytes]] = {}

    def add(self, *words: str, counts: Iterable[int], total: float) -> None:
        """Add so many observations to each bucket, which together make `total`."""
        keys = self._keys.get(words) or self._make_keys(words)
        changes = dict(zip(keys, (*counts, total), strict=True))
        self._values.update("histogram", changes, add=True)

    def _make_keys(self, words: tuple[str, ...]) -> list[bytes]:
        """Of the buckets, and of the sum."""
        labels = tuple(zip(self._labels, words, strict=True))
        keys = [
            _key(
                self._name,
                "histogram",
                f"{self._name}_bucket",
                (*labels, ("le", bound)),
                self._help,
            )
            for bound in self._bounds
        ]
        keys.append(_key(self._name, "histogram", f"{self._name}_sum", labels, self._help))
        self._keys[words] = keys
        return keys


class SharedCollector(Collector):
    """Collects the metrics of all writers."""

    def __init__(self, memories: Callable[[], Iterable[Memory]]) -> None:
        self._memories = memories

    def collect(self) -> Iterator[Metric]:
        """The metrics, for prometheus_client."""
        families: dict[str, _Family] = {}
        for memory in self._memories():
            for descriptor in (memory.counts, memory.gauges):
                # A corrupt segment is ignored; the others are not.
                with suppress(ValueError, TypeError, struct.error, OSError, RecursionError):
                    _add(families, _read(descriptor))
        for name, family in families.items():
            yield family.metric(name)


def _read(descriptor: int) -> bytes:
    """The header and the entries of a segment."""
    (used,) = _USED.unpack(os.pread(descriptor, _USED.size, 0))
    return os.pread(descriptor, min(used, _MAX_SIZE), 0)


_Labels: TypeAlias = tuple[tuple[str, str], ...]


@dataclass(slots=True)
class _Family:
    """One metric while the values of its writers are added up."""

    kind: str
    help_text: str
    values: dict[tuple[str, _Labels], float] = field(default_factory=dict)

    def add(self, sample: str, labels: _Labels, value: float) -> None:
        """Add the value of one writer."""
        before = self.values.get((sample, labels))
        if before is not None:
            value = min(before, value) if self.kind == "livemin" else before + value
        self.values[sample, labels] = value

    def metric(self, name: str) -> Metric:
        """The metric in the form of prometheus_client."""
        kind = self.kind if self.kind in _COUNTS else "gauge"
        metric = Metric(name, self.help_text, kind)
        counts: dict[_Labels, float] = {}  # of a histogram, up to the bucket that is next
        for (sample, labels), value in self.values.items():
            if sample.endswith("_bucket"):  # whose buckets are in order, the one without bound last
                total = counts[labels[:-1]] = counts.get(labels[:-1], 0.0) + value
            else:
                total = value
            metric.samples.append(Sample(sample, dict(labels), total))
        for labels, total in counts.items():
            metric.samples.append(Sample(f"{name}_count", dict(labels), total))
        return metric


def _add(families: dict[str, _Family], data: bytes) -> None:
    for key, value, _ in _entries(data):
        metric, kind, sample, named, help_text = json.loads(key)
        labels = tuple((label, str(word)) for label, word in named)
        if not (
            _NAME.fullmatch(metric)
            and _NAME.fullmatch(sample)
            and all(_LABEL.fullmatch(label) for label, _ in labels)
        ):
            raise ValueError(metric)
        family = families.get(metric)
        if family is None:
            family = families[metric] = _Family(str(kind), str(help_text))
        family.add(sample, labels, value)
