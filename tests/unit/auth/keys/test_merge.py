"""Merging lines of another server's authorized_keys."""

from __future__ import annotations

import pytest

from sftp_gateway.auth import generate_ed25519, parse_authorized_keys
from sftp_gateway.auth.keys.merge import SourceFile, merge_keys

ONE = generate_ed25519("one").public_line
TWO = generate_ed25519("two").public_line


def merged(text: str, *files: str) -> tuple[str, list[str]]:
    changed, results = merge_keys(
        text, [SourceFile(f"file{n}", each) for n, each in enumerate(files)]
    )
    return changed, [result.outcome for result in results]


def test_lines_are_merged_with_options_and_comments() -> None:
    old = f'# rack 3\n# node 7\nfrom="192.0.2.0/24",no-pty {ONE} of rack 3\n\n{TWO}\n# the end\n'
    changed, results = merged("", old)
    assert changed == (f'# rack 3\n# node 7\nfrom="192.0.2.0/24",no-pty {ONE} of rack 3\n{TWO}\n')
    assert results == ["added", "added"]
    assert parse_authorized_keys(changed, source="x").errors == ()


@pytest.mark.parametrize(
    "there",
    ["", f"{TWO}\n", TWO, "# mine\n"],
    ids=["empty", "a line", "a line without an end", "a comment"],
)
def test_merging_keeps_existing_lines_and_is_idempotent(there: str) -> None:
    old = f'{ONE}\nfrom="192.0.2.1" {ONE}\n{ONE} again\nssh-dss AAAA {ONE}\n'
    changed, results = merged(there, old)
    assert changed == f'{there.rstrip()}\n{ONE}\nfrom="192.0.2.1" {ONE}\n'.lstrip()
    assert results == ["added", "added", "there already", "refused"]
    assert merged(changed, old) == (
        changed,
        ["there already", "there already", "there already", "refused"],
    )


def test_merging_does_not_loosen_options() -> None:
    there = f'expiry-time="20200101Z" {ONE}\n'
    changed, (result,) = merge_keys(there, [SourceFile("old", ONE)])
    assert changed == there
    assert result.outcome == "there already"
    assert result.said == "with other options, which are left as they are"


def test_a_key_in_two_files_is_merged_once() -> None:
    changed, results = merge_keys(
        "", [SourceFile("a", f"\n{ONE}"), SourceFile("b", f"{ONE} other comment")]
    )
    assert changed == f"{ONE}\n"
    assert [(result.file, result.line, result.outcome, result.said) for result in results] == [
        ("a", 2, "added", ""),
        ("b", 1, "there already", "the same as a, line 2"),
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("ssh-dss AAAAB3NzaC1kc3M= old", "keys of type ssh-dss are not accepted"),
        ('command="/usr/bin/rrsync /data" KEY', "the gateway runs no commands"),
        ("verify-required KEY", "verify-required: the gateway cannot require a security key's PIN"),
        ("agent-thing KEY", "unknown option agent-thing"),
        ("KEY=", "the key is not complete base64"),
        ("nonsense", "the line has no key"),
    ],
)
def test_a_refused_line_has_a_reason_and_loses_its_comments(line: str, message: str) -> None:
    line = line.replace("KEY", ONE.rpartition(" ")[0])
    changed, (refused, added) = merge_keys("", [SourceFile("old", f"# about it\n{line}\n{TWO}\n")])
    assert (refused.line, refused.outcome, refused.key) == (2, "refused", None)
    assert refused.said.startswith(message)
    assert added.outcome == "added"
    assert changed == f"{TWO}\n"


def test_a_file_with_bom_and_crlf_is_merged() -> None:
    changed, results = merge_keys("", [SourceFile("old", f"\ufeff# one\r\n{ONE}\r\n{TWO}\r\n")])
    assert changed == f"# one\n{ONE}\n{TWO}\n"
    assert [result.outcome for result in results] == ["added", "added"]
