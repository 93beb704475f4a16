"""Reports of sessions are accurate and fit into datagrams."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from sftp_gateway.observability.access_log.events import Session
from sftp_gateway.observability.access_log.log import AccessLog
from sftp_gateway.server.recorder import Recorder
from sftp_gateway.server.session_reports import MAX_FILES, MAX_SESSIONS, SessionReporter
from tests.support.measured import Measured


@pytest.fixture
def measured() -> Iterator[Measured]:
    made = Measured()
    yield made
    made.close()


def recorder(measured: Measured, name: str) -> Recorder:
    log = AccessLog(sinks=[])
    log.close(10)
    session = Session(session=name, client_ip="192.0.2.17", client_port=5, user="ana",
                      client_version="SSH-2.0-" + "x" * 300)  # fmt: skip
    made = Recorder(session=session, log=log, metrics=measured.metrics)
    made.request("read", share=None, path=None, started=0.0, result="ok", sent=1000)
    return made


def opened(path: bytes) -> Any:
    share, file = SimpleNamespace(name="models"), SimpleNamespace(size=500)
    return SimpleNamespace(share=share, path=path, file=file, served=40)


def pictures(live: SessionReporter) -> list[dict[str, Any]]:
    return [json.loads(piece)["live"] for piece in live.messages()]


def test_a_session_is_reported_with_its_latest_files(measured: Measured) -> None:
    files = [opened(f"/home/ana/models/{number}".encode()) for number in range(9)]
    live = SessionReporter(
        sessions=lambda: [(recorder(measured, "a"), files)],
        sent=lambda: {"models": 1000},
        send=print,
    )
    (told,) = pictures(live)
    assert told["worker"] == os.getpid()
    assert (told["more"], told["total"], told["sent"]) == (False, 1, {"models": 1000})
    session = told["sessions"][0]
    assert (session["user"], session["bytes"], session["requests"]) == ("ana", 1000, 1)
    assert session["open"] == 9
    assert session["files"][0] == ["models", "/home/ana/models/8", 500, 40]
    assert len(session["files"]) == MAX_FILES


def test_large_reports_are_split_into_messages(measured: Measured) -> None:
    one = recorder(measured, "a")
    files = [opened(b"\xff\n\\" * 5000)] * 3
    live = SessionReporter(
        sessions=lambda: [(one, files)] * (MAX_SESSIONS + 5), sent=dict, send=print
    )
    pieces = list(live.messages())
    assert max(map(len, pieces)) < 65_536
    told = [json.loads(piece)["live"] for piece in pieces]
    assert [each["more"] for each in told] == [True] * (len(told) - 1) + [False]
    assert sum(len(each["sessions"]) for each in told) == MAX_SESSIONS
    assert {each["total"] for each in told} == {MAX_SESSIONS + 5}


async def test_it_reports_until_it_is_cancelled(measured: Measured) -> None:
    sent: list[bytes] = []
    live = SessionReporter(sessions=list, sent=dict, send=sent.append)
    task = asyncio.create_task(live.run())
    while not sent:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert json.loads(sent[0])["live"]["sessions"] == []
