"""The access log of a running gateway: complete, unforgeable and non-blocking."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.gateway import Gateway, environment, fill, free_port, wait_for

pytestmark = pytest.mark.integration


def _lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def test_control_characters_in_names_cannot_forge_log_lines(gateway: Gateway) -> None:
    forged = b'x\n{"event":"login_accepted","user":"root"}\r\x1b[2J\xe2\x80\xae\x85'
    path = os.fsencode(gateway.folder / "shared/Bhushanji/") + b"/" + forged
    with open(path, "wb") as file:
        file.write(b"content")
    assert gateway.sftp("get Bhushanji/x* /dev/null").returncode == 0
    gateway.wait_event("file_closed")
    raw = (gateway.folder / "access.log").read_bytes()
    assert all(line.startswith(b'{"time":"') for line in raw.splitlines())
    assert not {b"\r", b"\x1b", b"\x85"} & {bytes([byte]) for byte in raw}
    assert b"\xe2\x80\xae" not in raw
    assert len(gateway.events("login_accepted")) == 1
    (closed,) = gateway.events("file_closed")
    assert r"\x85" in closed["path"]
    assert 'x\n{"event":"login_accepted"' in closed["path"]


def test_a_session_is_logged_from_login_to_end(gateway: Gateway, tmp_path: Path) -> None:
    (gateway.folder / "shared/models/out").symlink_to("/etc/passwd")
    content = b"x" * 100_000
    fill(gateway.folder / "shared/models", {"file": content})
    home = "/home/gvpocr/models"
    ran = gateway.sftp(
        "ls models", f"get models/file {tmp_path}", "-get models/out", "-rm models/file",
        f"-get {home}/../../../etc/passwd",
    )  # fmt: skip
    assert ran.returncode == 0
    ended = gateway.wait_event("session_end")
    events = [event for event in gateway.events() if event.get("session") == ended["session"]]
    assert {event["user"] for event in events[1:]} == {"gvpocr"}
    assert len({(event["client_ip"], event["client_port"]) for event in events}) == 1
    names = [event["event"] for event in events]
    assert (names[:2], names[-1]) == (["connection", "login_accepted"], "session_end")
    seen = [(event["event"], event["path"], event.get("reason")) for event in events[2:-1]]
    assert list(dict.fromkeys(seen)) == [  # a client may ask twice
        ("folder_listed", home, None),
        ("file_opened", f"{home}/file", None),
        ("file_closed", f"{home}/file", None),
        ("denied", f"{home}/out", "link_leads_out"),
        ("denied", f"{home}/file", "read_only"),
        ("denied", f"{home}/../../../etc/passwd", "outside_shares"),
    ]
    [closed] = gateway.events("file_closed")
    assert (closed["bytes"], closed["whole"], closed["result"]) == (len(content), True, "ok")
    assert (ended["bytes"], ended["files"], ended["folders"]) == (len(content), 1, 1)
    assert ended["denied"] == len(gateway.events("denied"))
    refused = gateway.ssh("ls")
    assert refused.returncode == 1
    assert gateway.wait_event("command_refused", command="ls")["user"] == "gvpocr"


def test_a_log_file_survives_logrotate(make_gateway: Callable[..., Gateway]) -> None:
    gateway = make_gateway(SFTP_GATEWAY_ACCESS_LOG__FILE="rotated.log").start()
    log, old = gateway.folder / "rotated.log", gateway.folder / "rotated.log.1"
    assert gateway.sftp("ls Bhushanji").returncode == 0
    gateway.wait_event("session_end")
    log.rename(old)
    assert gateway.sftp("ls models").returncode == 0
    wait_for(lambda: len(gateway.events("session_end")) == 2, "the second session's end")
    assert gateway.stop() == 0
    # Lines of different processes may be in another order in the two outputs.
    both = sorted(map(json.dumps, _lines(old) + _lines(log)))
    assert both == sorted(map(json.dumps, gateway.events()))
    assert any(line["event"] == "folder_listed" for line in _lines(log))


def test_a_full_log_file_is_rotated_while_clients_read(
    make_gateway: Callable[..., Gateway], tmp_path: Path
) -> None:
    gateway = make_gateway(
        SFTP_GATEWAY_ACCESS_LOG__FILE="bounded.log",
        SFTP_GATEWAY_ACCESS_LOG__FILE_MAX_BYTES=str(1 << 16),
        SFTP_GATEWAY_ACCESS_LOG__LEVEL="requests",
    ).start()
    log, old = gateway.folder / "bounded.log", gateway.folder / "bounded.log.1"
    fill(gateway.folder / "shared/models", {f"{n:03}": b"x" for n in range(30)})
    assert gateway.sftp(f"get models/* {tmp_path}").returncode == 0
    wait_for(old.exists, "the file to be moved away")
    seen = len(gateway.events("session_end"))
    assert gateway.sftp("ls Bhushanji").returncode == 0
    wait_for(lambda: len(gateway.events("session_end")) > seen, "the session's end")
    assert gateway.stop() == 0
    # Less than two files were written: nothing had to be dropped.
    assert old.stat().st_size > 1 << 16
    assert (gateway.folder / "access.log").stat().st_size < 2 << 16
    both = sorted(map(json.dumps, _lines(old) + _lines(log)))
    assert both == sorted(map(json.dumps, gateway.events()))


def test_level_requests_logs_every_request(make_gateway: Callable[..., Gateway]) -> None:
    gateway = make_gateway(SFTP_GATEWAY_ACCESS_LOG__LEVEL="requests").start()
    fill(gateway.folder / "shared/models", {"file": b"x" * 100_000})
    assert gateway.sftp("get models/file /dev/null").returncode == 0
    end = gateway.wait_event("session_end")
    requests = gateway.events("request")
    assert len(requests) == end["requests"]
    reads = [request for request in requests if request["operation"] == "read"]
    assert sum(read["bytes"] for read in reads) == 100_000
    assert {read["share"] for read in reads} == {"models"}
    assert {read["result"] for read in reads} == {"ok", "eof"} or all(
        read["result"] == "ok" for read in reads
    )


#: Enough events to fill the log's queue and a pipe's 64 KiB many times over.
READS = 1200


class _Piped:
    """A gateway whose standard output is a pipe that only the test reads."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self._rest = b""
        gateway.port = int(gateway._options["SFTP_GATEWAY_PORT"])
        self.process = gateway.process = subprocess.Popen(
            [sys.executable, "-m", "sftp_gateway", "serve"],
            cwd=gateway.folder,
            env=environment(**gateway._options),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )
        wait_for(lambda: gateway.run("healthcheck").returncode == 0, "the gateway to start")

    def batch(self) -> list[str]:
        """`sftp` commands that cause two events for each of READS files."""
        return [f"get Bhushanji/{number}.txt /dev/null" for number in range(READS)]

    def read_while(self, client: subprocess.Popen[bytes]) -> list[dict[str, object]]:
        """Read the log while `client` runs."""
        output = bytearray()
        assert self.process.stdout is not None
        os.set_blocking(self.process.stdout.fileno(), False)
        while client.poll() is None:
            output += self.process.stdout.read() or b""
        os.set_blocking(self.process.stdout.fileno(), True)
        *whole, rest = bytes(output).split(b"\n")
        self._rest = rest
        return [json.loads(line) for line in whole]

    def read_all(self) -> list[dict[str, object]]:
        """Stop the gateway; return its log."""
        self.process.terminate()
        output, _ = self.process.communicate(timeout=60)
        assert self.process.returncode == 0
        return [json.loads(line) for line in (self._rest + output).splitlines()]


def _piped(make_gateway: Callable[..., Gateway], overflow: str) -> _Piped:
    gateway = make_gateway(
        SFTP_GATEWAY_PORT=str(free_port()),
        SFTP_GATEWAY_ACCESS_LOG__OVERFLOW=overflow,
        SFTP_GATEWAY_ACCESS_LOG__CAPACITY="100",
    )
    fill(gateway.folder / "shared/Bhushanji", {f"{n}.txt": b"text" for n in range(READS)})
    return _Piped(gateway)


def test_with_drop_a_blocked_log_delays_no_client_and_counts_its_losses(
    make_gateway: Callable[..., Gateway],
) -> None:
    piped = _piped(make_gateway, "drop")
    assert piped.gateway.sftp(*piped.batch()).returncode == 0
    dropped = piped.gateway.metric("sftp_gateway_access_log_dropped_total")
    assert dropped > 0
    lines = piped.read_all()
    counted = [line["count"] for line in lines if line["event"] == "log_dropped"]
    assert counted
    assert sum(int(str(count)) for count in counted) >= dropped


def _stalls(gateway: Gateway) -> bool:
    """Whether clients had requests served, and none for longer than counts take to be published."""
    before = gateway.metric("sftp_gateway_requests_total")
    time.sleep(1.5)
    return gateway.metric("sftp_gateway_requests_total") == before > 0


def test_with_block_a_blocked_log_applies_backpressure_and_loses_nothing(
    make_gateway: Callable[..., Gateway],
) -> None:
    piped = _piped(make_gateway, "block")
    gateway = piped.gateway
    client = subprocess.Popen(
        [
            "sftp", *gateway.ssh_options(), "-P", str(gateway.port), "-b", "-",
            "gvpocr@127.0.0.1",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    assert client.stdin is not None
    client.stdin.write("\n".join(piped.batch()).encode() + b"\n")
    client.stdin.close()
    # The writer may have taken some of the user's half of the queue before it was blocked.
    wait_for(
        lambda: gateway.metric("sftp_gateway_access_log_queue_depth") > 0 and _stalls(gateway),
        "the user to have its half",
    )
    # The event loop continues; only clients wait.
    assert gateway.http("/healthz") == (200, "ok\n")
    assert client.poll() is None
    lines = piped.read_while(client)
    assert client.returncode == 0
    lines += piped.read_all()
    names = [line["event"] for line in lines]
    assert names.count("file_closed") == names.count("file_opened") == READS
    assert "log_dropped" not in names
