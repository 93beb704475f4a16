"""An authenticated client tries to push other users' lines out of the access log."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import asyncssh
import pytest

from sftp_gateway.observability.access_log import rate_limit
from sftp_gateway.observability.access_log.json_lines import MAX_LINE_LENGTH
from sftp_gateway.observability.history.queries import Filter, History
from tests.hostile.conftest import INSIDE, Target
from tests.support.gateway import fill, wait_for
from tests.support.keys import make_key, public_line
from tests.support.live import Live, connected, open_live
from tests.support.sftp_wire import (
    HandleReply,
    encode_close,
    encode_open,
    encode_opendir,
    encode_read,
    encode_rename,
)

pytestmark = pytest.mark.integration

#: Bytes before rotation, and files kept: far less than the attacker would write without limits.
FILE_BYTES = 1 << 18
FILES = 12

#: Renames with paths of the greatest length; and forwarding requests, as many as a connection may
#: send at once.
RENAMES = 3000
FORWARDINGS = 400
#: Files, and folders, that are opened and closed.
OPENED = 1000

#: Files that the victim reads before, during and after each flood.
READ = 20


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    folder = tmp_path_factory.mktemp("log")
    fill(folder / "data/share", INSIDE)
    fill(folder / "data/others", {f"{number}": b"x" * 1000 for number in range(READ)})
    config = f"""
        workers = 1
        [shares.share]
        path = "{folder / "data/share"}"
        [shares.others]
        path = "{folder / "data/others"}"
        [users.gvpocr]
        shares = ["share"]
        [users.ana]
        shares = ["others"]
        [access_log]
        file = "rotated.log"
        file_max_bytes = {FILE_BYTES}
        file_keep = {FILES}
        [history]
        max_size = 1
    """
    gateway = Target(folder, config, {})
    gateway.key.parent.mkdir()
    make_key(gateway.key, "ed25519")
    for user in ("gvpocr", "ana"):
        gateway.authorize(user, public_line(gateway.key))
    try:
        gateway.start()
        gateway.record_baseline()
        yield gateway
    finally:
        gateway.close()


def _kept(gateway: Target) -> list[dict[str, Any]]:
    """The lines of the log and its rotated files, none of which exceeds the configured size."""
    files = sorted(gateway.folder.glob("rotated.log*"), key=lambda file: file.stat().st_mtime)
    lines = [line for file in files for line in file.read_bytes().splitlines(keepends=True)]
    assert max(map(len, lines)) <= MAX_LINE_LENGTH
    return [json.loads(line) for line in lines]


def _remembered(gateway: Target) -> list[dict[str, Any]]:
    history = History(gateway.folder / "state/history.sqlite3")
    return [json.loads(entry.line) for entry in history.lines(Filter())]


def _logged(events: list[dict[str, Any]], user: str) -> Counter[str]:
    return Counter(event["event"] for event in events if event.get("user") == user)


async def _read_as_victim(gateway: Target) -> None:
    """Another user reads some files with a stock client."""
    (gateway.folder / "taken").mkdir(exist_ok=True)
    get = f"get others/* {gateway.folder}/taken"
    ran = await asyncio.to_thread(gateway.sftp, get, user="ana")
    assert ran.returncode == 0, ran.stderr


async def _rename(session: Live) -> None:
    path = b"/home/gvpocr/share/" + b"\x1b" * 4000
    for _ in range(RENAMES // 100):
        await session.ask_all([(encode_rename, path, path)] * 100)


async def _open(session: Live) -> None:
    for _ in range(OPENED // 100):
        replies = await session.ask_all([(encode_open, b"/home/gvpocr/share/small")] * 100)
        replies += await session.ask_all([(encode_opendir, b"/home/gvpocr/share")] * 100)
        handles = [reply.handle for reply in replies if isinstance(reply, HandleReply)]
        assert len(handles) == 200
        await session.ask_all([(encode_read, handle, 0, 1) for handle in handles])
        await session.ask_all([(encode_close, handle) for handle in handles])


async def _forward(connection: asyncssh.SSHClientConnection) -> None:
    async def one() -> None:
        with pytest.raises(asyncssh.ChannelListenError):
            await connection.forward_remote_port("", 1, "", 1)

    await asyncio.gather(*(one() for _ in range(FORWARDINGS)))


async def test_one_users_flood_loses_no_log_line_of_another(attacked: Target) -> None:
    await _read_as_victim(attacked)
    async with connected(attacked) as connection:
        session = await open_live(connection)
        await session.init()
        for attack in (_rename(session), _forward(connection), _open(session)):
            await asyncio.gather(attack, _read_as_victim(attacked))
    await _read_as_victim(attacked)
    expected = Counter(login_accepted=5, session_end=5, file_opened=5 * READ, file_closed=5 * READ)

    def lacks(events: list[dict[str, Any]], *names: str) -> Counter[str]:
        logged = _logged(events, "ana")
        return Counter({name: expected[name] - logged[name] for name in names or expected})

    wait_for(lambda: not any(lacks(_kept(attacked)).values()), f"{expected} in the files")
    in_history = ("login_accepted", "session_end", "file_closed")
    wait_for(
        lambda: not any(lacks(_remembered(attacked), *in_history).values()),
        f"{expected} in the history",
    )
    assert attacked.metric("sftp_gateway_access_log_dropped_total") == 0
    assert attacked.metric("sftp_gateway_history_dropped_total") == 0


async def test_suppressed_lines_of_a_flood_are_summarized(attacked: Target) -> None:
    async with connected(attacked) as connection:
        session = await open_live(connection)
        await session.init()
        await _rename(session)
        await _forward(connection)
    end = await asyncio.to_thread(attacked.wait_event, "session_end", denied=RENAMES)
    logged = [event for event in attacked.events() if event.get("session") == end["session"]]
    sums = [event for event in logged if event["event"] == "events_suppressed"]
    counts = Counter(event["event"] for event in logged)
    for name, number in (("denied", RENAMES), ("command_refused", FORWARDINGS)):
        assert counts[name] + sum(each.get(name, 0) for each in sums) == number
    assert counts["denied"] >= rate_limit.SESSION_BURST
    suppressed = sum(each["count"] for each in sums)
    wait_for(
        lambda: attacked.metric("sftp_gateway_access_log_suppressed_total") >= suppressed,
        "the metric",
    )


async def test_every_opened_file_is_logged_at_any_rate(attacked: Target) -> None:
    async with connected(attacked) as connection:
        session = await open_live(connection)
        await session.init()
        await _open(session)
    end = await asyncio.to_thread(attacked.wait_event, "session_end", files=OPENED, denied=0)
    logged = Counter(e["event"] for e in attacked.events() if e.get("session") == end["session"])
    assert logged["file_opened"] == logged["file_closed"] == OPENED
    assert "events_suppressed" not in logged
