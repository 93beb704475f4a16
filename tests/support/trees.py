"""Trees of files to serve and to compare, named by bytes as on the disk."""

from __future__ import annotations

import os
import random
from collections.abc import Mapping
from pathlib import Path

#: Names that clients, shells and logs stumble over.
ODD_NAMES = (
    b"with spaces",
    b" leading and trailing ",
    b'quote\'s and "quotes"',
    b"back\\slash",
    b"gl*b[x]?",
    b"-dash",
    b"tab\there",
    b"new\nline",
    b"; rm -rf $HOME `id` | cat > x &",
    "एक पत्र.pdf".encode(),
    "नमस्\u200dते \u202eabc".encode(),
    b"not UTF-8 \xff\xfe\x80",
    b"n" * 255,
)


def some_tree() -> dict[bytes, bytes]:
    """Files of odd names and of sizes around the limits of packets, two folders deep."""
    noise = random.Random(1759)
    sizes = (0, 1, 32_767, 32_768, 32_769, 65_536, 131_073, 262_145, 3_000_001)
    files = {b"sizes/%d.bin" % size: noise.randbytes(size) for size in sizes}
    files |= {b"names/" + name: b"in " + name for name in ODD_NAMES}
    files |= {b"folders/" + name + b"/file": b"below " + name for name in ODD_NAMES}
    return files


def write_tree(folder: Path, files: Mapping[bytes, bytes]) -> None:
    for name, content in files.items():
        path = os.path.join(os.fsencode(folder), name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(content)


def read_tree(folder: Path) -> dict[bytes, bytes]:
    """All files below `folder`; an error where a folder cannot be listed."""
    top = os.fsencode(folder)
    found = {}
    for path, _, names in os.walk(top, onerror=_raise):
        for name in names:
            with open(os.path.join(path, name), "rb") as file:
                found[os.path.relpath(os.path.join(path, name), top)] = file.read()
    return found


def below(prefix: bytes, files: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    """The files whose names start with `prefix`, without it."""
    return {n.removeprefix(prefix): c for n, c in files.items() if n.startswith(prefix)}


def _raise(error: OSError) -> None:
    raise error
