"""A program that uses a share as uid 65534, which permission bits restrict, unlike root.

Its arguments are the share's folder, the `links` mode, the resolver's class, and pairs of an
operation and a path. It prints a JSON list with the result of each pair, or the class and text
of its error.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sftp_gateway.vfs import path_resolution
from sftp_gateway.vfs.attributes import AttributePolicy
from sftp_gateway.vfs.path_resolution import PathResolver
from sftp_gateway.vfs.share import Links, Share
from tests.unit.vfs.helpers import descriptors, listing, read

NOBODY = 65534

OPERATIONS: dict[str, Callable[[Share, bytes], Any]] = {
    "lstat": lambda share, path: share.lstat(path, wait=True).mode,
    "stat": lambda share, path: share.stat(path, wait=True).mode,
    "read": lambda share, path: read(share, path).decode(),
    "list": lambda share, path: {
        name.decode(): entry.attributes.mode for name, entry in listing(share, path).items()
    },
    "readlink": lambda share, path: share.readlink(path, wait=True).decode(),
    "check": lambda share, _: share.check().f_bsize > 0,
}


def use_as_nobody(share: Share, resolver: PathResolver, *pairs: tuple[str, str]) -> list[Any]:
    """Run this program on the folder of `share` and return the list it prints."""
    arguments = [str(share.path), share.links.value, type(resolver).__name__]
    completed = subprocess.run(
        [sys.executable, "-m", __name__, *arguments, *(word for pair in pairs for word in pair)],
        stdout=subprocess.PIPE,
        check=True,
        cwd=Path(__file__).parents[3],
    )
    results: list[Any] = json.loads(completed.stdout)
    return results


def main(root: str, links: str, resolver: str, *words: str) -> None:
    """Open the share with the caller's privileges, then drop them and run the operations."""
    share = Share(
        name="share",
        root=Path(root),
        links=Links(links),
        attribute_policy=AttributePolicy(),
        resolver=getattr(path_resolution, resolver)(),
    )
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    before = descriptors()
    results = []
    for operation, path in zip(words[::2], words[1::2], strict=True):
        try:
            results.append(OPERATIONS[operation](share, path.encode()))
        except Exception as error:  # reported to the test
            results.append([type(error).__name__, str(error)])
    assert descriptors() == before
    print(json.dumps(results))


if __name__ == "__main__":
    main(*sys.argv[1:])
