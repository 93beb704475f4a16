"""A cache created by huggingface_hub is used through a mount."""

from __future__ import annotations

import json
import os
import random
import shutil
import stat
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.fake_hub import fake_hub
from tests.support.gateway import Gateway

pytestmark = pytest.mark.integration

REPOSITORY = "test-org/tiny-model"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
FOLDER = "models--test-org--tiny-model"


def _safetensors(data: bytes) -> bytes:
    """One tensor of bytes, in the format of safetensors: header's length, JSON header, data."""
    header = {"weight": {"dtype": "U8", "shape": [len(data)], "data_offsets": [0, len(data)]}}
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


FILES = {
    "config.json": b'{"model_type": "tiny", "hidden_size": 7}\n',
    "model.safetensors": _safetensors(random.Random(9).randbytes(2_000_003)),
    "tokenizer/vocab.txt": "नमस्ते\nworld\n".encode(),
}

#: A worker's program, which reads from the cache only.
WORKER = """
import json, mmap, struct, sys
from pathlib import Path
from huggingface_hub import hf_hub_download, snapshot_download, try_to_load_from_cache

repository, commit, copy_to = sys.argv[1:]
config = hf_hub_download(repository, "config.json", local_files_only=True)
assert json.load(open(config)) == {"model_type": "tiny", "hidden_size": 7}
assert Path(hf_hub_download(repository, "config.json")).samefile(config)
assert try_to_load_from_cache(repository, "config.json") == config
snapshot = Path(snapshot_download(repository, local_files_only=True))
assert snapshot.name == commit, snapshot
assert Path(snapshot_download(repository, revision=commit, local_files_only=True)) == snapshot
with open(snapshot / "model.safetensors", "rb") as file:
    weights = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    length = struct.unpack("<Q", weights[:8])[0]
    [start, end] = json.loads(weights[8 : 8 + length])["weight"]["data_offsets"]
    assert (start, 8 + length + end) == (0, len(weights))
for path in snapshot.rglob("*"):
    if path.is_file():
        copy = Path(copy_to, path.relative_to(snapshot))
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
"""


def _run(code: str, *arguments: str, **variables: str) -> str:
    """The output of a program that uses huggingface_hub without this machine's settings."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    ran = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**inherited, "HF_HUB_DISABLE_TELEMETRY": "1", **variables},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache created by huggingface_hub, with a dangling link as in a broken one."""
    folder = tmp_path_factory.mktemp("huggingface")
    with fake_hub(REPOSITORY, COMMIT, FILES) as endpoint:
        _run(
            "import sys, huggingface_hub\n"
            "huggingface_hub.snapshot_download(sys.argv[1], cache_dir=sys.argv[2])",
            REPOSITORY,
            str(folder / "hub"),
            HF_ENDPOINT=endpoint,
            HF_HOME=str(folder / "home"),
        )
    snapshot = folder / "hub" / FOLDER / "snapshots" / COMMIT
    assert os.readlink(snapshot / "config.json").startswith("../../blobs/")
    (snapshot / "gone.bin").symlink_to("../../blobs/gone")
    return folder / "hub"


def _with_links() -> list[str]:
    """sshfs options that allow links with `..`, which newer versions refuse by default."""
    usage = subprocess.run(["sshfs", "--help"], capture_output=True, text=True)
    return ["no_contain_symlinks"] if "no_contain_symlinks" in usage.stdout + usage.stderr else []


@pytest.fixture(params=["dereference", "auto", "keep"])
def mount(
    request: pytest.FixtureRequest,
    make_gateway: Callable[..., Gateway],
    cache: Path,
    tmp_path: Path,
) -> Iterator[Path]:
    """The cache through a mount of the home folder, with each value of `links`."""
    gateway = make_gateway(
        f'[shares.".cache/huggingface/hub"]\npath = "{cache}"\nlinks = "{request.param}"\n'
    ).start()
    options = _with_links() if request.param == "keep" else []
    with gateway.mounted(tmp_path / "mnt", "/home/gvpocr", *options) as home:
        yield home / ".cache/huggingface/hub"


def test_a_worker_opens_the_model_offline(mount: Path, tmp_path: Path) -> None:
    copies = tmp_path / "copies"
    _run(
        WORKER,
        REPOSITORY,
        COMMIT,
        str(copies),
        HF_HUB_OFFLINE="1",
        HF_HUB_CACHE=str(mount),
        HF_HOME=str(tmp_path / "home"),
    )
    assert {
        str(path.relative_to(copies)): path.read_bytes()
        for path in copies.rglob("*")
        if path.is_file()
    } == FILES


@pytest.mark.parametrize("mount", ["dereference"], indirect=True)
def test_a_dereferenced_share_shows_no_links(mount: Path) -> None:
    entries = list(mount.rglob("*"))
    assert len(entries) > 10
    assert [entry for entry in entries if entry.is_symlink()] == []
    snapshot = mount / FOLDER / "snapshots" / COMMIT
    assert {*os.listdir(snapshot)} == {"config.json", "model.safetensors", "tokenizer"}
    assert not os.path.lexists(snapshot / "gone.bin")
    with pytest.raises(OSError, match=r"Invalid argument|Operation not permitted"):
        os.readlink(snapshot / "config.json")
    status = os.lstat(snapshot / "model.safetensors")
    assert status.st_size == len(FILES["model.safetensors"])


@pytest.mark.parametrize("mount", ["keep"], indirect=True)
def test_a_share_with_links_shows_them_relative_and_working(mount: Path) -> None:
    snapshot = mount / FOLDER / "snapshots" / COMMIT
    for name, content in FILES.items():
        assert (snapshot / name).is_symlink()
        assert os.readlink(snapshot / name).startswith("../" * (2 + name.count("/")) + "blobs/")
        assert (snapshot / name).read_bytes() == content
    assert os.readlink(snapshot / "gone.bin") == "../../blobs/gone"
    assert not (snapshot / "gone.bin").exists()


SCAN = """
import sys
from huggingface_hub import scan_cache_dir
found = scan_cache_dir(sys.argv[1])
assert not found.warnings, found.warnings
print(found.size_on_disk)
"""


def _scanned(cache: Path) -> int:
    """Size of the cache by `hf cache ls`, which must not warn."""
    return int(_run(SCAN, str(cache)))


def _found(repository: Path) -> int:
    """Size of the repository's files by `du`, which follows no links."""
    files = [path for path in repository.rglob("*") if stat.S_ISREG(path.lstat().st_mode)]
    return sum(
        path.lstat().st_size
        for path in files
        if path.relative_to(repository).parts[0] in ("blobs", "snapshots")
    )


def test_a_fresh_cache_has_no_warnings(gateway: Gateway, tmp_path: Path) -> None:
    with gateway.mounted(tmp_path / "mnt") as home:
        assert _scanned(home / ".cache/huggingface/hub") == 0


@pytest.mark.parametrize("revisions", [1, 2])
@pytest.mark.parametrize("links", ["dereference", "auto", "keep"])
def test_a_file_is_found_once_in_each_revision(
    make_gateway: Callable[..., Gateway], cache: Path, tmp_path: Path, links: str, revisions: int
) -> None:
    """With links served as links, once in total if the client follows them."""
    hub = tmp_path / "hub"
    shutil.copytree(cache, hub, symlinks=True)
    snapshots = hub / FOLDER / "snapshots"
    (snapshots / COMMIT / "gone.bin").unlink()
    for number in range(1, revisions):
        shutil.copytree(snapshots / COMMIT, snapshots / f"{number:040}", symlinks=True)
    content = sum(map(len, FILES.values()))
    gateway = make_gateway(f'[shares.hub]\npath = "{hub}"\nlinks = "{links}"\n').start()
    options = _with_links() if links == "keep" else []
    with gateway.mounted(tmp_path / "mnt", "hub", *options) as mount:
        times = 1 if links == "keep" else revisions
        assert _scanned(mount) == times * content
        copied = subprocess.run(["rsync", "-a", f"{mount}/", tmp_path / "copy"], timeout=60)
        assert copied.returncode == 0
        for folder in (mount, tmp_path / "copy"):
            assert _found(folder / FOLDER) == times * content
    assert _scanned(tmp_path / "copy") == times * content
