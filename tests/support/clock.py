"""A wall clock that can be set for one gateway only.

libfaketime (Debian: libfaketime) answers in the place of the C library, with the system's time and
what a file says of it. The monotonic clock goes on as it does where a system's clock is set.
"""

from __future__ import annotations

from pathlib import Path

from tests.support.gateway import Gateway

DAY = 86_400


class Clock:
    """The wall clock of one gateway.

    `file` has to be in a share: a worker can read nothing else, once it is confined.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._set(0)

    def start(self, gateway: Gateway) -> Gateway:
        """Start the gateway under this clock."""
        (library,) = Path("/usr/lib").glob("*/faketime/libfaketime.so.1")
        return gateway.start(
            runner=[
                "env",
                f"LD_PRELOAD={library}",
                f"FAKETIME_TIMESTAMP_FILE={self._file}",
                "FAKETIME_NO_CACHE=1",
                "FAKETIME_DISABLE_SHM=1",
                "FAKETIME_DONT_FAKE_MONOTONIC=1",
                "FAKETIME_DONT_RESET=1",
            ]
        )

    def step(self, seconds: int) -> None:
        """Set the clock to this many seconds after the system's, or before if negative."""
        self._set(seconds)

    def _set(self, seconds: int) -> None:
        new = self._file.with_name(f"{self._file.name}.new")
        new.write_text(f"{seconds:+d}\n")
        new.rename(self._file)
