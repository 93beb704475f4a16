"""One SSH connection: asyncssh's, with bounds on what it holds, and strict about what it takes.

What RFC 4253 and 4254 do not allow at some point ends the connection as a protocol error. What they
allow and no SFTP client needs often (MSG_IGNORE, requests, new channels) is handled up to a rate.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

import asyncssh
from asyncssh.constants import (
    MSG_CHANNEL_OPEN,
    MSG_CHANNEL_REQUEST,
    MSG_DEBUG,
    MSG_EXT_INFO,
    MSG_GLOBAL_REQUEST,
    MSG_IGNORE,
    MSG_KEX_LAST,
    MSG_KEXINIT,
    MSG_NEWKEYS,
    MSG_SERVICE_ACCEPT,
    MSG_SERVICE_REQUEST,
    MSG_UNIMPLEMENTED,
    MSG_USERAUTH_REQUEST,
)
from asyncssh.packet import String

from sftp_gateway.auth.authenticator import Reason
from sftp_gateway.auth.keys.blobs import fingerprint
from sftp_gateway.auth.keys.certificates import is_certificate, read_certificate
from sftp_gateway.server.packets.connection import SOCKET_BUFFER, PacketConnection
from sftp_gateway.server.packets.transport import READ_BEFORE_LOGIN
from sftp_gateway.server.ssh.negotiation import KexInit, mismatch, read_kexinit
from sftp_gateway.token_bucket import TokenBucket

if TYPE_CHECKING:
    from asyncssh.packet import SSHPacket, SSHPacketLogger

    from sftp_gateway.server.ssh.handler import Guest

    Result: TypeAlias = bool | Awaitable[None]
    Process: TypeAlias = Callable[[int, int, SSHPacket], Result]

_log = logging.getLogger(__name__)

#: RFC 4253 §6.1: "All implementations MUST be able to process packets with [...] a total packet
#: size of 35000 bytes or less". Channels take 32 KiB of data in a packet.
_MAX_PACKET: Final = 35_000

#: Bytes of a connection that wait to be handled over which nothing more is read: more than the
#: longest packet.
_MAX_UNHANDLED: Final = 36 * 1024

#: Bytes that come at once, of a client that is logged in, behind which others have their turn. SFTP
#: requests are small.
_FULL_READ: Final = 64 * 1024

#: What a connection may send beside SFTP, at once, and for each second and each SFTP request of it:
#: one for each of these messages. asyncssh's client puts a MSG_IGNORE before every packet.
_OVERHEAD_BURST: Final = 1000
_OVERHEAD_PER_SECOND: Final = 20
_OVERHEAD_PER_REQUEST: Final = 2
_OVERHEAD: Final = {
    MSG_IGNORE: 1,
    MSG_UNIMPLEMENTED: 1,
    MSG_DEBUG: 1,
    MSG_EXT_INFO: 1,
    MSG_KEXINIT: 10,
    MSG_GLOBAL_REQUEST: 1,
    MSG_CHANNEL_OPEN: 1,
    MSG_CHANNEL_REQUEST: 1,
}
_SIGNATURE: Final = 100

#: Seconds from the first KEXINIT of a key exchange to the client's NEWKEYS. (The first exchange of
#: a connection is part of the login, which has a time of its own.)
_KEY_EXCHANGE_TIMEOUT: Final = 60.0

#: Seconds to wait for a client's first KEXINIT if the offer depends on it. Some clients, such as
#: old versions of libssh, wait for the server's.
_CLIENT_KEXINIT_TIMEOUT: Final = 0.3

#: Messages that may mean a line in the access log, and wait while that has no room.
_LOGGED: Final = frozenset(
    {MSG_CHANNEL_OPEN, MSG_CHANNEL_REQUEST, MSG_GLOBAL_REQUEST, MSG_USERAUTH_REQUEST}
)


class Connection(PacketConnection):
    """A connection that tells its sessions when the socket is full, and what logins came to.

    Overrides of asyncssh: `connection_made`, `pause_writing`, `resume_writing` (asyncio's
    Protocol callbacks, of which asyncssh ignores the last two), `data_received`, `send_packet`,
    `_send_kexinit` (the offer may depend on the client's),
    `process_packet` (every message but those of a channel or a key exchange), `_finish_userauth`
    (each login attempt), `_process_..._forward_..._global_request` (each would wait a turn of the
    loop, behind any number of others, to ask whether it may listen),
    `_process_hostkeys_prove_..._global_request` (it would sign as often as it is asked to),
    `reload_config` (there is no configuration file to read again at each login) and
    `validate_public_key` (the only place that sees the signature).
    """

    gateway_owner: Guest
    _reading_paused = False
    _turn_awaited = False  # before anything more is read
    _full_read = READ_BEFORE_LOGIN
    _key_exchange_timer: asyncio.TimerHandle | None = None
    _kexinit_timer: asyncio.TimerHandle | None = None  # while the client's first KEXINIT is awaited

    #: asyncssh looks for a channel's type among its methods: by this name for the type "channel".
    _process_channel_open = None  # type: ignore[assignment]

    def __init__(self, *arguments: Any, **options: Any) -> None:
        """As PacketConnection."""
        super().__init__(*arguments, **options)
        self._max_recv_pktlen = _MAX_PACKET
        self._overhead = TokenBucket(
            rate=_OVERHEAD_PER_SECOND, capacity=_OVERHEAD_BURST, now=time.monotonic()
        )
        self._requests_seen = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client connected."""
        self._socket = cast(asyncio.Transport, transport)
        self.limit_write_buffer(None)
        super().connection_made(transport)

    def logged_in(self) -> None:
        """Read as much at once as there is, without a reader that bounds it."""
        if self._socket.is_closing():
            return
        if not self._reading_paused:
            self._socket.pause_reading()
        self._socket.set_protocol(self)
        self._full_read = _FULL_READ
        if not self._reading_paused:
            self._socket.resume_reading()

    @property
    def write_buffer_size(self) -> int:
        """Bytes that wait for the network to take them."""
        return self._gathering.get_write_buffer_size()

    def limit_write_buffer(self, high: int | None) -> None:
        """Bytes that may wait there before the sessions are told; None: as many as usual."""
        if not self._socket.is_closing():
            self._socket.set_write_buffer_limits(high=high or SOCKET_BUFFER)

    def pause_writing(self) -> None:
        """The socket has enough to send."""
        super().pause_writing()
        for channel in tuple(self.gateway_owner.channels):
            channel.socket_full(True)

    def resume_writing(self) -> None:
        """The socket has room again."""
        super().resume_writing()
        for channel in tuple(self.gateway_owner.channels):
            channel.socket_full(False)

    # Reading

    def data_received(self, data: bytes, datatype: asyncssh.DataType = None) -> None:
        """Bytes of the client."""
        if self._transport is None:  # closed over what came before, in this turn of the loop
            if not self._socket.is_closing():
                self._socket.pause_reading()
            return
        super().data_received(data, datatype)
        if len(data) >= self._full_read:  # and libuv would read on, for 31 times
            self._turn_awaited = True
            self.time_slice.wait()
        if self._turn_awaited or self._reading_paused or len(self._inpbuf) > _MAX_UNHANDLED:
            self._balance_reading()

    def _take_turn(self) -> None:
        self._turn_awaited = False
        super()._take_turn()
        if self._reading_paused:
            self._balance_reading()

    def _balance_reading(self) -> None:
        """Read no more while too much is left to be handled.

        asyncssh keeps without a bound what comes while a login is being decided. (What it answers
        to a client that does not read is bounded by the rate of what it answers.)
        """
        if self._transport is None or self._socket.is_closing():
            return
        wait = self._turn_awaited or len(self._inpbuf) > _MAX_UNHANDLED
        if wait != self._reading_paused:
            self._reading_paused = wait
            if wait:
                self._socket.pause_reading()
            else:
                self._socket.resume_reading()

    def process_packet(self, pkttype: int, pktid: int, packet: SSHPacket) -> Result:
        """Handle a message that is neither a channel's nor a key exchange's."""
        return self.admit(super().process_packet, pkttype, pktid, packet)

    def admit(self, process: Process, pkttype: int, pktid: int, packet: SSHPacket) -> Result:
        """Have `process` handle a message, if it may come now; once the access log has room."""
        if pkttype in _OVERHEAD:
            self._count_overhead(_OVERHEAD[pkttype])
            if pkttype == MSG_KEXINIT and not (self._session_id or self.exchanging_keys):
                self._read_first_kexinit(packet)
        # RFC 4253 §7.1: "Once a party has sent a SSH_MSG_KEXINIT message for key exchange or
        # re-exchange, until it has sent a SSH_MSG_NEWKEYS message, it MUST NOT send any messages
        # other than: Transport layer generic messages (1 to 19) (but SSH_MSG_SERVICE_REQUEST and
        # SSH_MSG_SERVICE_ACCEPT MUST NOT be sent) [...]"
        if self.exchanging_keys and (
            pkttype > MSG_KEX_LAST or pkttype in (MSG_SERVICE_REQUEST, MSG_SERVICE_ACCEPT)
        ):
            raise asyncssh.ProtocolError("Unexpected message during a key exchange")
        if pkttype in _LOGGED and self.gateway_owner.log_congested:
            return self._process_later(process, pkttype, pktid, packet)
        return process(pkttype, pktid, packet)

    async def _process_later(
        self, process: Process, pkttype: int, pktid: int, packet: SSHPacket
    ) -> None:
        await self.gateway_owner.log_has_room()
        if self._transport is None:
            return
        result = process(pkttype, pktid, packet)
        if not isinstance(result, bool):
            await result

    def _count_overhead(self, cost: int) -> None:
        """The client has sent something beside SFTP; raises ProtocolError over its rate."""
        guest, now = self.gateway_owner, time.monotonic()
        requests = guest.recorder.requests
        earned = (requests - self._requests_seen) * _OVERHEAD_PER_REQUEST
        self._requests_seen = requests
        self._overhead.spend(-min(earned, _OVERHEAD_BURST), now)
        self._overhead.spend(cost, now)
        if self._overhead.delay(now):
            guest.flooded()
            raise asyncssh.ProtocolError("Too many messages")

    # Sending

    def send_packet(
        self, pkttype: int, *args: bytes, handler: SSHPacketLogger | None = None
    ) -> None:
        """Send a packet, but not the empty MSG_IGNORE that asyncssh puts before every other.

        Those hide the first block of a packet from who can choose its text, against CBC ciphers
        (RFC 4251 §9.3.1), of which none can be offered; and they double the number of packets.
        """
        if pkttype == MSG_IGNORE:
            return
        if pkttype in (MSG_KEXINIT, MSG_NEWKEYS):
            self._watch_keys(pkttype)
        super().send_packet(pkttype, *args, handler=handler)
        if pkttype == MSG_UNIMPLEMENTED:
            self._count_overhead(1)

    def _send_kexinit(self) -> None:
        """Send a KEXINIT; the first one once the client's has come, if the offer depends on it."""
        offers = self.gateway_owner.offers
        if not self._session_id and offers.depends_on_kexinit(self._client_version):
            self._kexinit_timer = self._loop.call_later(_CLIENT_KEXINIT_TIMEOUT, self._offer, None)
        else:
            super()._send_kexinit()

    def _read_first_kexinit(self, packet: SSHPacket) -> None:
        """The client's first KEXINIT is here; asyncssh handles it after this."""
        try:
            client = read_kexinit(packet.get_full_payload())
        except ValueError:  # asyncssh finds that too
            return
        if self._kexinit_timer is not None:
            self._offer(client)
        ours = (self._server_host_key_algs or (), self._enc_algs, self._mac_algs)
        failed = mismatch(client, *([name.decode() for name in names] for names in ours))
        if failed is not None:  # asyncssh finds that too, unless the client is gone before
            self.gateway_owner.negotiation_failed(failed)

    def _offer(self, client: KexInit | None) -> None:
        """Send the first KEXINIT, with the ciphers and MACs for this client."""
        if self._kexinit_timer is not None:
            self._kexinit_timer.cancel()
            self._kexinit_timer = None
        offer = self.gateway_owner.offers.to(client)
        self._enc_algs = [name.encode() for name in offer.ciphers]
        self._mac_algs = [name.encode() for name in offer.macs]
        super()._send_kexinit()

    def _watch_keys(self, pkttype: int) -> None:
        """Bound the time of a key exchange, and send what was held back during it.

        Channels hold back what may not be sent meanwhile (RFC 4253 §7.1), as while a window is
        full.
        """
        self._keys_awaited = pkttype == MSG_KEXINIT
        if not self._keys_awaited:
            # Behind what asyncssh has kept, which may make it ask for new keys again.
            self._loop.call_soon(self._send_held)
        elif self._auth_complete:
            if self._key_exchange_timer is not None:
                self._key_exchange_timer.cancel()
            self._key_exchange_timer = self._loop.call_later(
                _KEY_EXCHANGE_TIMEOUT, self._end_key_exchange
            )

    def _end_key_exchange(self) -> None:
        self._key_exchange_timer = None
        if self._transport is not None and (self._keys_awaited or self.exchanging_keys):
            self.gateway_owner.key_exchange_timed_out()

    def _send_held(self) -> None:
        for channel in tuple(self.gateway_owner.channels):
            channel.send_held()

    def _cleanup(self, exc: Exception | None) -> None:
        for timer in (self._key_exchange_timer, self._kexinit_timer):
            if timer is not None:
                timer.cancel()
        super()._cleanup(exc)

    # Global requests

    def _process_tcpip_forward_global_request(self, packet: SSHPacket) -> None:
        """Listening on a port, to forward it: refused."""
        self._report_global_response(self.gateway_owner.refuse_forwarding())

    def _process_streamlocal_forward_at_openssh_dot_com_global_request(
        self, packet: SSHPacket
    ) -> None:
        """Listening on a socket, to forward it: refused."""
        self._report_global_response(self.gateway_owner.refuse_forwarding())

    def _process_hostkeys_prove_00_at_openssh_dot_com_global_request(
        self, packet: SSHPacket
    ) -> None:
        """Prove that the server has the private keys of these host keys, each once.

        OpenSSH's PROTOCOL §2.5: the signatures are over the name of the request, the session
        identifier and the key, in the order of the request. Clients ask once, for keys that they
        do not know yet.
        """
        asked = []
        while packet:
            asked.append(packet.get_string())
        if len(set(asked)) < len(asked) or not self._all_server_host_keys.keys() >= set(asked):
            self._report_global_response(False)
            return
        self._count_overhead(_SIGNATURE * len(asked))
        prefix = String("hostkeys-prove-00@openssh.com") + String(self._session_id)
        self._report_global_response(
            b"".join(
                String(self._all_server_host_keys[key].sign(prefix + String(key))) for key in asked
            )
        )

    # Login

    async def reload_config(self) -> None:
        """Nothing to read again."""

    async def _finish_userauth(self, begin_auth: bool, method: bytes, packet: SSHPacket) -> None:
        """Handle one attempt to log in, to its end.

        RFC 4252 §5.1: a server "MUST process each request completely and acknowledge any failed
        requests with SSH_MSG_USERAUTH_FAILURE before processing the next request". Nothing more
        of the client is handled until this returns; asyncssh itself would let the next attempt
        cancel this one.
        """
        await super()._finish_userauth(begin_auth, method, packet)
        if self._auth is not None and self._auth.task is not None:
            await asyncio.wait([self._auth.task])
        elif self._transport is not None and not self._auth_complete:
            self.gateway_owner.method_refused(self._username, method)

    async def validate_public_key(
        self, username: str, key_data: bytes, msg: bytes, signature: bytes
    ) -> bool:
        """Whether the key is allowed and, where there is one, its signature right."""
        guest, key = self.gateway_owner, fingerprint(key_data)
        if not signature:  # a question, which is free where the answer is yes
            self._count_overhead(1)
        if signature and _signature_algorithm(signature) not in guest.signatures:
            guest.refuse_login(username, "publickey", "signature_algorithm", key=key)
            return False
        certificate = None
        if is_certificate(key_data):
            try:
                certificate = read_certificate(key_data)
            except ValueError as error:
                _log.debug("a certificate was refused: %s", error)
                reason = Reason.CERTIFICATE_INVALID.value
                guest.refuse_login(username, "publickey", reason, key=key)
                return False
            # What the client signs with is the key in the certificate, and the guest is asked
            # about that: it remembers where the key comes from.
            key_data = certificate.key
            key = fingerprint(key_data)
        guest.forget_decision(certificate)
        valid = await super().validate_public_key(username, key_data, msg, signature)
        if not valid:
            guest.key_refused(username, key)
        return valid


def _signature_algorithm(signature: bytes) -> str:
    """RFC 4253 §6.6: a signature starts with the name of its algorithm, as a string."""
    length = int.from_bytes(signature[:4], "big")
    return signature[4 : 4 + length].decode("ascii", "replace")
