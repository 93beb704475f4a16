"""The gateway of the conformance tests."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.support.gateway import Gateway, fill, running

#: The content of the share, besides the folder `many`.
BIG = bytes(range(256)) * 4096 + b"end"
MANY = 5_000


@pytest.fixture(scope="session")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Shared by all tests: none can change anything, and each has its own sessions."""
    folder = tmp_path_factory.mktemp("gateway")
    share = folder / "shared/share"
    fill(share, {"big": BIG, "small": b"small\n", "empty": b"", "folder/file": b"below\n"})
    fill(folder / "shared/others", {"keys/worker_ed25519": b"not theirs"})
    (share / "link").symlink_to("small")
    (share / "out").symlink_to("/etc/passwd")
    for link in (share / "link", share / "out"):
        # Otherwise following it changes its time of access (mount(8), relatime).
        os.utime(link, (2**31, 0), follow_symlinks=False)
    (share / "many").mkdir()
    for number in range(MANY):
        (share / "many" / f"{number:04d} {'n' * (number % 240)}").touch()
    config = f"""
        [shares.share]
        path = "{share}"
        [shares.others]
        path = "{folder}/shared/others"
        [users.gvpocr]
        shares = ["share"]
    """
    with running(folder, config, SFTP_GATEWAY_MAX_HANDLES="100") as gateway:
        yield gateway
