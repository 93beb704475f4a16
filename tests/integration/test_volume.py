"""Many files and many simultaneous clients, correct to the byte."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
from pathlib import Path

import pytest

from tests.support.gateway import Gateway, wait_for

pytestmark = pytest.mark.integration

FILES = 10_000
DEPTH = 20
CLIENTS = 200

#: Names that break careless programs.
_NAMES = (
    "plain-{}.txt",
    "भूषणजी पत्र {}.pdf",
    "with spaces  {} ",
    'quote\'s "{}" `x` $HOME \\ ;&|',
    "line\nbreak\t{}",
    "-rf {}",
    "emoji 📚 {}",
    "...{}...",
)


def _make_tree(root: bytes) -> None:
    """Create FILES files, DEPTH folders deep, with odd names, some not UTF-8."""
    noise = random.Random(4254)
    folders = [root]
    for level in range(DEPTH):
        name = (
            _NAMES[level % len(_NAMES)].format(f"level {level}").encode()
            + bytes([0xE9, 0xFF])[: level % 3]
        )
        folders.append(os.path.join(folders[-1], name))
        os.mkdir(folders[-1])
    for number in range(FILES):
        name = _NAMES[number % len(_NAMES)].format(number).encode()
        if number % 10 == 0:
            name = b"\xff\xfe latin-1 \xe9 " + name
        path = os.path.join(folders[number % len(folders)], name)
        with open(path, "wb") as file:
            file.write(noise.randbytes(noise.choice((0, 1, 100, 5000, 20_000))))
        os.utime(path, (1_700_000_000 + number, 1_700_000_000 + number))
        if number % 7 == 0:
            os.chmod(path, 0o755)  # noqa: S103
    for number, folder in enumerate(reversed(folders)):
        os.utime(folder, (1_600_000_000 + number, 1_600_000_000 + number))


def _tar_digest(folder: Path) -> str:
    """The digest of a tar of `folder`: names, sizes, types, times, x bits and contents.

    Write permissions and owners are set alike: a read-only export does not show the former.
    """
    with subprocess.Popen(
        ["tar", "-c", "--sort=name", "--mode=a-w,a+rX", "--numeric-owner", "-C", str(folder), "."],
        stdout=subprocess.PIPE,
    ) as tar:
        assert tar.stdout is not None
        digest = hashlib.file_digest(tar.stdout, "sha256").hexdigest()
    assert tar.returncode == 0
    return digest


def test_tar_of_ten_thousand_files_through_a_mount_is_identical(
    gateway: Gateway, tmp_path: Path
) -> None:
    source = gateway.folder / "shared/Bhushanji"
    (source / "README.txt").unlink()
    _make_tree(os.fsencode(source))
    with gateway.mounted(tmp_path / "mnt", "/home/gvpocr/Bhushanji") as mount:
        assert _tar_digest(mount) == _tar_digest(source)
    gateway.wait_event("session_end")
    served = {event["path"] for event in gateway.events("file_closed") if event["size"]}
    assert any(r"\xff\xfe latin-1 \xe9" in path for path in served)
    assert any("भूषणजी" in path for path in served)
    # tar does not open empty files.
    filled = sum(path.is_file() and path.stat().st_size > 0 for path in source.rglob("*"))
    assert len(gateway.events("file_closed", whole=True)) == filled > FILES // 2


def test_two_hundred_clients_can_read_at_once(gateway: Gateway, tmp_path: Path) -> None:
    content = random.Random(4253).randbytes(3_000_000)
    (gateway.folder / "shared/models/weights").write_bytes(content)
    # The host key is pinned once; each client writes its own file.
    options = gateway.ssh_options()
    clients = [
        subprocess.Popen(
            [
                "sftp", "-q", *options, "-P", str(gateway.port),
                "gvpocr@127.0.0.1:models/weights", str(tmp_path / f"got{number}"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        for number in range(CLIENTS)
    ]  # fmt: skip
    for number, client in enumerate(clients):
        _, errors = client.communicate(timeout=150)
        assert client.returncode == 0, errors
        assert (tmp_path / f"got{number}").read_bytes() == content
    wait_for(lambda: len(gateway.events("session_end")) == CLIENTS, "every session's end")
    assert len(gateway.events("login_accepted")) == CLIENTS
    assert len(gateway.events("file_closed", whole=True, bytes=len(content))) == CLIENTS
    assert not gateway.events("login_refused")
