"""Log lines and metrics of one connection."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sftp_gateway.errors import Denied
from sftp_gateway.observability.access_log import events
from sftp_gateway.observability.access_log.log import AccessLog, Level
from sftp_gateway.observability.vocabulary import NO_SHARE
from sftp_gateway.server.handles import DirectoryHandle, FileHandle
from sftp_gateway.server.recorder import Recorder
from sftp_gateway.vfs.files import OpenDirectory
from tests.support.gateway import TIMEOUT
from tests.support.measured import Measured
from tests.support.session import GatedShare, Lines


class Recorded:
    """A recorder, its log and its metrics."""

    def __init__(self, level: Level) -> None:
        self._lines = Lines()
        self._log = AccessLog(sinks=[self._lines], level=level)
        self._measured = Measured()
        self.metrics = self._measured.metrics
        self.recorder = Recorder(
            session=events.Session(session="f" * 16, client_ip="192.0.2.1", client_port=5),
            log=self._log,
            metrics=self.metrics,
        )

    def lines(self, name: str | None = None) -> list[dict[str, Any]]:
        """Close the log and return its lines, of one event if a name is given."""
        self._log.close(TIMEOUT)
        return [line for line in self._lines.events if name in (None, line["event"])]

    def close(self) -> None:
        self._log.close(TIMEOUT)
        self._measured.close()

    def metric(self, sample: str) -> float:
        """The value of the sample with this prefix, or 0."""
        lines = self._measured.render()[1].decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(sample))


Make = Callable[..., Recorded]


@pytest.fixture
def make() -> Iterator[Make]:
    made: list[Recorded] = []

    def record(level: Level = "files") -> Recorded:
        made.append(Recorded(level))
        return made[-1]

    yield record
    for each in made:
        each.close()


@pytest.fixture
def recorded(make: Make) -> Recorded:
    return make()


@pytest.fixture
def file(share: GatedShare, root: Path) -> Iterator[FileHandle]:
    (root / "file").write_bytes(b"x" * 100)
    opened = share.open_file(b"file", wait=True)
    yield FileHandle(
        file=opened,
        share=share,
        path=b"/home/u/share/file",
        opened=time.monotonic(),
        known_size=100,
    )
    opened.close()


def folder(share: GatedShare | None) -> DirectoryHandle:
    return DirectoryHandle(
        directory=OpenDirectory(first=()), share=share, path=b"/home/u", opened=time.monotonic()
    )


def request(recorder: Recorder, **changed: Any) -> None:
    recorder.request(
        changed.pop("operation", "stat"),
        **{
            "share": None,
            "path": b"/",
            "started": time.perf_counter(),
            "result": "ok",
            **changed,
        },
    )


def test_a_connection_is_logged_once(recorded: Recorded) -> None:
    for _ in range(3):
        recorded.recorder.connected()
    assert len(recorded.lines("connection")) == 1


def test_a_health_check_that_never_logs_in_leaves_no_line(recorded: Recorded) -> None:
    recorded.metrics.connection_opened()
    recorded.recorder.ended("closed")
    assert recorded.lines() == []
    assert recorded.metric("sftp_gateway_connections ") == 0


def test_updated_fields_are_in_later_events(recorded: Recorded) -> None:
    recorder = recorded.recorder
    recorder.connected()
    recorder.update(user="u", auth="publickey", key="SHA256:x")
    recorder.login_accepted()
    before, after = recorded.lines()
    assert before.get("user") is None
    assert (after["event"], after["user"], after["key"]) == ("login_accepted", "u", "SHA256:x")
    assert recorded.metric('sftp_gateway_logins_total{method="publickey"') == 1
    assert recorded.metric("sftp_gateway_sessions ") == 1


def test_a_refused_login_is_logged_after_its_connection(recorded: Recorded) -> None:
    recorded.recorder.login_refused(
        user="root", method="password", key=None, reason="wrong_password"
    )
    connection, refused = recorded.lines()
    assert connection["event"] == "connection"
    assert (refused["user_tried"], refused["reason"]) == ("root", "wrong_password")
    assert recorded.metric("sftp_gateway_sessions ") == 0
    assert (
        recorded.metric(
            'sftp_gateway_logins_total{method="password",reason="wrong_password",result="refused"}'
        )
        == 1
    )


def test_the_end_of_a_session_has_its_totals(
    recorded: Recorded, share: GatedShare, file: FileHandle
) -> None:
    recorder = recorded.recorder
    recorded.metrics.connection_opened()
    recorder.connected()
    recorder.update(user="u", auth="password")
    recorder.login_accepted()
    recorder.opened(file)
    request(recorder, operation="read", share=share, sent=70)
    request(recorder, operation="read", share=share, sent=30)
    recorder.closed(file, result="ok")
    listed = folder(share)
    recorder.opened(listed)
    recorder.closed(listed, result="ok")
    recorder.denied("remove", Denied("read_only"), share=None, path=b"/x", target=None)
    request(recorder, operation="remove", result="permission_denied")
    recorder.ended("closed")
    (end,) = recorded.lines("session_end")
    counted = ("bytes", "files", "folders", "requests", "denied", "reason")
    assert [end[name] for name in counted] == [100, 1, 1, 3, 1, "closed"]
    assert end["duration"] >= 0
    assert recorded.metric("sftp_gateway_sessions ") == 0
    assert recorded.metric("sftp_gateway_connections ") == 0
    assert recorded.metric('sftp_gateway_bytes_sent_total{share="share"}') == 100
    assert recorded.metric("sftp_gateway_open_handles") == 0


def test_a_closed_file_is_logged_with_the_bytes_served(
    recorded: Recorded, file: FileHandle
) -> None:
    recorded.recorder.opened(file)
    assert recorded.metric('sftp_gateway_open_handles{kind="file"}') == 1
    file.record_read(0, 60)
    file.record_read(60, 40)
    recorded.recorder.closed(file, result="aborted")
    opened, closed = recorded.lines()
    assert (opened["event"], opened["size"], opened["share"]) == ("file_opened", 100, "share")
    told = [closed[name] for name in ("bytes", "reads", "whole", "result", "path")]
    assert told == [100, 2, True, "aborted", "/home/u/share/file"]


def test_a_virtual_directory_is_logged_without_a_share(recorded: Recorded) -> None:
    listed = folder(None)
    recorded.recorder.opened(listed)
    assert recorded.metric('sftp_gateway_open_handles{kind="folder"}') == 1
    listed.entries, listed.complete = 4, True
    recorded.recorder.closed(listed, result="ok")
    (line,) = recorded.lines()
    assert line["event"] == "folder_listed"
    assert (line.get("share"), line["entries"], line["complete"]) == (None, 4, True)


def test_a_denial_has_its_reason_and_both_paths(recorded: Recorded, share: GatedShare) -> None:
    recorded.recorder.denied(
        "rename", Denied("read_only"), share=share, path=b"/a\xff", target=b"/b"
    )
    (line,) = recorded.lines("denied")
    told = [line[name] for name in ("operation", "share", "path", "target", "reason")]
    assert told == ["rename", "share", "/a\\xff", "/b", "read_only"]
    assert recorded.metric('sftp_gateway_denied_total{reason="read_only"}') == 1


def test_commands_are_logged_and_refused_ones_counted(recorded: Recorded) -> None:
    recorded.recorder.command_answered("echo hi")
    recorded.recorder.command_refused("exec", "id")
    recorded.recorder.command_refused("shell")
    answered, refused, shell = recorded.lines()
    assert (answered["event"], answered["command"]) == ("command_answered", "echo hi")
    assert (refused["kind"], refused["command"]) == ("exec", "id")
    assert (shell["kind"], shell.get("command")) == ("shell", None)
    assert recorded.metric("sftp_gateway_commands_refused_total") == 2


@pytest.mark.parametrize(("level", "count"), [("files", 0), ("requests", 1)])
def test_requests_are_logged_at_their_level_and_always_counted(
    make: Make, share: GatedShare, level: Level, count: int
) -> None:
    recorded = make(level)
    request(recorded.recorder, operation="read", share=share, sent=9, offset=5, length=10)
    lines = recorded.lines("request")
    assert len(lines) == count
    for line in lines:
        told = [
            line[name] for name in ("operation", "share", "offset", "length", "bytes", "result")
        ]
        assert told == ["read", "share", 5, 10, 9, "ok"]
    assert (
        recorded.metric('sftp_gateway_requests_total{operation="read",result="ok",share="share"}')
        == 1
    )


def test_a_request_of_no_share_is_counted_as_such(recorded: Recorded) -> None:
    request(recorded.recorder)
    assert (
        recorded.metric(
            f'sftp_gateway_requests_total{{operation="stat",result="ok",share="{NO_SHARE}"}}'
        )
        == 1
    )


def test_slow_reads_are_counted_by_share(recorded: Recorded, share: GatedShare) -> None:
    recorded.recorder.slow_read(share)
    assert recorded.metric('sftp_gateway_slow_reads_total{share="share"}') == 1
