"""Shows how far the workers are: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TextIO

from sftp_gateway.observability.access_log.json_lines import printable
from sftp_gateway.observability.access_log.terminal import wants_colour
from sftp_gateway.worker_kit.hosts import Host

_ENDS: Final = ("done", "failed")


class Progress:
    """What `FleetInstaller.set_up` reports to. What a worker prints is shown with control
    characters escaped."""

    def __init__(self, hosts: Sequence[Host], out: TextIO) -> None:
        self._out = out
        self._failed = 0
        self._bar = _Bar(len(hosts), out) if wants_colour(out) else None

    def __call__(self, host: Host, step: str) -> None:
        """`host` is at `step`; `done` and `failed` end it."""
        self._failed += step == "failed"
        line = printable(f"{host.name}: {step}")
        if self._bar is None:
            print(line, file=self._out, flush=True)
        else:
            failed = f"{self._failed} failed  " if self._failed else ""
            self._bar.show(failed + line, advance=step in _ENDS)

    def close(self) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            self._bar.close()


class _Bar:
    """A progress bar of rich."""

    def __init__(self, total: int, out: TextIO) -> None:
        # Here, because only this command on a terminal needs it.
        from rich.console import Console  # noqa: PLC0415
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn  # noqa: PLC0415
        from rich.progress import Progress as RichProgress  # noqa: PLC0415

        self._progress = RichProgress(
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.description}", markup=False),
            console=Console(file=out, emoji=False),
        )
        self._task = self._progress.add_task("", total=total)
        self._progress.start()

    def show(self, text: str, *, advance: bool) -> None:
        self._progress.update(self._task, description=text, advance=int(advance), refresh=True)

    def close(self) -> None:
        self._progress.stop()
