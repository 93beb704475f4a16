"""A Hugging Face cache with `links = "dereference"`: clients see files instead of links."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from sftp_gateway.errors import Denied, NotADirectory, NotALink, NotFound
from sftp_gateway.vfs.share import Links, Share
from tests.unit.vfs.helpers import MakeShare, entries, listing, read

MODEL = "models--org--name"
REVISION = "5f0b02c75b57c5855da9ae460ce51323ea669d8a"
BLOBS = {"config.json": ("a1" * 20, b"{}"), "model.safetensors": ("b2" * 32, b"\0" * 2000)}
SNAPSHOT = f"{MODEL}/snapshots/{REVISION}".encode()


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    """A cache with the layout of huggingface_hub."""
    hub = tmp_path / "hub"
    model = hub / MODEL
    for folder in ("blobs", "refs", f"snapshots/{REVISION}/onnx"):
        (model / folder).mkdir(parents=True)
    (model / "refs" / "main").write_text(REVISION)
    snapshot = model / "snapshots" / REVISION
    for name, (blob, content) in BLOBS.items():
        (model / "blobs" / blob).write_bytes(content)
        (snapshot / name).symlink_to(f"../../blobs/{blob}")
    (snapshot / "onnx" / "model.onnx").symlink_to("../../../blobs/" + BLOBS["config.json"][0])
    return hub


@pytest.fixture
def dereferenced(make_share: MakeShare, hub: Path) -> Share:
    return make_share(hub, links=Links.DEREFERENCE)


def snapshot(name: str) -> bytes:
    return SNAPSHOT + b"/" + name.encode()


@pytest.mark.parametrize("name", BLOBS)
def test_a_link_to_a_file_has_the_targets_attributes(dereferenced: Share, name: str) -> None:
    blob, content = BLOBS[name]
    shown = dereferenced.lstat(snapshot(name), wait=True)
    assert stat.S_ISREG(shown.mode)
    assert shown.size == len(content)
    assert shown == dereferenced.stat(snapshot(name), wait=True)
    assert shown == dereferenced.lstat(f"{MODEL}/blobs/{blob}".encode(), wait=True)
    assert read(dereferenced, snapshot(name)) == content


def test_a_listing_and_lstat_agree(dereferenced: Share) -> None:
    shown = listing(dereferenced, SNAPSHOT)
    assert set(shown) == {b"config.json", b"model.safetensors", b"onnx"}
    for name, entry in shown.items():
        assert entry.attributes == dereferenced.lstat(SNAPSHOT + b"/" + name, wait=True)
    assert not any(stat.S_ISLNK(entry.attributes.mode) for entry in shown.values())


def test_a_link_in_the_share_root_is_listed(dereferenced: Share, hub: Path) -> None:
    (hub / "latest").symlink_to(MODEL)
    shown = listing(dereferenced)
    assert set(shown) == {b"latest", MODEL.encode()}
    assert shown[b"latest"].attributes == shown[MODEL.encode()].attributes


def test_a_link_to_a_folder_can_be_listed(dereferenced: Share, hub: Path) -> None:
    (hub / MODEL / "snapshots" / "main").symlink_to(REVISION)
    path = f"{MODEL}/snapshots/main".encode()
    assert stat.S_ISDIR(dereferenced.lstat(path, wait=True).mode)
    assert listing(dereferenced, path) == listing(dereferenced, SNAPSHOT)
    assert read(dereferenced, path + b"/onnx/model.onnx") == b"{}"


def test_readlink_always_fails(dereferenced: Share) -> None:
    for path in (snapshot("config.json"), snapshot("onnx"), b"", f"{MODEL}/refs/main".encode()):
        with pytest.raises(NotALink):
            dereferenced.readlink(path, wait=True)


def test_a_chain_of_links_has_its_last_targets_attributes(dereferenced: Share, hub: Path) -> None:
    (hub / MODEL / "snapshots" / REVISION / "again").symlink_to("config.json")
    assert dereferenced.lstat(snapshot("again"), wait=True).size == 2
    assert b"again" in listing(dereferenced, SNAPSHOT)


@pytest.mark.parametrize("target", ["../../blobs/missing", "loop", "config.json/x", "fifo"])
def test_a_dangling_link_is_missing(dereferenced: Share, hub: Path, target: str) -> None:
    folder = hub / MODEL / "snapshots" / REVISION
    (folder / "loop").symlink_to(target)
    assert b"loop" not in listing(dereferenced, SNAPSHOT)
    for operation in (
        dereferenced.lstat,
        dereferenced.stat,
        dereferenced.open_file,
        dereferenced.open_directory,
    ):
        with pytest.raises(NotFound):
            operation(snapshot("loop"), wait=True)
    with pytest.raises(NotFound):
        dereferenced.readlink(snapshot("loop"), wait=True)


@pytest.mark.parametrize(
    "target", ["/etc/passwd", "../../../../outside/secret", "../../../../hub", "/", "/missing"]
)
def test_an_escaping_link_is_not_listed_and_is_denied(
    dereferenced: Share, hub: Path, outside: Path, target: str
) -> None:
    assert (outside / "secret").exists()
    (hub / MODEL / "snapshots" / REVISION / "out").symlink_to(target)
    assert b"out" not in listing(dereferenced, SNAPSHOT)
    for operation in (
        dereferenced.lstat,
        dereferenced.stat,
        dereferenced.open_file,
        dereferenced.open_directory,
    ):
        with pytest.raises(Denied, match="link_leads_out"):
            operation(snapshot("out"), wait=True)
    with pytest.raises(Denied, match="link_leads_out"):
        dereferenced.readlink(snapshot("out"), wait=True)


def test_a_model_linked_from_outside_the_cache_is_denied(
    dereferenced: Share, hub: Path, outside: Path
) -> None:
    (hub / "models--other").symlink_to(outside)
    assert set(listing(dereferenced)) == {MODEL.encode()}
    with pytest.raises(Denied):
        read(dereferenced, b"models--other/secret")


def test_a_link_to_a_file_cannot_be_listed(dereferenced: Share) -> None:
    with pytest.raises(NotADirectory):
        dereferenced.open_directory(snapshot("config.json"), wait=True)


def test_a_link_whose_target_vanishes_during_listing_is_omitted(
    dereferenced: Share, hub: Path
) -> None:
    folder = dereferenced.open_directory(SNAPSHOT, wait=True)
    (hub / MODEL / "blobs" / BLOBS["config.json"][0]).unlink()
    names = {entry.name for entry in entries(folder)}
    assert names == {b".", b"..", b"model.safetensors", b"onnx"}


def test_an_open_blob_stays_readable_after_its_link_changes(dereferenced: Share, hub: Path) -> None:
    file = dereferenced.open_file(snapshot("config.json"), wait=True)
    link = hub / MODEL / "snapshots" / REVISION / "config.json"
    link.unlink()
    link.symlink_to("../../blobs/" + BLOBS["model.safetensors"][0])
    buffer = bytearray(10)
    assert file.read([memoryview(buffer)], 0) == 2
    file.close()
    assert dereferenced.lstat(snapshot("config.json"), wait=True).size == 2000
