"""Copies by an unprivileged user belong to that user and can be changed and deleted."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.gateway import Gateway, fill, running
from tests.support.old_server import Both, beside_openssh

pytestmark = pytest.mark.integration

NOBODY = 65534
AS_NOBODY = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
MODES = {
    "": 0o755,
    "file": 0o644,
    "program": 0o755,
    "shared": 0o664,
    "folder": 0o775,
    "folder/file": 0o644,
    "folder/inner": 0o755,
    "folder/inner/file": 0o444,
}

COPYTREE = "import shutil, sys; shutil.copytree(*sys.argv[1:])"
#: Commands that copy `{source}` to the new `{target}`.
COPIES = {
    "cp -r": "cp -r {source} {target}",
    "rsync -a": "rsync -a {source}/ {target}",
    "copytree": f"{sys.executable} -c '{COPYTREE}' {{source}} {{target}}",
}


@pytest.fixture(scope="module")
def top() -> Iterator[Path]:
    """A folder that every user can enter, unlike pytest's."""
    folder = Path(tempfile.mkdtemp(prefix="copies-", dir="/var/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def both(top: Path) -> Iterator[Both]:
    tree = top / "data/models/tree"
    fill(tree, {name: name.encode() for name in MODES if name.endswith(("file", "program"))})
    fill(tree, {"shared": b"shared"})
    for name, mode in MODES.items():
        (tree / name).chmod(mode)
    with beside_openssh(top) as both:
        yield both


@pytest.fixture(params=["gateway", "openssh"])
def server(request: pytest.FixtureRequest, both: Both) -> Gateway:
    found: Gateway = getattr(both, request.param)
    return found


def run(command: str) -> None:
    """Run a shell command as an unprivileged user."""
    ran = subprocess.run(
        [*AS_NOBODY, "sh", "-c", command],
        capture_output=True,
        text=True,
        timeout=120,
        cwd="/",
        env={**os.environ, "HOME": "/nonexistent"},
    )
    assert ran.returncode == 0, (command, ran.stderr)


def modes(folder: Path) -> dict[str, int]:
    """The permissions of a folder and all its content."""
    return {
        str(path.relative_to(folder)).removeprefix("."): stat.S_IMODE(path.stat().st_mode)
        for path in (folder, *folder.rglob("*"))
    }


def use(copy: Path, command: str) -> None:
    """As its owner, change a copy, overwrite it and delete it."""
    run(f"echo more >> {copy}/file && touch {copy}/folder/new && rm {copy}/folder/new")
    run(command)
    run(f"rm -rf {copy}")
    assert not copy.exists()


@pytest.fixture
def home(top: Path) -> Iterator[Path]:
    """A folder owned by the user."""
    folder = Path(tempfile.mkdtemp(dir=top))
    os.chown(folder, NOBODY, NOBODY)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize("how", COPIES)
def test_a_copy_from_a_mount_keeps_modes_and_belongs_to_its_user(
    server: Gateway, home: Path, top: Path, how: str
) -> None:
    copy = home / "copy"
    with server.mounted(
        Path(tempfile.mkdtemp(dir=top)), "/home/gvpocr", "allow_other,default_permissions"
    ) as mount:
        command = COPIES[how].format(source=str(mount / "models/tree"), target=str(copy))
        run(f"umask 022; {command}")
        expected = MODES if how != "cp -r" else {n: m & ~0o022 for n, m in MODES.items()}
        assert modes(copy) == expected
        use(copy, command if how == "rsync -a" else f"cp -rf {mount}/models/tree/. {copy}")


def test_a_copy_by_scp_keeps_modes_and_belongs_to_its_user(server: Gateway, home: Path) -> None:
    key, known = home / "key", home / "known_hosts"
    shutil.copy(server.key, key)
    shutil.copy(server.known_hosts, known)
    for file in (key, known):
        os.chown(file, NOBODY, NOBODY)
        file.chmod(0o600)
    options = server.ssh_options(key=key, UserKnownHostsFile=str(known))
    source = "gvpocr@127.0.0.1:models/tree/."
    command = f"scp -s -r {' '.join(options)} -P {server.port} {source} {home}/copy"
    run(f"umask 022; {command}")
    # scp makes every file writable by its owner.
    assert modes(home / "copy") == {name: mode & ~0o022 | 0o200 for name, mode in MODES.items()}
    use(home / "copy", command)


def test_a_read_only_file_is_copied_as_read_only(top: Path, home: Path) -> None:
    folder = Path(tempfile.mkdtemp(dir=top))
    config = f'show_mode = "read-only"\n[shares.models]\npath = "{top}/data/models"\n'
    with (
        running(folder, config) as gateway,
        gateway.mounted(Path(tempfile.mkdtemp(dir=top)), "/home/gvpocr", "allow_other") as mount,
    ):
        run(f"cp -r {mount}/models/tree {home}/copy")
    assert modes(home / "copy") == {name: mode & 0o555 for name, mode in MODES.items()}


def test_files_readable_by_the_gateway_are_readable_on_a_worker(top: Path, both: Both) -> None:
    private = top / "data/models/private"
    private.mkdir(mode=0o700)
    (private / "file").write_bytes(b"private")
    (private / "file").chmod(0o600)
    with both.gateway.mounted(
        Path(tempfile.mkdtemp(dir=top)), "/home/gvpocr", "allow_other,default_permissions"
    ) as mount:
        assert modes(mount / "models/private") == {"": 0o755, "file": 0o644}
        run(f'test "$(cat {mount}/models/private/file)" = private')


def test_an_unreadable_file_is_not_shown_as_readable(top: Path) -> None:
    folder = Path(tempfile.mkdtemp(dir=top))
    share = folder / "share"
    fill(share, {"secret": b"secret", "file": b"file"})
    (share / "secret").chmod(0o600)
    os.chown(share / "secret", NOBODY, NOBODY)
    gateway = Gateway(folder, f'[shares.share]\npath = "{share}"\n')
    try:
        # Root without capabilities, as in a container, is subject to permissions.
        gateway.start(["setpriv", "--bounding-set=-dac_override,-dac_read_search"])
        listed = gateway.sftp("ls -l share").stdout.decode()
        assert re.search(r"^-rw------- .*secret$", listed, re.M), listed
        assert re.search(r"^-rw-r--r-- .*file$", listed, re.M), listed
        assert gateway.sftp(f"get share/secret {folder}/got").returncode == 1
    finally:
        gateway.close()
