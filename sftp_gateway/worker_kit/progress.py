"""Tells how far the workers are: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from typing import Final, TextIO

from sftp_gateway.worker_kit.hosts import Host

_BAR: Final = 24
_ENDS: Final = ("done", "failed")


class Progress:
    """What `Fleet.set_up` reports to."""

    def __init__(self, hosts: Sequence[Host], out: TextIO) -> None:
        self._total = len(hosts)
        self._out = out
        self._bar = out.isatty()
        self._ended: dict[str, str] = {}
        self._steps: dict[str, str] = {}

    def __call__(self, host: Host, step: str) -> None:
        """`host` is at `step`; `done` and `failed` end it."""
        if step in _ENDS:
            self._ended[host.name] = step
            self._steps.pop(host.name, None)
        else:
            self._steps[host.name] = step
        if self._bar:
            self._draw()
        else:
            print(f"{host.name}: {step}", file=self._out, flush=True)

    def close(self) -> None:
        """Leave the bar's line."""
        if self._bar:
            print(file=self._out, flush=True)

    def _draw(self) -> None:
        ended = len(self._ended)
        failed = sum(end == "failed" for end in self._ended.values())
        full = _BAR * ended // self._total
        text = f"[{'#' * full}{'.' * (_BAR - full)}] {ended}/{self._total}"
        if failed:
            text += f", {failed} failed"
        if self._steps:
            name, step = next(reversed(self._steps.items()))
            text += f"  {name}: {step}"
        width = shutil.get_terminal_size().columns - 1
        # Back to the line's beginning, the text, and nothing after it.
        print(f"\r{text[:width]}\x1b[K", end="", file=self._out, flush=True)
