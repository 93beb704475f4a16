"""How far the workers are, told on a terminal and elsewhere."""

from __future__ import annotations

import io

from sftp_gateway.worker_kit.hosts import Host
from sftp_gateway.worker_kit.progress import Progress

HOSTS = [Host(name=name, address=name) for name in ("a", "b")]


class Terminal(io.StringIO):
    """A text file that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def tell(out: io.StringIO) -> str:
    progress = Progress(HOSTS, out)
    progress(HOSTS[0], "connecting")
    progress(HOSTS[1], "connecting")
    progress(HOSTS[0], "done")
    progress(HOSTS[1], "failed")
    progress.close()
    return out.getvalue()


def test_a_terminal_gets_one_line_that_is_drawn_again_and_again() -> None:
    drawn = tell(Terminal())
    assert drawn.count("\n") == 1
    last = drawn.split("\r")[-1]
    assert last == "[########################] 2/2, 1 failed\x1b[K\n"
    assert "[............" + "............] 0/2  b: connecting" in drawn


def test_anything_else_gets_plain_lines() -> None:
    assert tell(io.StringIO()) == "a: connecting\nb: connecting\na: done\nb: failed\n"
