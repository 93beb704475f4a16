"""Files whose bytes can be told from where they are, so that nothing has to be read twice.

Word `i` of file `f`, little-endian and of 8 bytes, is `i ^ (f << 32)`: bytes of another place, of
another file or of another session's answer cannot be right by chance.
"""

from __future__ import annotations

import array
import random
import sys
from collections.abc import Iterator
from pathlib import Path

_WORD = 8


class Pattern:
    """`files` files of `size` bytes each, which is a multiple of 8 and at most 32 GiB."""

    def __init__(self, *, files: int, size: int) -> None:
        self.size = size
        self.names = [f"pattern{number}.bin" for number in range(files)]
        self._contents = [_content(number, size // _WORD) for number in range(files)]

    def write(self, folder: Path) -> None:
        """Make the files in `folder`, which puts them into the page cache too."""
        for name, content in zip(self.names, self._contents, strict=True):
            (folder / name).write_bytes(content)

    def is_right(self, file: int, offset: int, data: bytes) -> bool:
        """Whether `data` is what is at `offset` of the file with that number."""
        return data == self._contents[file][offset : offset + len(data)]


def places(noise: random.Random, *, size: int, longest: int) -> Iterator[tuple[int, int]]:
    """Random offsets in a file of `size` bytes, and lengths from 1 to `longest`; without end.

    One in eight lengths is short, because a length drawn evenly hardly ever is.
    """
    while True:
        length = noise.randint(1, longest if noise.randrange(8) else min(64, longest))
        yield noise.randrange(size - length + 1), length


def _content(file: int, words: int) -> bytes:
    # The file's number and the counter share no bit, so that `^` is `+`, and a range does it.
    counter = array.array("Q", range(file << 32, (file << 32) + words))
    if sys.byteorder == "big":
        counter.byteswap()
    return counter.tobytes()
