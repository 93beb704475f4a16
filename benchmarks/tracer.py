"""Runs the gateway, and writes down the functions that each piece of a client's data goes through.

`python benchmarks/tracer.py ARGUMENTS...` is `sftp-gateway ARGUMENTS...` of the checkout that
PYTHONPATH names. Standard error, the one file that workers inherit, gets one JSON list a piece:
[depth, file, function] for each call.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
from types import CodeType, FrameType
from typing import Any, Final

#: Where a piece of data comes in: asyncio's protocols.
_ENTRIES: Final = ("data_received", "buffer_updated")


class Tracer:
    """For sys.setprofile: notes the calls of the gateway's functions while data is handled."""

    def __init__(self) -> None:
        self._calls: list[tuple[int, str, str]] = []
        self._depth = 0
        self._entry: FrameType | None = None

    def __call__(self, frame: FrameType, event: str, _argument: Any) -> None:
        if event == "call":
            self._call(frame)
        elif event == "return" and self._entry is not None:
            if _is_traced(frame.f_code):
                self._depth -= 1
            if frame is self._entry:
                os.write(sys.stderr.fileno(), json.dumps(self._calls).encode() + b"\n")
                self._entry = None

    def _call(self, frame: FrameType) -> None:
        code = frame.f_code
        if not _is_traced(code):
            return
        if self._entry is None:
            if code.co_name not in _ENTRIES:
                return
            self._entry, self._depth, self._calls = frame, 0, []
        self._calls.append(
            (self._depth, code.co_filename.rpartition("/sftp_gateway/")[2], code.co_qualname)
        )
        self._depth += 1


def _is_traced(code: CodeType) -> bool:
    """Whether it is a function of the gateway, and no comprehension within one."""
    return "/sftp_gateway/" in code.co_filename and (
        not code.co_name.startswith("<") or code.co_name == "<lambda>"
    )


if __name__ == "__main__":
    sys.path.remove(os.path.dirname(os.path.abspath(__file__)))
    sys.setprofile(Tracer())
    runpy.run_module("sftp_gateway", run_name="__main__", alter_sys=True)
