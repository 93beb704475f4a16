"""Progress of the workers, on a terminal and elsewhere."""

from __future__ import annotations

import io

import pytest

from sftp_gateway.worker_kit.hosts import Host
from sftp_gateway.worker_kit.progress import Progress

HOSTS = [Host(name=name, address=name) for name in ("a", "b")]


class Terminal(io.StringIO):
    """A text stream that claims to be a terminal."""

    def isatty(self) -> bool:
        return True


def shown(out: io.StringIO) -> str:
    progress = Progress(HOSTS, out)
    progress(HOSTS[0], "connecting")
    progress(HOSTS[1], "installing [bold]sshfs[/bold] \x1b]0;title\x07")
    progress(HOSTS[0], "done")
    progress(HOSTS[1], "failed")
    progress.close()
    return out.getvalue()


PLAIN = (
    "a: connecting\nb: installing [bold]sshfs[/bold] \\u001b]0;title\\u0007\na: done\nb: failed\n"
)


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    drawn = shown(Terminal())
    assert "2/2" in drawn
    assert "1 failed  b: failed" in drawn
    assert "b: installing [bold]sshfs[/bold] \\u001b]0;title\\u0007" in drawn
    assert "\x1b]0;" not in drawn


def test_a_pipe_gets_plain_lines() -> None:
    assert shown(io.StringIO()) == PLAIN


def test_a_dumb_terminal_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    assert shown(Terminal()) == PLAIN
