"""The files that are served, made anew for each run from a fixed seed."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass
from pathlib import Path

_SEED = 20_240
_BLOCK = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much work a run does. `big_bytes` is a multiple of 1 MiB, `small_bytes` in bytes."""

    big_bytes: int = 1024 * _BLOCK
    small_files: int = 2_000
    small_bytes: int = 100 * 1024
    folders: int = 100
    files_per_folder: int = 100
    random_reads: int = 4_000
    idle_sessions: int = 50
    logins: int = 100

    @property
    def entries(self) -> int:
        """What a walk of the tree finds below its root."""
        return self.folders * (1 + self.files_per_folder)


QUICK = Sizes(
    big_bytes=16 * _BLOCK,
    small_files=50,
    folders=5,
    files_per_folder=10,
    random_reads=100,
    idle_sessions=4,
    logins=6,
)


@dataclass(frozen=True, slots=True)
class Data:
    """A folder with `big.bin`, `small/0000`..., and `tree/000/000`...; the files of the tree are
    empty."""

    root: Path
    sizes: Sizes

    @property
    def small_names(self) -> list[str]:
        """Paths of the small files below the root."""
        return [f"small/{number:04}" for number in range(self.sizes.small_files)]

    def build(self) -> None:
        """Make everything, and see it written, so that no disk works while servers are measured."""
        noise = random.Random(_SEED)
        (self.root / "small").mkdir(parents=True)
        with open(self.root / "big.bin", "wb") as big:
            for _ in range(self.sizes.big_bytes // _BLOCK):
                big.write(noise.randbytes(_BLOCK))
        for name in self.small_names:
            (self.root / name).write_bytes(noise.randbytes(self.sizes.small_bytes))
        for number in range(self.sizes.folders):
            folder = self.root / f"tree/{number:03}"
            folder.mkdir(parents=True)
            for file in range(self.sizes.files_per_folder):
                (folder / f"{file:03}").touch()
        os.sync()

    def warm(self) -> None:
        """Bring everything into the page cache of this machine, which is the servers'."""
        block = bytearray(_BLOCK)
        for folder, _, names in os.walk(self.root):
            for name in names:
                with open(os.path.join(folder, name), "rb", buffering=0) as file:
                    while file.readinto(block):
                        pass

    def random_offsets(self) -> list[int]:
        """Where to read 4 KiB of the big file: no block twice, so no client cache can answer."""
        blocks = range(self.sizes.big_bytes // 4096)
        chosen = random.Random(_SEED).sample(blocks, self.sizes.random_reads)
        return [block * 4096 for block in chosen]
