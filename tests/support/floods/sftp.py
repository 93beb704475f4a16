"""SFTP requests as messages: one per packet, and many in one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tests.support import raw_ssh as ssh
from tests.support import sftp_wire as wire
from tests.support.floods.message import Message, Payloads, Reached
from tests.support.sftp_wire import string, uint32

SHARE = b"/home/attacker/share/"

#: The content of the attacked gateway's share.
FILES = {"big": bytes(1 << 20), "small": b"small\n"} | {f"folder/{n}": b"" for n in range(200)}

#: Bytes of SFTP requests packed into one CHANNEL_DATA.
_PACKED = 32_000

_LONG_PATH = 4096

#: A request of SFTP, or several that belong together; arguments as for Payloads.
Requests = Callable[[Reached, int], bytes]


def _sftp(requests: Requests) -> Payloads:
    """One per CHANNEL_DATA."""

    def payloads(reached: Reached, turn: int) -> Sequence[bytes]:
        data = string(requests(reached, turn))
        return [bytes([ssh.MSG_CHANNEL_DATA]) + reached.channel(turn) + data]

    return payloads


def _packed(requests: Requests) -> Payloads:
    """As many per CHANNEL_DATA as fit."""

    def payloads(reached: Reached, turn: int) -> Sequence[bytes]:
        one = requests(reached, turn)
        data = string(one * max(1, _PACKED // len(one)))
        return [bytes([ssh.MSG_CHANNEL_DATA]) + reached.channel(turn) + data]

    return payloads


def _on_path(encode: Callable[..., bytes], name: bytes, *more: Any) -> Requests:
    return lambda reached, turn: encode(turn % 2**32, SHARE + name, *more)


def _on_file(encode: Callable[..., bytes], *more: Any) -> Requests:
    return lambda reached, turn: encode(turn % 2**32, reached.file, *more)


def _on_folder(encode: Callable[..., bytes], *more: Any) -> Requests:
    return lambda reached, turn: encode(turn % 2**32, reached.folder, *more)


def _pair(encode: Callable[..., bytes], name: bytes) -> Requests:
    """Open and close repeatedly; the server numbers its handles."""

    def requests(reached: Reached, turn: int) -> bytes:
        handle = uint32(reached.next_handle + turn // len(reached.channels))
        return encode(turn % 2**32, SHARE + name) + wire.encode_close(turn % 2**32, handle)

    return requests


def _check_file(request_id: int, path: bytes) -> bytes:
    return wire.encode_check_file(request_id, b"check-file-name", path, b"md5," * 10_000)


def _extended(name: bytes, body: bytes = string(SHARE) * 2) -> Requests:
    return lambda reached, turn: wire.encode_extended(turn % 2**32, name, body)


def _typed(kinds: Sequence[int]) -> Requests:
    return lambda reached, turn: wire.packet(kinds[turn % len(kinds)], uint32(turn % 2**32))


#: 32,000 numbers of users, and of groups: encoded once, because a flood repeats them.
_MANY_IDS = string(b"".join(map(uint32, range(32_000)))) * 2

_CONTROL = b"\x01" * (_LONG_PATH - len(SHARE))  # each six bytes in the access log


READ_ALL, _READ_ONE = (0, 256 * 1024), (0, 1)

_SFTP: dict[str, Requests] = {
    "INIT": lambda reached, turn: wire.encode_init(),
    "VERSION": _typed([wire.PacketType.VERSION]),
    "OPEN": _on_path(wire.encode_open, b"small"),
    "OPEN to write": _on_path(wire.encode_open, b"small", wire.Open.WRITE),
    "OPEN of nothing": _on_path(wire.encode_open, b"missing"),
    "OPEN and CLOSE": _pair(wire.encode_open, b"small"),
    "CLOSE of no handle": lambda reached, turn: wire.encode_close(turn % 2**32, b"none"),
    "READ of 256 KiB": _on_file(wire.encode_read, *READ_ALL),
    "READ of a byte": _on_file(wire.encode_read, *_READ_ONE),
    "READ of no handle": lambda reached, turn: wire.encode_read(turn % 2**32, b"none", 0, 1),
    "WRITE": _on_file(wire.encode_write, 0, b"x"),
    "WRITE of 30,000 bytes": _on_file(wire.encode_write, 0, bytes(30_000)),
    "LSTAT": _on_path(wire.encode_lstat, b"small"),
    "LSTAT of nothing": _on_path(wire.encode_lstat, b"missing"),
    "LSTAT of a long path": _on_path(wire.encode_lstat, b"x/" * 2000),
    "FSTAT": _on_file(wire.encode_fstat),
    "SETSTAT": _on_path(wire.encode_setstat, b"small", wire.NO_ATTRS),
    "FSETSTAT": _on_file(wire.encode_fsetstat, wire.NO_ATTRS),
    "OPENDIR": _on_path(wire.encode_opendir, b"folder"),
    "OPENDIR and CLOSE": _pair(wire.encode_opendir, b"folder"),
    "READDIR": _on_folder(wire.encode_readdir),
    "REMOVE": _on_path(wire.encode_remove, b"small"),
    "MKDIR": _on_path(wire.encode_mkdir, b"new", wire.NO_ATTRS),
    "RMDIR": _on_path(wire.encode_rmdir, b"folder"),
    "REALPATH": _on_path(wire.encode_realpath, b"small/../."),
    "REALPATH of 262,000 bytes": _on_path(wire.encode_realpath, b"a/" * 131_000),
    "REALPATH of 262,000 bytes, back and forth": _on_path(wire.encode_realpath, b"a/../" * 52_400),
    "STAT": _on_path(wire.encode_stat, b"small"),
    "RENAME": _on_path(wire.encode_rename, b"small", SHARE + b"other"),
    "RENAME of control characters": _on_path(wire.encode_rename, _CONTROL, SHARE + _CONTROL),
    "READLINK": _on_path(wire.encode_readlink, b"small"),
    "check-file-name": _on_path(_check_file, b"small"),
    "check-file-name of nothing": _on_path(_check_file, b"missing"),
    "users-groups-by-id of 32,000": _extended(b"users-groups-by-id@openssh.com", _MANY_IDS),
    "SYMLINK": _on_path(wire.encode_symlink, b"small", SHARE + b"other"),
    "0": _typed(range(1)),
    "21 to 100": _typed(range(21, 101)),
    "answers": _typed([101, 102, 103, 104, 105, 201]),
    "106 to 199": _typed(range(106, 200)),
    "202 to 255": _typed(range(202, 256)),
    **{
        name.decode(): _extended(name)
        for name in (
            b"statvfs@openssh.com", b"fstatvfs@openssh.com", b"limits@openssh.com",
            b"expand-path@openssh.com", b"home-directory", b"posix-rename@openssh.com",
            b"hardlink@openssh.com", b"fsync@openssh.com", b"lsetstat@openssh.com",
            b"copy-data", b"users-groups-by-id@openssh.com", b"unknown",
        )
    },
}  # fmt: skip


def messages() -> Iterator[Message]:
    """All messages."""
    for name, requests in _SFTP.items():
        yield Message("SFTP", name, _sftp(requests), within_window=True)
        yield Message("SFTP, packed", name, _packed(requests), within_window=True)
