"""The phases of a connection in which a flood can occur."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.support import raw_ssh as ssh
from tests.support import sftp_wire as wire
from tests.support.floods.message import Login, Reached
from tests.support.floods.sftp import READ_ALL, SHARE
from tests.support.raw_ssh import RawSsh

_CHANNELS_OPEN = 4


def _connected(login: Login, **options: bool) -> Reached:
    return Reached(RawSsh(login.port, **options), login)


def _before_keys(login: Login) -> Reached:
    reached = _connected(login)
    reached.client.begin_exchange()
    return reached


def _before_login(login: Login, **options: bool) -> Reached:
    reached = _connected(login, **options)
    reached.client.exchange_keys()
    reached.client.request_service()
    return reached


def _logged_in(login: Login, **options: bool) -> Reached:
    reached = _before_login(login, **options)
    reached.client.log_in(login.user, login.private)
    return reached


def _with_channels(login: Login, *, compress: bool = False, **options: int) -> Reached:
    """SFTP on several channels, each with an open file and folder."""
    reached = _logged_in(login, compress=compress)
    client = reached.client
    reached.channels = []
    for _ in range(_CHANNELS_OPEN):
        channel = client.open_sftp(**options)
        reached.channels.append(channel.theirs)
        client.send_data(channel, wire.encode_init())
        client.receive_sftp(channel)
        opened = [
            (wire.encode_open, b"big"),
            (wire.encode_opendir, b"folder"),
        ]
        for encode, name in opened:
            client.send_data(channel, encode(1, SHARE + name))
        handles = [wire.decode_reply(client.receive_sftp(channel)) for _ in opened]
        assert all(isinstance(each, wire.HandleReply) for each in handles), handles
        reached.file, reached.folder = (each.handle for each in handles)  # type: ignore[union-attr]
    reached.next_handle = int.from_bytes(reached.folder, "big") + 1
    reached.next_channel = max(reached.channels) + 1
    return reached


def _tiny_windows(login: Login) -> Reached:
    """Each channel has a pending reply and an exhausted window."""
    reached = _with_channels(login, window=2048)
    for channel in reached.client.channels.values():
        reached.client.send_data(channel, wire.encode_read(1, reached.file, *READ_ALL))
    return reached


def _exchanging(reach: Callable[[Login], Reached]) -> Callable[[Login], Reached]:
    """The attacker has started a key exchange."""

    def exchanging(login: Login) -> Reached:
        reached = reach(login)
        reached.client.begin_exchange()
        return reached

    return exchanging


def _asked_for_keys(login: Login) -> Reached:
    """The server has started a key exchange after `rekey_limit` bytes."""
    reached = _with_channels(login)
    client = reached.client
    channel = client.channels[0]
    for _ in range(8):
        client.send_data(channel, wire.encode_read(1, reached.file, *READ_ALL))
    client.wait_for(ssh.MSG_KEXINIT)
    return reached


@dataclass(frozen=True, slots=True)
class Phase:
    """A state of a connection. `reads`: the attacker takes the answers.

    `renews_keys`: the gateway asks for new keys after a MiB (`rekey_limit`). `exchanges`: keys can
    be exchanged.
    """

    name: str
    reach: Callable[[Login], Reached]
    reads: bool = True
    renews_keys: bool = False
    exchanges: bool = False


#: First the phases that differ in what may be sent, then those that differ in how it is sent.
PHASES: tuple[Phase, ...] = (
    Phase("before keys", _before_keys),
    Phase("before login", _before_login, exchanges=True),
    Phase("logged in", _logged_in, exchanges=True),
    Phase("with channels", _with_channels, exchanges=True),
    Phase("in a key exchange", _exchanging(_with_channels)),
    Phase("in a key exchange before login", _exchanging(_before_login)),
    Phase("in the server's key exchange", _asked_for_keys, renews_keys=True),
    Phase("compressed", lambda login: _with_channels(login, compress=True), exchanges=True),
    Phase("with one-byte packets", lambda login: _with_channels(login, max_packet=1)),
    Phase("with exhausted windows", _tiny_windows),
    Phase("without reading replies", _with_channels, reads=False),
    Phase("without reading replies before login", _before_login, reads=False),
)
