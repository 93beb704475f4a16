"""The served files, generated for each run from a fixed seed."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass
from pathlib import Path

from benchmarks import pagecache

_SEED = 20_240
_BLOCK = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much work a run does. Sizes in bytes; but for `small_bytes`, multiples of 1 MiB."""

    big_bytes: int = 1024 * _BLOCK
    parts: int = 8
    part_bytes: int = 128 * _BLOCK
    small_files: int = 2_000
    small_bytes: int = 100 * 1024
    folders: int = 100
    files_per_folder: int = 100
    random_reads: int = 4_000
    idle_sessions: int = 50
    busy_sessions: int = 16
    logins: int = 100
    cold_bytes: int = 256 * _BLOCK
    cold_reads: int = 500
    growth_bytes: int = 512 * _BLOCK
    growth_clients: tuple[int, ...] = (1, 4, 16, 64)
    far_bytes: int = 64 * _BLOCK
    far_files: int = 100

    @property
    def entries(self) -> int:
        """What a walk of the tree finds below its root."""
        return self.folders * (1 + self.files_per_folder)


QUICK = Sizes(
    big_bytes=16 * _BLOCK,
    part_bytes=2 * _BLOCK,
    small_files=50,
    folders=5,
    files_per_folder=10,
    random_reads=100,
    idle_sessions=3,
    busy_sessions=2,
    logins=4,
    cold_bytes=4 * _BLOCK,
    cold_reads=20,
    growth_bytes=16 * _BLOCK,
    growth_clients=(1, 4),
    far_bytes=_BLOCK,
    far_files=2,
)


@dataclass(frozen=True, slots=True)
class Data:
    """A folder with `big.bin`, `part/0`..., `small/0000`..., and `tree/000/000`...; the files of
    the tree are empty."""

    root: Path
    sizes: Sizes

    @property
    def small_names(self) -> list[str]:
        """Paths of the small files below the root."""
        return [f"small/{number:04}" for number in range(self.sizes.small_files)]

    @property
    def part_names(self) -> list[str]:
        """Paths below the root of the files that clients read at the same time."""
        return [f"part/{number}" for number in range(self.sizes.parts)]

    def build(self) -> None:
        """Make everything, and see it written, so that no disk works while servers are measured."""
        noise = random.Random(_SEED)
        for folder in ("small", "part"):
            (self.root / folder).mkdir(parents=True)
        large = {"big.bin": self.sizes.big_bytes}
        large |= dict.fromkeys(self.part_names, self.sizes.part_bytes)
        for name, size in large.items():
            with open(self.root / name, "wb") as file:
                for _ in range(size // _BLOCK):
                    file.write(noise.randbytes(_BLOCK))
        for name in self.small_names:
            (self.root / name).write_bytes(noise.randbytes(self.sizes.small_bytes))
        for branch in range(self.sizes.folders):
            at = self.root / f"tree/{branch:03}"
            at.mkdir(parents=True)
            for leaf in range(self.sizes.files_per_folder):
                (at / f"{leaf:03}").touch()
        os.sync()

    def warm(self) -> None:
        """Bring everything into the page cache of this machine, which is the servers'."""
        for folder, _, names in os.walk(self.root):
            for name in names:
                pagecache.fill(Path(folder, name))

    def random_offsets(self) -> list[int]:
        """Where to read 4 KiB of the big file: no block twice, so no client cache can answer."""
        blocks = range(self.sizes.big_bytes // 4096)
        chosen = random.Random(_SEED).sample(blocks, self.sizes.random_reads)
        return [block * 4096 for block in chosen]
