"""Messages between supervisor and workers: unexpected descriptors are closed."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from sftp_gateway.process import messages


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = messages.socket_pair()
    with ours, theirs:
        yield ours, theirs


def open_descriptors() -> list[str]:
    return os.listdir("/proc/self/fd")


def send(end: socket.socket, data: bytes, count: int) -> None:
    socket.send_fds(end, [data], [end.fileno()] * count)


@pytest.mark.parametrize("count", [1, 5, 253])
def test_unexpected_descriptors_are_rejected(
    ends: tuple[socket.socket, socket.socket], count: int
) -> None:
    before = open_descriptors()
    send(ends[0], messages.encode("ready"), count)
    with pytest.raises(ValueError, match="descriptors"):
        list(messages.receive(ends[1]))
    assert open_descriptors() == before


def test_only_one_of_several_descriptors_is_received(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    before = open_descriptors()
    send(ends[0], messages.encode("connection", 1), 5)
    ((message, descriptors),) = messages.receive_with_descriptors(ends[1])
    assert (message, len(descriptors)) == (["connection", 1], 1)
    assert not os.get_inheritable(descriptors[0])
    messages.close_all(descriptors)
    assert open_descriptors() == before


@pytest.mark.parametrize("data", [b"not JSON", b"[" * 100_000, b""])
def test_the_descriptor_of_an_invalid_message_is_closed(
    ends: tuple[socket.socket, socket.socket], data: bytes
) -> None:
    before = open_descriptors()
    send(ends[0], data, 1)
    with pytest.raises((ValueError, EOFError)):
        list(messages.receive_with_descriptors(ends[1]))
    assert open_descriptors() == before
