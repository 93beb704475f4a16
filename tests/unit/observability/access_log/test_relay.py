"""Lines reach the writing process whole, and none is lost if an observer ends."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress

import pytest

from sftp_gateway.observability.access_log import relay
from sftp_gateway.observability.access_log.relay import LogWriter, RelaySink
from tests.support.gateway import wait_for
from tests.support.history import line, read

TIMEOUT = 30.0


class Memory:
    """An output that stores lines, or fails."""

    def __init__(self) -> None:
        self.written = b""
        self.batches = 0
        self.fails = self.closed = False

    def write(self, lines: bytes) -> None:
        if self.fails:
            raise OSError("no space left")
        self.batches += 1
        self.written += lines

    def close(self) -> None:
        self.closed = True


Connect = Callable[..., socket.socket]


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Makes a channel inherited by these writers and returns its sending end."""
    with ExitStack() as stack:

        def connect(*writers: LogWriter) -> socket.socket:
            sender, receiver = relay.socket_pair()
            for writer in writers:
                writer.add(receiver.dup())
            stack.enter_context(receiver)
            return stack.enter_context(sender)

        yield connect


def test_lines_of_several_processes_are_written_whole(connect: Connect) -> None:
    output = Memory()
    writer = LogWriter([output])
    sinks = [RelaySink(connect(writer)) for _ in range(3)]
    writer.start()
    batches = [b"".join(read(f"{number}/{n}") for n in range(200)) for number in range(3)]
    for sink, batch in zip(sinks, batches, strict=True):
        sink.write(batch)
    writer.close(TIMEOUT)
    for number, batch in enumerate(batches):
        mark = b'"share":"%d"' % number
        own = [each for each in output.written.splitlines(keepends=True) if mark in each]
        assert b"".join(own) == batch
    assert output.closed


def test_the_next_observer_writes_remaining_lines(connect: Connect) -> None:
    first, second = LogWriter([Memory()]), LogWriter([output := Memory()])
    sender = connect(first, second)
    RelaySink(sender).write(read("models/a"))
    second.start()  # the first never started
    second.close(TIMEOUT)
    assert output.written == read("models/a")
    first.start()
    first.close(TIMEOUT)


def test_a_sender_waits_for_room_and_loses_no_line(connect: Connect) -> None:
    output = Memory()
    writer = LogWriter([output])
    sink = RelaySink(connect(writer))
    batch = b"".join(read(f"models/{n}") for n in range(100))
    writer.start()
    for _ in range(1000):
        sink.write(batch)
    writer.close(TIMEOUT)
    assert output.written == batch * 1000


@pytest.mark.parametrize(
    "sent",
    [b"\n", b"nonsense\n", b'{"time":"', read("a")[:-1], b"\n" + read("a"), read("a") + b"x",
     read("a") + b"\n", b'{"live":{}}\n'],
)  # fmt: skip
def test_an_invalid_line_is_not_relayed(connect: Connect, sent: bytes) -> None:
    output = Memory()
    writer = LogWriter([output])
    hostile, other = connect(writer), connect(writer)
    writer.start()
    socket.send_fds(hostile, [sent], [0, 1, 2])
    hostile.send(line("denied"))
    RelaySink(other).write(read("models/a"))
    writer.close(TIMEOUT)
    assert sorted(output.written.splitlines()) == sorted(
        (line("denied") + read("models/a")).splitlines()
    )


def test_a_flooding_process_does_not_delay_lines_of_others(connect: Connect) -> None:
    output = Memory()
    writer = LogWriter([output])
    flooding, other = connect(writer), connect(writer)
    flooding.setblocking(False)
    sent = 0
    with suppress(BlockingIOError):
        while flooding.send(read("models/flood")):
            sent += 1
    RelaySink(other).write(read("models/a"))
    writer.start()
    writer.close(TIMEOUT)
    assert output.written.splitlines().index(read("models/a").rstrip()) <= 1
    assert output.batches == sent + 1


def test_a_failing_output_is_reported_and_does_not_stop_others(connect: Connect) -> None:
    broken, good = Memory(), Memory()
    broken.fails = True
    writer = LogWriter([broken, good])
    sink = RelaySink(connect(writer))
    writer.start()
    sink.write(read("models/a") * 3)
    wait_for(lambda: good.written, "the lines")
    broken.fails = False
    sink.write(read("models/b"))
    writer.close(TIMEOUT)
    assert (writer.write_errors, writer.lines_lost) == (1, 3)
    assert b'"log_dropped"' in broken.written
    assert broken.written.endswith(read("models/b"))


def test_a_channel_is_drained_when_empty_and_closed() -> None:
    sender, receiver = relay.socket_pair()
    with receiver:
        assert not relay.is_drained(receiver)
        sender.send(b"line")
        sender.close()
        assert not relay.is_drained(receiver)
        receiver.recv(10)
        assert relay.is_drained(receiver)
