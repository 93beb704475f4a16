"""Editing one line of authorized_keys leaves all others unchanged."""

from __future__ import annotations

import base64
import multiprocessing
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from sftp_gateway.auth.keys import keyring
from sftp_gateway.auth.keys.authorized_keys import parse_authorized_keys
from sftp_gateway.system import atomic


def line(number: int, options: str = "", comment: str = "") -> str:
    fields = (b"ssh-ed25519", bytes([number]) * 32)
    blob = b"".join(len(field).to_bytes(4, "big") + field for field in fields)
    words = (options, "ssh-ed25519", base64.b64encode(blob).decode(), comment)
    return " ".join(word for word in words if word)


TEXT = f"""# workers
{line(1, comment="one")}
nonsense that stays

{line(2, 'restrict,expiry-time="20290101Z",from="192.0.2.0/24"', "two words")}
{line(3, 'environment="A= ssh-rsa x"')}
"""
WHEN = datetime(2030, 5, 6, 7, 8, 9, tzinfo=UTC)


def test_a_key_is_appended_even_without_a_final_newline() -> None:
    text, key = keyring.add_line(TEXT.rstrip("\n"), f"  {line(4, comment='four')} \n")
    assert text == TEXT + line(4, comment="four") + "\n"
    assert key.comment == "four"
    assert keyring.add_line("", line(4))[0] == line(4) + "\n"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (line(1, 'from="192.0.2.1"'), "is already in the file"),
        ("", "give one public key"),
        ("# nothing", "give one public key"),
        (f"{line(4)}\n{line(5)}", "give one public key"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----", "the line has no key"),
        (line(4, "unheard-of"), "unknown option"),
    ],
)
def test_an_invalid_or_duplicate_key_is_not_added(given: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        keyring.add_line(TEXT, given)


def test_removing_a_key_removes_all_its_lines_only() -> None:
    twice = TEXT + line(1, 'from="192.0.2.9"') + "\n"
    text, key = keyring.remove_key(twice, "one")
    assert text == TEXT.replace(line(1, comment="one") + "\n", "")
    assert key.comment == "one"


@pytest.mark.parametrize(("name", "number"), [("one", 1), ("two words", 2)])
def test_setting_an_expiry_keeps_other_options(name: str, number: int) -> None:
    text, _ = keyring.expire_key(TEXT, name, WHEN)
    before, after = (parse_authorized_keys(each, source="x").keys for each in (TEXT, text))
    for old, new in zip(before, after, strict=True):
        assert (new.blob, new.comment, new.sources) == (old.blob, old.comment, old.sources)
        changed = old.blob == before[number - 1].blob
        assert new.expires == (WHEN if changed else old.expires)
    # All lines but one are unchanged.
    assert sum(a != b for a, b in zip(TEXT.split("\n"), text.split("\n"), strict=True)) == 1


def test_a_label_must_name_exactly_one_key() -> None:
    (_, one), *_ = keyring.key_lines(TEXT)
    for name in (one.fingerprint, one.fingerprint[:14], one.fingerprint[7:14], "one"):
        assert keyring.find(TEXT, name) == one
    for name, message in (("SHA256:", "more than one key"), ("three", "there is no"), ("", "give")):
        with pytest.raises(ValueError, match=message):
            keyring.find(TEXT, name)


def test_options_are_shown_verbatim_without_the_expiry() -> None:
    assert keyring.options_of(TEXT, keyring.find(TEXT, "one")) == ""
    two = keyring.options_of(TEXT, keyring.find(TEXT, "two words"))
    assert two == 'restrict,from="192.0.2.0/24"'


# Files


def append(text: str) -> tuple[str, None]:
    return f"{text}{os.getpid()}\n", None


def _appends(path: Path) -> None:
    for _ in range(50):
        atomic.change(path, append)


def test_concurrent_edits_are_all_applied(tmp_path: Path) -> None:
    path = tmp_path / "file"
    writers = [
        multiprocessing.get_context("fork").Process(target=_appends, args=(path,)) for _ in range(4)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len(path.read_text().splitlines()) == 200
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_an_edit_keeps_a_concurrent_save_of_an_editor(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old\n")
    edits = []

    def edit(text: str) -> tuple[str, None]:
        edits.append(text)
        if len(edits) == 1:
            path.write_text("saved meanwhile\n")
        return f"{text}new\n", None

    atomic.change(path, edit)
    assert edits == ["old\n", "saved meanwhile\n"]
    assert path.read_text() == "saved meanwhile\nnew\n"


def test_an_edit_preserves_mode_owner_and_link(tmp_path: Path) -> None:
    path, link = tmp_path / "file", tmp_path / "link"
    path.write_text("old\n")
    path.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(path, 1234, 4321)
    before = path.stat()
    link.symlink_to(path)
    atomic.change(link, lambda text: (text + "new\n", None))
    after = path.stat()
    assert link.is_symlink()
    assert path.read_text() == "old\nnew\n"
    assert (after.st_mode, after.st_uid, after.st_gid) == (
        before.st_mode, before.st_uid, before.st_gid,
    )  # fmt: skip
    assert after.st_ino != before.st_ino


def test_an_edit_that_fails_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old\n")

    def fail(text: str) -> tuple[str, None]:
        raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011
        atomic.change(path, fail)
    assert path.read_text() == "old\n"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
@pytest.mark.parametrize("at", ["file", "folder"])
def test_a_link_owned_by_another_user_is_not_followed(tmp_path: Path, at: str) -> None:
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim/file").write_text("old\n")
    theirs = tmp_path / "theirs"
    if at == "file":
        theirs.mkdir()
        os.chown(theirs, 1234, 4321)
        (theirs / "file").symlink_to(tmp_path / "victim/file")
    else:
        theirs.symlink_to(tmp_path / "victim")
        os.lchown(theirs, 1234, 4321)
    with pytest.raises(OSError, match="others than user 0 can change"):
        atomic.change(theirs / "file", lambda text: (text + "new\n", None))
    assert (tmp_path / "victim/file").read_text() == "old\n"
