"""Output for people and for programs: tables, messages and JSON."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from types import SimpleNamespace

import pytest

from sftp_gateway import console

HEADER = ("USER", "BYTES")
ROWS = [("ana", "7"), ("[red]b[/red]\x1b[2J\u202e", "1234")]


class Terminal(io.StringIO):
    """A text stream that claims to be a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("NO_COLOR", raising=False)
    out = Terminal()
    monkeypatch.setattr(console, "sys", SimpleNamespace(stdout=out, stderr=out))
    return out


PLAIN = "USER                         BYTES\nana                              7\n" + (
    "[red]b[/red]\\u001b[2J\\u202e   1234\n"
)


def test_a_pipe_gets_a_plain_table(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_table(HEADER, ROWS, numbers=[1], marked=[1])
    assert capsys.readouterr().out == PLAIN


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_a_terminal_without_colours_gets_a_plain_table(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    console.print_table(HEADER, ROWS, numbers=[1])
    console.report("error: b\x1b[2J")
    assert terminal.getvalue() == PLAIN + "error: b\\u001b[2J\n"


def test_data_in_a_table_is_escaped_on_a_terminal(terminal: Terminal) -> None:
    console.print_table(HEADER, ROWS, numbers=[1], marked=[1])
    drawn = terminal.getvalue()
    assert "[red]b[/red]\\u001b[2J\\u202e" in drawn
    assert "\x1b[31m" in drawn  # the marked row
    assert "\x1b[2J" not in drawn
    assert "\u202e" not in drawn


def test_a_terminal_gets_coloured_errors(terminal: Terminal) -> None:
    console.report("error: b\x1b[2J")
    console.report("no error: c")
    assert terminal.getvalue() == "\x1b[1;31merror:\x1b[m b\\u001b[2J\nno error: c\n"


def test_json_output_is_the_data(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_json({"a\u202e": ["\x9b[2J", "é"]})
    out = capsys.readouterr().out
    assert json.loads(out) == {"a\u202e": ["\x9b[2J", "é"]}
    assert "\u202e" not in out
    assert "\x9b" not in out
    assert "é" in out


@pytest.mark.parametrize("command", ["serve", "healthcheck"])
def test_serving_imports_no_console_library(command: str) -> None:
    code = (
        "import sys\nfrom sftp_gateway.commands.main import build_parser\n"
        f"build_parser([{command!r}])\n"
        "print({'rich', 'argcomplete', 'sftp_gateway.commands.keys'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_loading_serve_starts_no_program_and_no_status_page() -> None:
    code = (
        "import sys\n"
        "sys.addaudithook(lambda event, _: event == 'subprocess.Popen' and print(event))\n"
        "import sftp_gateway.commands.serve\n"
        "print({'jinja2', 'sftp_gateway.observability.web.app'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
