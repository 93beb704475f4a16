"""Runs the program's commands in the test process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from sftp_gateway.commands.main import main


@dataclass(frozen=True)
class Ran:
    status: int
    out: str
    err: str


Run = Callable[..., Ran]


def runs(capsys: pytest.CaptureFixture[str]) -> Run:
    """A function that runs a command with its arguments."""

    def ran(*arguments: object) -> Ran:
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as ended:  # argparse's way
            status = int(ended.code or 0)
        captured = capsys.readouterr()
        return Ran(status, captured.out, captured.err)

    return ran
