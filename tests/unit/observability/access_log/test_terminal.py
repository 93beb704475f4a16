"""Columns on a terminal; JSON elsewhere."""

from __future__ import annotations

import os
import pty
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import pytest

from sftp_gateway.observability.access_log.terminal import TerminalSink, is_for_people
from sftp_gateway.system import containers
from tests.support.history import line, read


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[TextIO, int]]:
    """A terminal, and the descriptor of its other end."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(containers, "_MARKS", ())
    shown, inside = pty.openpty()
    with open(inside, "w") as stream:
        yield stream, shown
    os.close(shown)


LINES = read("models/a\u202e", key_label="worker7") + line(
    "denied", user="ben", path="/etc/passwd", operation="open", reason="outside_shares"
)


def test_a_terminal_gets_columns_and_red_refusals(terminal: tuple[TextIO, int]) -> None:
    stream, shown = terminal
    assert is_for_people(stream)
    TerminalSink(stream).write(LINES + b"no line \x1b[2J\n")
    first, second, third = os.read(shown, 4096).decode().splitlines()
    assert first.endswith("/home/ana/models/a\\u202e 1 kB")
    assert "worker7" in first
    assert second.startswith("\x1b[31m")
    assert second.endswith("open /etc/passwd (outside_shares)\x1b[m")
    assert third == "no line \\u001b[2J"


@pytest.mark.parametrize(
    "bad",
    [
        b'{"time":"\x1b[2J',
        b'{"time":"x","event":"denied"}',
        b'{"time":"2026-01-31T12:00:00Z"}',
        b'{"time":5,"event":"denied"}',
        b"[]",
        b'{"time":' + b"[" * 1_000,
    ],
)
def test_an_invalid_line_is_shown_escaped(terminal: tuple[TextIO, int], bad: bytes) -> None:
    stream, shown = terminal
    TerminalSink(stream).write(bad + b"\n")
    message = os.read(shown, 4096)
    assert message.startswith(bad[:8])
    assert b"\x1b" not in message


def test_no_color_is_respected(
    terminal: tuple[TextIO, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    stream, shown = terminal
    monkeypatch.setenv("NO_COLOR", "1")
    TerminalSink(stream).write(LINES)
    assert b"\x1b" not in os.read(shown, 4096)


def test_pipes_and_containers_get_json(
    terminal: tuple[TextIO, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open(tmp_path / "log", "w") as file:
        assert not is_for_people(file)
    mark = tmp_path / ".dockerenv"
    monkeypatch.setattr(containers, "_MARKS", (mark,))
    assert is_for_people(terminal[0])
    mark.touch()
    assert not is_for_people(terminal[0])
