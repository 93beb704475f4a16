"""Only owners whose ids were shown can be resolved to names."""

from __future__ import annotations

from pathlib import Path

from sftp_gateway.server.sftp.owners import OwnerNames, Owners, read


def test_only_ids_that_were_shown_have_names() -> None:
    owners = Owners(OwnerNames(users={0: b"root", 5: b"ada"}, groups={0: b"wheel", 5: b"staff"}))
    assert owners.names([0, 5], [0, 5]) == ([b"", b""], [b"", b""])
    owners.show(5, 0)
    assert owners.names([5, 0, 5, 7], [5, 0]) == ([b"ada", b"", b"ada", b""], [b"", b"wheel"])
    owners.show(-1, 7)
    assert owners.names([2**32 - 1], [7]) == ([b""], [b""])


def test_names_are_read_from_passwd_and_group(tmp_path: Path) -> None:
    (tmp_path / "passwd").write_bytes(
        b"root:x:0:0:root:/root:/bin/sh\n# comment\n\nada:x:5:5::/:\nalias:x:5:5::/:\n"
        b"broken:x\nodd:x:-1:5::/:\n" + b"n" * 65 + b":x:9:9::/:\n\xff:x:8:8::/:\n"
    )
    (tmp_path / "group").write_bytes(b"staff:x:5:ada\n")
    assert read(tmp_path) == OwnerNames({0: b"root", 5: b"ada", 8: b"\xff"}, {5: b"staff"})


def test_without_passwd_and_group_there_are_no_names(tmp_path: Path) -> None:
    assert read(tmp_path) == OwnerNames()
