"""Stock sshfs with common options: each mount shows identical bytes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.gateway import Gateway, running, wait_for
from tests.support.trees import below, read_tree, some_tree, write_tree

pytestmark = pytest.mark.integration

TREE = some_tree()


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Shared by all tests here, as no client can change anything."""
    with running(tmp_path_factory.mktemp("gateway")) as gateway:
        write_tree(gateway.folder / "shared/Bhushanji", TREE)
        (gateway.folder / "shared/Bhushanji/README.txt").unlink()
        yield gateway


@pytest.mark.parametrize(
    "options",
    [
        ["max_read=65536"],
        ["max_read=4096"],
        ["compression=yes"],
        ["workaround=none"],
        ["workaround=rename:renamexdev:truncate:buflimit:fstat:createmode"],
        ["cache=no"],
        ["dir_cache=no"],
        ["direct_io"],
        ["idmap=user"],
        ["idmap=user", "uid=1000", "gid=1000", "umask=022"],
        ["sshfs_sync"],
        ["sync_readdir"],
        ["no_readahead"],
        ["kernel_cache"],
        ["auto_cache"],
        ["follow_symlinks", "transform_symlinks"],
        ["disable_hardlink", "no_check_root"],
        ["ro", "noatime", "nodev", "nosuid"],
        ["allow_other", "default_permissions"],
        ["RekeyLimit=1M"],
        ["Ciphers=aes256-gcm@openssh.com", "compression=yes", "max_read=65536", "max_conns=2"],
    ],
    ids=",".join,
)
def test_a_mount_shows_the_identical_tree_with(
    gateway: Gateway, tmp_path: Path, options: list[str]
) -> None:
    with gateway.mounted(tmp_path / "mnt", "/home/gvpocr/Bhushanji", *options) as mount:
        assert read_tree(mount) == TREE


def test_a_mount_uses_all_its_connections(gateway: Gateway, tmp_path: Path) -> None:
    before = len(gateway.events("login_accepted"))
    with (
        gateway.mounted(tmp_path / "mnt", "/home/gvpocr/Bhushanji", "max_conns=4") as mount,
        contextlib.ExitStack() as opened,
    ):
        for name, content in below(b"sizes/", TREE).items():
            file = opened.enter_context(open(mount / os.fsdecode(b"sizes/" + name), "rb"))
            assert file.read() == content
    wait_for(lambda: len(gateway.events("login_accepted")) == before + 4, "all logins' lines")


def test_compression_takes_effect(gateway: Gateway) -> None:
    ran = gateway.ssh("echo hello", options=[*gateway.ssh_options(Compression="yes"), "-v"])
    assert ran.returncode == 0
    assert "compression: zlib@openssh.com" in ran.stderr


def test_rekeying_in_the_middle_of_a_file_is_transparent(gateway: Gateway, tmp_path: Path) -> None:
    options = [*gateway.ssh_options(RekeyLimit="100K"), "-v"]
    ran = gateway.sftp(f"get Bhushanji/sizes/3000001.bin {tmp_path}", options=options)
    assert ran.returncode == 0, ran.stderr
    assert read_tree(tmp_path) == {b"3000001.bin": TREE[b"sizes/3000001.bin"]}
    assert ran.stderr.count(b"SSH2_MSG_NEWKEYS received") > 2
