"""Real clients read while folders are swapped for links out of the share, and get nothing outside.

Landlock is off, so that the path resolvers themselves are tested.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.gateway import Gateway, fill, wait_for
from tests.support.without_syscalls import OPENAT2, runner

pytestmark = pytest.mark.integration

SECRET = b"nobody may read this"
PUBLIC = b"everyone may read it"

#: Reads per client, some of which find the folder and some the link.
READS = 400


#: How often a mount must find each, and the reads after which it fails.
ENOUGH = 20
MOST = 20_000

#: Otherwise the mount's kernel would cache the first result for a second.
NOTHING_CACHED = (
    "direct_io", "dir_cache=no", "entry_timeout=0", "attr_timeout=0", "negative_timeout=0",
)  # fmt: skip

#: Runs in its own process: each state lasts for some of a client's steps and changes between
#: others.
SWAP = """
import os, random, sys, time
folder, *targets = sys.argv[1:]
aside, link = folder + "-aside", folder + "-link"
print(flush=True)
while os.getppid() == int(os.environ["PARENT"]):
    for target in targets:
        os.symlink(target, link)
        os.rename(folder, aside)
        os.rename(link, folder)
        time.sleep(random.random() / 500)
        os.unlink(folder)
        os.rename(aside, folder)
        time.sleep(random.random() / 200)
"""


@contextmanager
def swapping(folder: Path, *targets: Path | str) -> Iterator[None]:
    """Repeatedly swap `folder` with links to each of `targets`."""
    swapper = subprocess.Popen(
        [sys.executable, "-c", SWAP, folder, *targets],
        env={**os.environ, "PARENT": str(os.getpid())},
        stdout=subprocess.PIPE,
    )
    try:
        assert swapper.stdout is not None
        swapper.stdout.readline()
        yield
        assert swapper.poll() is None
    finally:
        swapper.kill()
        swapper.communicate()


@pytest.fixture(params=[(), (OPENAT2,)], ids=["openat2", "descriptor walk"])
def gateway(request: pytest.FixtureRequest, make_gateway: Callable[..., Gateway]) -> Gateway:
    gateway = make_gateway(SFTP_GATEWAY_LANDLOCK="off")
    return gateway.start(runner(*request.param) if request.param else ())


def test_swapping_a_folder_for_links_exposes_nothing_outside(
    gateway: Gateway, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_bytes(SECRET)
    (outside / "only outside").touch()
    folder = gateway.folder / "shared/models/swapped"
    folder.mkdir()
    (folder / "file").write_bytes(PUBLIC)
    up = "../" * len(folder.parent.parts) + str(outside).lstrip("/")

    with (
        gateway.mounted(tmp_path / "mnt", "/home/gvpocr/models", *NOTHING_CACHED) as mount,
        swapping(folder, outside, up),
    ):
        got = tmp_path / "got"
        got.mkdir()
        commands = [f"-get models/swapped/file {got}/{n}" for n in range(READS)]
        with ThreadPoolExecutor() as threads:
            fetching = threads.submit(gateway.sftp, *commands)
            read: Counter[bytes] = Counter()
            while min(read[PUBLIC], read[b""]) < ENOUGH and read.total() < MOST:
                read[_read(mount / "swapped/file")] += 1
            listed = {name for _ in range(READS) for name in _list(mount / "swapped")}
        assert fetching.result().returncode == 0

    fetched = Counter(path.read_bytes() for path in got.iterdir())
    for found in (read, fetched):
        assert set(found) <= {PUBLIC, b""}
        assert found[PUBLIC]
    assert read[b""] >= ENOUGH  # so the link was met, too
    assert listed == {"file"}
    gateway.wait_event("denied", share="models", reason="link_leads_out")
    denied = {event["reason"] for event in gateway.events("denied", share="models")}
    assert denied <= {"link_leads_out", "unreadable"}


@pytest.mark.parametrize("landlock", ["off", "require"])
def test_a_share_root_replaced_by_a_link_is_not_followed(
    make_gateway: Callable[..., Gateway], tmp_path: Path, landlock: str
) -> None:
    """Links in a share's path are resolved at the start: later changes cannot move it."""
    gateway = make_gateway(
        '[shares.outer]\npath = "outer"\n[shares.inner]\npath = "way/inner"\n',
        SFTP_GATEWAY_LANDLOCK=landlock,
    )
    inner, aside = gateway.folder / "outer/inner", gateway.folder / "outer/aside"
    fill(gateway.folder, {"outer/inner/file": PUBLIC, "secret/file": SECRET})
    (gateway.folder / "way").symlink_to("outer")
    gateway.start()

    def got() -> bytes:
        gateway.sftp(f"-get inner/file {tmp_path}/got")
        return _read(tmp_path / "got")

    assert got() == PUBLIC
    inner.rename(aside)
    inner.symlink_to(gateway.folder / "secret")
    wait_for(
        lambda: "its path now contains a symbolic link" in gateway.http("/readyz")[1],
        "the link to be noticed",
    )
    assert gateway.process is not None
    gateway.process.send_signal(signal.SIGHUP)
    gateway.wait_event("configuration_reloaded", changed="nothing")
    assert f"shares.inner.path: {inner}: its path now contains a symbolic link" in gateway.stderr
    assert got() == PUBLIC, "the original folder is still served"
    inner.unlink()
    aside.rename(inner)
    wait_for(lambda: gateway.http("/readyz")[0] == 200, "the share to be back")
    assert got() == PUBLIC


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _list(path: Path) -> list[str]:
    try:
        return [each.name for each in path.iterdir()]
    except OSError:
        return []
