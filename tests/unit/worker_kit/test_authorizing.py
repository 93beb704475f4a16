"""Authorizing keys that workers generated."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sftp_gateway.auth import generate_ed25519
from sftp_gateway.worker_kit.authorizing import authorize_key


def public(name: str) -> str:
    return generate_ed25519(name).public_line.strip()


def test_a_key_added_concurrently_is_added_once(tmp_path: Path) -> None:
    file = tmp_path / "gvpocr"
    shared = public("shared")
    file.write_text(f"# ours\n{shared}\n")
    lines = [public(f"w{number}") for number in range(8)]
    with ThreadPoolExecutor(8) as threads:
        for done in [threads.submit(authorize_key, file, line) for line in lines * 3]:
            done.result()
    before, key, *added = file.read_text().splitlines()
    assert (before, key) == ("# ours", shared)
    assert sorted(added) == sorted(lines)


def test_another_key_of_the_same_name_is_kept_and_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "gvpocr"
    old, new = public("worker7"), public("worker7")
    authorize_key(file, old)
    authorize_key(file, new)
    assert file.read_text().splitlines() == [old, new]
    (warning,) = capsys.readouterr().err.splitlines()
    assert re.fullmatch(
        r"warning: (SHA256:\S+) has the same name, worker7; if it is this worker's former key, "
        r"run: "
        r"sftp-gateway keys remove gvpocr \1",
        warning,
    )


def test_an_invalid_key_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="key"):
        authorize_key(tmp_path / "gvpocr", "ssh-ed25519 AAAA worker7")
    assert not (tmp_path / "gvpocr").exists()
