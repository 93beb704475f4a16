"""What is fuzzed: each target accepts its input, or raises the one error that it documents."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Final

from fuzz import records as record_layer
from sftp_gateway.auth.keys.authorized_keys import parse_authorized_keys
from sftp_gateway.auth.keys.blobs import parse_blob
from sftp_gateway.auth.keys.options import parse_options
from sftp_gateway.errors import ProtocolError
from sftp_gateway.process import messages
from sftp_gateway.protocol.constants import MAX_PACKET_LENGTH
from sftp_gateway.protocol.framing import FrameReader
from sftp_gateway.protocol.requests import READ, ReadRequest, decode_request

Target = Callable[[bytes], None]


def framing(data: bytes) -> None:
    """The stream cut into packets, in pieces whose lengths the input names."""
    reader, rest, out = FrameReader(), data[1:], b""
    step = data[0] + 1 if data else 1
    try:
        while rest:
            frames = reader.feed(rest[:step])
            out += b"".join(len(frame).to_bytes(4, "big") + frame for frame in frames)
            rest = rest[step:]
            assert len(reader._buffer) <= MAX_PACKET_LENGTH + 4 + step
    except ProtocolError:
        return
    assert data[1:].startswith(out), "bytes came out that did not go in"


def requests(data: bytes) -> None:
    """Every request's decoder; the short decoder of READ agrees."""
    try:
        request = decode_request(data)
    except ProtocolError:
        return
    if isinstance(request, ReadRequest) and len(data) == READ.size and len(request.handle) == 4:
        _, request_id, _, handle, offset, length = READ.unpack(data)
        assert request == ReadRequest(request_id, handle, offset, length)


def authorized_keys(data: bytes) -> None:
    """A file of keys, which never raises."""
    found = parse_authorized_keys(data.decode("utf-8", "replace"), source="file")
    assert len(found.keys) + len(found.errors) <= data.count(b"\n") + 1 + len(data)


def key_options(data: bytes) -> None:
    """The options before a key."""
    try:
        parse_options(data.decode("utf-8", "replace"))
    except ValueError as error:
        assert not isinstance(error, UnicodeError)


def key_blobs(data: bytes) -> None:
    """A public key as SSH sends it."""
    try:
        parse_blob(data)
    except ValueError as error:
        assert not isinstance(error, UnicodeError)


def worker_messages(data: bytes) -> None:
    """What a worker says to the supervisor, as far as it is read before anything is done."""
    ours, theirs = messages.socket_pair()
    with ours, theirs:
        if not data:
            return
        theirs.send(data[:65536])
        try:
            for message in messages.receive(ours):
                json.dumps(message)
        except ValueError:  # the supervisor ends the worker over it
            pass


def records(data: bytes) -> None:
    """SSH packets of a client that is logged in: the connection goes on, or ends as it documents.

    Nothing is different from what asyncssh by itself makes of them; but of a packet that is shorter
    than any may be, it does not find the tag, and behind new keys, nobody here knows them.
    """
    ours, theirs = record_layer.effects(data)
    assert record_layer.ends_as_documented(ours)
    assert ours.unread <= record_layer.bound(data), "more is kept than a packet"
    if record_layer.has_runts(data) or ours.new_keys or theirs.new_keys:
        return
    assert ours.ended == theirs.ended
    assert ours.receive == theirs.receive
    assert ours.window == theirs.window


TARGETS: Final[dict[str, Target]] = {
    each.__name__: each
    for each in (
        framing,
        requests,
        authorized_keys,
        key_options,
        key_blobs,
        worker_messages,
        records,
    )
}
