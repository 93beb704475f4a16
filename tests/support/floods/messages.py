"""Every message of SSH (RFC 4250 to 4254, and OpenSSH's PROTOCOL file), in tables by family.

A row is a name, and what makes its payloads.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from tests.support import raw_ssh as ssh
from tests.support.floods import sftp
from tests.support.floods.message import NO, YES, Message, Payloads, Reached
from tests.support.raw_ssh import RawSsh
from tests.support.sftp_wire import string, uint32

#: As many host keys as fit into a packet, each with a signature requested.
_MANY_KEYS = 4600

MANY_SIGNATURES = f"hostkeys-prove-00@openssh.com of {_MANY_KEYS:,} keys"


# Payloads


def _message(number: int, *fields: bytes) -> bytes:
    return bytes([number]) + b"".join(fields)


def _fixed(number: int, *fields: bytes) -> Payloads:
    payload = (_message(number, *fields),)
    return lambda reached, turn: payload


def _numbers(numbers: Sequence[int], *fields: bytes) -> Payloads:
    """Messages with these numbers, in turn."""
    return lambda reached, turn: [_message(numbers[turn % len(numbers)], *fields)]


def _userauth(user: str | None, method: bytes, *fields: bytes) -> Payloads:
    """RFC 4252 §5; without `user`, a different nonexistent user each time."""

    def payloads(reached: Reached, turn: int) -> Sequence[bytes]:
        name = getattr(reached.login, user).encode() if user else b"nobody%d" % turn
        service = string(b"ssh-connection")
        return [_message(ssh.MSG_USERAUTH_REQUEST, string(name), service, string(method), *fields)]

    return payloads


def _own_key(*signature: bytes) -> Payloads:
    """Query the attacker's own key, or use it with an invalid signature."""

    def payloads(reached: Reached, turn: int) -> Sequence[bytes]:
        public = ssh.public_blob(reached.login.private)
        fields = (YES if signature else NO, string(b"ssh-ed25519"), string(public), *signature)
        return _userauth("user", b"publickey", *fields)(reached, turn)

    return payloads


def _global(name: bytes, *fields: bytes, reply: bool) -> Payloads:
    return _fixed(ssh.MSG_GLOBAL_REQUEST, string(name), YES if reply else NO, *fields)


def _prove(count: int) -> Payloads:
    """PROTOCOL 2.5: "hostkeys-prove-00@openssh.com", and the key blobs."""

    def payloads(reached: Reached, turn: int) -> Sequence[bytes]:
        keys = string(reached.client.host_key) * count
        return [
            _message(
                ssh.MSG_GLOBAL_REQUEST, string(b"hostkeys-prove-00@openssh.com"), YES, keys
            )
        ]  # fmt: skip

    return payloads


def _open(kind: bytes, *fields: bytes, max_packet: int = 32_768) -> Payloads:
    """RFC 4254 §5.1."""

    def payloads(reached: Reached, turn: int) -> Sequence[bytes]:
        numbers = uint32(1000 + turn) + uint32(1 << 20) + uint32(max_packet)
        return [_message(ssh.MSG_CHANNEL_OPEN, string(kind), numbers, *fields)]

    return payloads


def _open_and_close(*requests: tuple[bytes, bytes]) -> Payloads:
    """Sessions one after another, with these requests on each."""

    def payloads(reached: Reached, turn: int) -> Sequence[bytes]:
        channel = uint32(reached.next_channel + turn)
        asked = [
            _message(ssh.MSG_CHANNEL_REQUEST, channel, string(kind), YES, fields)
            for kind, fields in requests
        ]
        opened = _open(b"session")(reached, turn)
        return [*opened, *asked, _message(ssh.MSG_CHANNEL_CLOSE, channel)]

    return payloads


def _channel(number: int, *fields: bytes) -> Payloads:
    return lambda reached, turn: [_message(number, reached.channel(turn), *fields)]


def _request(kind: bytes, *fields: bytes, reply: bool) -> Payloads:
    return _channel(ssh.MSG_CHANNEL_REQUEST, string(kind), YES if reply else NO, *fields)


# The tables

_TRANSPORT: dict[str, Payloads] = {
    "DISCONNECT": _fixed(ssh.MSG_DISCONNECT, uint32(11), string(b"bye"), string(b"")),
    "IGNORE": _fixed(2, string(b"")),
    "IGNORE of 30,000 bytes": _fixed(2, string(bytes(30_000))),
    "UNIMPLEMENTED": _fixed(ssh.MSG_UNIMPLEMENTED, uint32(3)),
    "DEBUG": _fixed(4, NO, string(b""), string(b"")),
    "SERVICE_REQUEST ssh-userauth": _fixed(ssh.MSG_SERVICE_REQUEST, string(b"ssh-userauth")),
    "SERVICE_REQUEST ssh-connection": _fixed(ssh.MSG_SERVICE_REQUEST, string(b"ssh-connection")),
    "SERVICE_REQUEST unknown": _fixed(ssh.MSG_SERVICE_REQUEST, string(b"x")),
    "SERVICE_ACCEPT": _fixed(ssh.MSG_SERVICE_ACCEPT, string(b"ssh-userauth")),
    "EXT_INFO": _fixed(7, uint32(1), string(b"server-sig-algs"), string(b"ssh-ed25519")),
    "EXT_INFO of 2,000 extensions": _fixed(7, uint32(2000), (string(b"x") + string(b"y")) * 2000),
    "NEWCOMPRESS": _fixed(8),
}

_KEY_EXCHANGE: dict[str, Payloads] = {
    "KEXINIT": lambda reached, turn: [reached.client.kexinit()],
    "KEXINIT of 30,000 names": lambda reached, turn: [
        _message(ssh.MSG_KEXINIT, os.urandom(16), string(b"x," * 15_000 + b"x") * 1,
                 string(b"y") * 9, bytes(5))
    ],
    "NEWKEYS": _fixed(ssh.MSG_NEWKEYS),
    "KEX_ECDH_INIT": _fixed(ssh.MSG_KEX_ECDH_INIT, string(b"\x09" + bytes(31))),
    "31 to 49": _numbers(range(31, 50), string(bytes(32))),
}  # fmt: skip

_SIGNATURE = string(string(b"ssh-ed25519") + string(bytes(64)))

_USERAUTH: dict[str, Payloads] = {
    "none": _userauth("user", b"none"),
    "none, of unknown users": _userauth(None, b"none"),
    "publickey, queried": _own_key(),
    "publickey, bad signature": _own_key(_SIGNATURE),
    "publickey, unknown": _userauth(
        None, b"publickey", NO, string(b"ssh-ed25519"),
        string(string(b"ssh-ed25519") + string(bytes(32))),
    ),
    "publickey, no key": _userauth(
        "user", b"publickey", NO, string(b"ssh-rsa"), string(bytes(30_000))
    ),
    "password": _userauth("password_user", b"password", NO, string(b"wrong")),
    "password, of unknown users": _userauth(None, b"password", NO, string(b"wrong")),
    "password, changed": _userauth("password_user", b"password", YES, string(b"a"), string(b"b")),
    "keyboard-interactive": _userauth("password_user", b"keyboard-interactive", string(b"") * 2),
    "hostbased": _userauth("user", b"hostbased", string(b"x") * 4, _SIGNATURE),
    "gssapi-with-mic": _userauth("user", b"gssapi-with-mic", uint32(1), string(b"\6\1\1")),
    "unknown": _userauth("user", b"x" * 30_000),
    "FAILURE": _fixed(ssh.MSG_USERAUTH_FAILURE, string(b"none"), NO),
    "SUCCESS": _fixed(ssh.MSG_USERAUTH_SUCCESS),
    "BANNER": _fixed(53, string(b"hello"), string(b"")),
    "60 to 79": _numbers(range(60, 80), uint32(1), string(b"x")),
}  # fmt: skip

_LONG_NAME = "x" * 200

#: How unknown requests are shown.
_UNKNOWN = {"x": "unknown", _LONG_NAME: "unknown, of 30,000 bytes"}

_GLOBAL_REQUESTS: dict[str, tuple[bytes, ...]] = {
    "keepalive@openssh.com": (),
    "tcpip-forward": (string(b"localhost"), uint32(7)),
    "cancel-tcpip-forward": (string(b"localhost"), uint32(7)),
    "streamlocal-forward@openssh.com": (string(b"/tmp/x"),),
    "cancel-streamlocal-forward@openssh.com": (string(b"/tmp/x"),),
    "hostkeys-00@openssh.com": (),
    "no-more-sessions@openssh.com": (),
    "x": (),
    _LONG_NAME: (string(bytes(30_000)),),
}

_GLOBAL_OTHERS: dict[str, Payloads] = {
    "hostkeys-prove-00@openssh.com of one key": _prove(1),
    MANY_SIGNATURES: _prove(_MANY_KEYS),
    "REQUEST_SUCCESS": _fixed(81),
    "REQUEST_FAILURE": _fixed(ssh.MSG_REQUEST_FAILURE),
}

_TCPIP = string(b"localhost") + uint32(7)

_OPENS: dict[str, Payloads] = {
    "session": _open(b"session"),
    "session, packets of 0 bytes": _open(b"session", max_packet=0),
    "session, opened and closed": _open_and_close(),
    "session, with sftp and closed": _open_and_close((b"subsystem", string(b"sftp"))),
    "session, with exec and closed": _open_and_close((b"exec", string(b"id"))),
    "session, with scp and closed": _open_and_close((b"exec", string(b"scp -r -f share"))),
    "session, with sha256sum and closed": _open_and_close((b"exec", string(b"sha256sum share/*"))),
    "direct-tcpip": _open(b"direct-tcpip", _TCPIP, _TCPIP),
    "forwarded-tcpip": _open(b"forwarded-tcpip", _TCPIP, _TCPIP),
    "direct-streamlocal@openssh.com": _open(
        b"direct-streamlocal@openssh.com", string(b"/tmp/x"), string(b""), uint32(0)
    ),
    "forwarded-streamlocal@openssh.com": _open(
        b"forwarded-streamlocal@openssh.com", string(b"/tmp/x"), string(b"")
    ),
    "tun@openssh.com": _open(b"tun@openssh.com", uint32(1), uint32(0)),
    "x11": _open(b"x11", _TCPIP),
    "auth-agent@openssh.com": _open(b"auth-agent@openssh.com"),
    "channel": _open(b"channel"),
    "unknown": _open(b"x"),
    "unknown, of 30,000 bytes": _open(_LONG_NAME.encode(), string(bytes(30_000))),
    "OPEN_CONFIRMATION": _channel(ssh.MSG_CHANNEL_OPEN_CONFIRMATION, *[uint32(1 << 15)] * 3),
    "OPEN_FAILURE": _channel(ssh.MSG_CHANNEL_OPEN_FAILURE, uint32(1), string(b""), string(b"")),
}

_CHANNELS: dict[str, Payloads] = {
    "WINDOW_ADJUST by 0": _channel(ssh.MSG_CHANNEL_WINDOW_ADJUST, uint32(0)),
    "WINDOW_ADJUST by 1": _channel(ssh.MSG_CHANNEL_WINDOW_ADJUST, uint32(1)),
    "WINDOW_ADJUST by 2**32 - 1": _channel(ssh.MSG_CHANNEL_WINDOW_ADJUST, uint32(2**32 - 1)),
    "WINDOW_ADJUST for an unknown channel": _fixed(
        ssh.MSG_CHANNEL_WINDOW_ADJUST, uint32(77), uint32(1)
    ),
    "DATA, empty": _channel(ssh.MSG_CHANNEL_DATA, string(b"")),
    "DATA beyond the window": _channel(ssh.MSG_CHANNEL_DATA, string(bytes(30_000))),
    "DATA for an unknown channel": _fixed(ssh.MSG_CHANNEL_DATA, uint32(77), string(b"x")),
    "EXTENDED_DATA, empty": _channel(ssh.MSG_CHANNEL_EXTENDED_DATA, uint32(1), string(b"")),
    "EXTENDED_DATA": _channel(ssh.MSG_CHANNEL_EXTENDED_DATA, uint32(1), string(b"x")),
    "EXTENDED_DATA of an unknown type": _channel(
        ssh.MSG_CHANNEL_EXTENDED_DATA, uint32(77), string(b"x")
    ),
    "EOF": _channel(ssh.MSG_CHANNEL_EOF),
    "CLOSE": _channel(ssh.MSG_CHANNEL_CLOSE),
    "SUCCESS": _channel(ssh.MSG_CHANNEL_SUCCESS),
    "FAILURE": _channel(ssh.MSG_CHANNEL_FAILURE),
}

_REQUESTS: dict[str, tuple[bytes, ...]] = {
    "pty-req": (string(b"xterm"), uint32(80) * 4, string(b"")),
    "x11-req": (NO, string(b"MIT-MAGIC-COOKIE-1"), string(b"00"), uint32(0)),
    "env": (string(b"LANG"), string(b"C")),
    "shell": (),
    "exec": (string(b"id"),),
    "subsystem": (string(b"sftp"),),
    "window-change": (uint32(80) * 4,),
    "xon-xoff": (NO,),
    "signal": (string(b"TERM"),),
    "exit-status": (uint32(0),),
    "exit-signal": (string(b"TERM"), NO, string(b"") * 2),
    "break": (uint32(1000),),
    "auth-agent-req@openssh.com": (),
    "eow@openssh.com": (),
    "keepalive@openssh.com": (),
    "x": (),
    _LONG_NAME: (string(bytes(30_000)),),
}

#: Numbers that RFC 4250 §4.1 leaves unassigned, reserves, or leaves to extensions.
_UNASSIGNED = {
    "0": range(1),
    "9 to 19": range(9, 20),
    "22 to 29": range(22, 30),
    "54 to 59": range(54, 60),
    "83 to 89": range(83, 90),
    "101 to 127": range(101, 128),
    "128 to 191": range(128, 192),
    "192 to 255": range(192, 256),
}

_REPLY = {"": False, ", reply wanted": True}


def _rows() -> Iterator[Message]:
    for family, table in {
        "transport": _TRANSPORT,
        "key exchange": _KEY_EXCHANGE,
        "userauth": _USERAUTH,
        "global requests": _GLOBAL_OTHERS,
        "channel opens": _OPENS,
        "channels": _CHANNELS,
    }.items():
        for name, payloads in table.items():
            yield Message(family, name, payloads)
    yield Message("key exchange", "full exchanges", exchange=RawSsh.exchange_keys)
    for suffix, reply in _REPLY.items():
        for name, fields in _GLOBAL_REQUESTS.items():
            payloads = _global(name.encode(), *fields, reply=reply)
            yield Message("global requests", _UNKNOWN.get(name, name) + suffix, payloads)
        for name, fields in _REQUESTS.items():
            payloads = _request(name.encode(), *fields, reply=reply)
            yield Message("channel requests", _UNKNOWN.get(name, name) + suffix, payloads)
    yield from sftp.messages()
    for name, numbers in _UNASSIGNED.items():
        yield Message("unassigned numbers", name, _numbers(numbers, string(b"x")))


MESSAGES: tuple[Message, ...] = tuple(_rows())
