"""A Hugging Face cache served dereferenced: the client sees files where the disk has links."""

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
    """The layout that huggingface_hub makes."""
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
def served(make_share: MakeShare, hub: Path) -> Share:
    return make_share(hub, links=Links.DEREFERENCE)


def snapshot(name: str) -> bytes:
    return SNAPSHOT + b"/" + name.encode()


@pytest.mark.parametrize("name", BLOBS)
def test_a_linked_file_is_shown_as_the_file_that_it_leads_to(served: Share, name: str) -> None:
    blob, content = BLOBS[name]
    shown = served.lstat(snapshot(name), wait=True)
    assert stat.S_ISREG(shown.mode)
    assert shown.size == len(content)
    assert shown == served.stat(snapshot(name), wait=True)
    assert shown == served.lstat(f"{MODEL}/blobs/{blob}".encode(), wait=True)
    assert read(served, snapshot(name)) == content


def test_a_listing_shows_what_lstat_shows(served: Share) -> None:
    shown = listing(served, SNAPSHOT)
    assert set(shown) == {b"config.json", b"model.safetensors", b"onnx"}
    for name, entry in shown.items():
        assert entry.attributes == served.lstat(SNAPSHOT + b"/" + name, wait=True)
    assert not any(stat.S_ISLNK(entry.attributes.mode) for entry in shown.values())


def test_a_link_in_the_shares_own_folder_is_listed_too(served: Share, hub: Path) -> None:
    (hub / "latest").symlink_to(MODEL)
    shown = listing(served)
    assert set(shown) == {b"latest", MODEL.encode()}
    assert shown[b"latest"].attributes == shown[MODEL.encode()].attributes


def test_a_linked_folder_is_a_folder_and_can_be_listed(served: Share, hub: Path) -> None:
    (hub / MODEL / "snapshots" / "main").symlink_to(REVISION)
    path = f"{MODEL}/snapshots/main".encode()
    assert stat.S_ISDIR(served.lstat(path, wait=True).mode)
    assert listing(served, path) == listing(served, SNAPSHOT)
    assert read(served, path + b"/onnx/model.onnx") == b"{}"


def test_nothing_is_a_link(served: Share) -> None:
    for path in (snapshot("config.json"), snapshot("onnx"), b"", f"{MODEL}/refs/main".encode()):
        with pytest.raises(NotALink):
            served.readlink(path, wait=True)


def test_a_chain_of_links_is_shown_as_its_end(served: Share, hub: Path) -> None:
    (hub / MODEL / "snapshots" / REVISION / "again").symlink_to("config.json")
    assert served.lstat(snapshot("again"), wait=True).size == 2
    assert b"again" in listing(served, SNAPSHOT)


@pytest.mark.parametrize("target", ["../../blobs/missing", "loop", "config.json/x", "fifo"])
def test_a_link_that_leads_to_nothing_is_as_if_it_were_not_there(
    served: Share, hub: Path, target: str
) -> None:
    folder = hub / MODEL / "snapshots" / REVISION
    (folder / "loop").symlink_to(target)
    assert b"loop" not in listing(served, SNAPSHOT)
    for operation in (served.lstat, served.stat, served.open_file, served.open_directory):
        with pytest.raises(NotFound):
            operation(snapshot("loop"), wait=True)
    with pytest.raises(NotFound):
        served.readlink(snapshot("loop"), wait=True)


@pytest.mark.parametrize(
    "target", ["/etc/passwd", "../../../../outside/secret", "../../../../hub", "/", "/missing"]
)
def test_a_link_that_leads_out_is_left_out_of_listings_and_denied(
    served: Share, hub: Path, outside: Path, target: str
) -> None:
    assert (outside / "secret").exists()
    (hub / MODEL / "snapshots" / REVISION / "out").symlink_to(target)
    assert b"out" not in listing(served, SNAPSHOT)
    for operation in (served.lstat, served.stat, served.open_file, served.open_directory):
        with pytest.raises(Denied, match="link_leads_out"):
            operation(snapshot("out"), wait=True)
    with pytest.raises(Denied, match="link_leads_out"):
        served.readlink(snapshot("out"), wait=True)


def test_a_model_that_is_linked_from_outside_the_cache_is_denied(
    served: Share, hub: Path, outside: Path
) -> None:
    (hub / "models--other").symlink_to(outside)
    assert set(listing(served)) == {MODEL.encode()}
    with pytest.raises(Denied):
        read(served, b"models--other/secret")


def test_a_linked_file_is_no_folder(served: Share) -> None:
    with pytest.raises(NotADirectory):
        served.open_directory(snapshot("config.json"), wait=True)


def test_a_link_whose_target_goes_while_the_folder_is_listed_is_left_out(
    served: Share, hub: Path
) -> None:
    folder = served.open_directory(SNAPSHOT, wait=True)
    (hub / MODEL / "blobs" / BLOBS["config.json"][0]).unlink()
    names = {entry.name for entry in entries(folder)}
    assert names == {b".", b"..", b"model.safetensors", b"onnx"}


def test_an_open_blob_can_be_read_when_the_link_leads_elsewhere_since(
    served: Share, hub: Path
) -> None:
    file = served.open_file(snapshot("config.json"), wait=True)
    link = hub / MODEL / "snapshots" / REVISION / "config.json"
    link.unlink()
    link.symlink_to("../../blobs/" + BLOBS["model.safetensors"][0])
    buffer = bytearray(10)
    assert file.read([memoryview(buffer)], 0) == 2
    file.close()
    assert served.lstat(snapshot("config.json"), wait=True).size == 2000
