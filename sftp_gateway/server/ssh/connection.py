"""One SSH connection: asyncssh's, with bounded memory and strict about the protocol.

A message that RFC 4253 or 4254 forbids at that point ends the connection as a protocol error.
Messages that they allow but SFTP clients seldom need (MSG_IGNORE, requests, new channels) are
handled up to a rate.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias, cast

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

from sftp_gateway.auth.addresses import unmapped
from sftp_gateway.auth.authenticator import Reason
from sftp_gateway.auth.keys.blobs import fingerprint
from sftp_gateway.auth.keys.certificates import is_certificate, read_certificate
from sftp_gateway.observability.access_log.events import Session
from sftp_gateway.server.handles import FileHandle
from sftp_gateway.server.limits.scheduler import Scheduler
from sftp_gateway.server.packets.connection import (
    MAX_PACKET,
    SOCKET_BUFFER,
    PacketConnection,
)
from sftp_gateway.server.packets.transport import READ_BEFORE_LOGIN
from sftp_gateway.server.recorder import Recorder
from sftp_gateway.server.ssh.auth import LoginAttempts
from sftp_gateway.server.ssh.callbacks import ConnectionCallbacks
from sftp_gateway.server.ssh.context import ServerContext
from sftp_gateway.server.ssh.negotiation import KexInit, mismatch, read_kexinit
from sftp_gateway.token_bucket import TokenBucket

if TYPE_CHECKING:
    from asyncssh.packet import SSHPacket, SSHPacketLogger

    Result: TypeAlias = bool | Awaitable[None]
    Process: TypeAlias = Callable[[int, int, SSHPacket], Result]

_log = logging.getLogger(__name__)

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


class Channel(Protocol):
    """A session channel, as its connection knows it."""

    @property
    def busy(self) -> bool:
        """Whether the client waits for an answer."""
        ...

    @property
    def closed(self) -> bool:
        """Whether our side is closed."""
        ...

    def open_files(self) -> Iterable[FileHandle]:
        """The files that the client has open."""
        ...

    def socket_full(self, full: bool) -> None:
        """The socket's buffer is full, or has room again."""
        ...

    def send_buffered(self) -> None:
        """A key exchange has ended: send what had to wait for it."""
        ...

    def pump(self) -> None:
        """The access log has room again."""
        ...

    def drain(self) -> None:
        """Close once the client has closed its files."""
        ...

    def finish(self) -> None:
        """Close once the requests so far are answered."""
        ...


class Connection(PacketConnection):
    """A connection to one client, with its login and its channels.

    Overrides these methods of asyncssh:
    - `pause_writing`, `resume_writing`, which asyncssh ignores
    - `data_received`, `process_packet`: bounds on input
    - `send_packet`: drops MSG_IGNORE
    - `_send_kexinit`: the offer may depend on the client's KEXINIT
    - `_finish_userauth`, `validate_public_key`: one login attempt at a time, and its signature
    - `_process_..._forward_..._global_request`: asyncssh would wait a turn of the loop for each
    - `_process_hostkeys_prove_..._global_request`: asyncssh would sign any number of times
    - `reload_config`: there is no configuration file to read again at a login
    """

    recorder: Recorder
    login: LoginAttempts
    _reading_paused = False
    _turn_awaited = False  # before anything more is read
    _full_read = READ_BEFORE_LOGIN
    _key_exchange_timer: asyncio.TimerHandle | None = None
    _kexinit_timer: asyncio.TimerHandle | None = None  # while the client's first KEXINIT is awaited

    #: asyncssh looks for a channel's type among its methods: by this name for the type "channel".
    _process_channel_open = None  # type: ignore[assignment]

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        options: asyncssh.SSHServerConnectionOptions,
        *,
        context: ServerContext,
        callbacks: ConnectionCallbacks,
        scheduler: Scheduler,
    ) -> None:
        """`options.server_factory` makes the handler of this connection's client."""
        super().__init__(
            loop, options, scheduler=scheduler, own_packet_layer=context.own_packet_layer
        )
        self.callbacks = callbacks
        self.channels: set[Channel] = set()
        #: Why we close the connection, as the access log names it.
        self.end_reason: str | None = None
        #: Whether the client sent too many messages.
        self.flooded = False
        self._context = context
        self._max_recv_pktlen = MAX_PACKET
        self._overhead = TokenBucket(
            rate=_OVERHEAD_PER_SECOND, capacity=_OVERHEAD_BURST, now=time.monotonic()
        )
        self._requests_seen = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client connected."""
        self._socket = cast(asyncio.Transport, transport)
        self.limit_write_buffer(None)
        host, port = (transport.get_extra_info("peername") or ("", 0))[:2]
        address = unmapped(host)
        session = Session(session=secrets.token_hex(8), client_ip=address, client_port=port)
        self.recorder = Recorder(
            session=session, log=self._context.access_log, metrics=self._context.metrics
        )
        self.login = LoginAttempts(context=self._context, recorder=self.recorder, address=address)
        super().connection_made(transport)

    def close_for(self, reason: str, text: str) -> None:
        """Disconnect; `reason` goes to the access log, `text` to the client."""
        self.end_reason = reason
        self.disconnect(asyncssh.DISC_BY_APPLICATION, text)

    def read_without_bound(self) -> None:
        """Read whatever has come at once: the client has logged in."""
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
        """Set how many bytes may wait before the channels pause; None: the default."""
        if not self._socket.is_closing():
            self._socket.set_write_buffer_limits(high=high or SOCKET_BUFFER)

    def pause_writing(self) -> None:
        """The socket's buffer is full."""
        super().pause_writing()
        for channel in tuple(self.channels):
            channel.socket_full(True)

    def resume_writing(self) -> None:
        """The socket has room again."""
        super().resume_writing()
        for channel in tuple(self.channels):
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
        """Stop reading while too much input is unhandled.

        asyncssh buffers without a bound what comes during a login attempt. (What it sends to a
        client that does not read is bounded by the rate of messages that it answers.)
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
        """Have `process` handle a message, if it is allowed now, once the access log has room."""
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
        if pkttype in _LOGGED and self._context.access_log.congested(self.recorder.session.user):
            return self._process_later(process, pkttype, pktid, packet)
        return process(pkttype, pktid, packet)

    async def _process_later(
        self, process: Process, pkttype: int, pktid: int, packet: SSHPacket
    ) -> None:
        await self._context.wait_for_log(self.recorder.session.user)
        if self._transport is None:
            return
        result = process(pkttype, pktid, packet)
        if not isinstance(result, bool):
            await result

    def _count_overhead(self, cost: int) -> None:
        """Charge for a message beside SFTP; raise ProtocolError over the rate."""
        now = time.monotonic()
        requests = self.recorder.requests
        earned = (requests - self._requests_seen) * _OVERHEAD_PER_REQUEST
        self._requests_seen = requests
        self._overhead.spend(-min(earned, _OVERHEAD_BURST), now)
        self._overhead.spend(cost, now)
        if self._overhead.delay(now):
            self.flooded = True
            raise asyncssh.ProtocolError("Too many messages")

    # Sending

    def send_packet(
        self, pkttype: int, *args: bytes, handler: SSHPacketLogger | None = None
    ) -> None:
        """Send a packet, but not the empty MSG_IGNORE that asyncssh puts before every other.

        Those protect CBC ciphers against a chosen plaintext (RFC 4251 §9.3.1). None is offered,
        and they double the number of packets.
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
        offers = self._context.offers
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
            self.end_reason = "no_common_algorithm"
            self.note_negotiated()
            self.recorder.negotiation_failed(
                algorithm=failed.algorithm, their_offer=failed.their_offer, remedy=failed.remedy
            )

    def note_negotiated(self) -> None:
        """Have the recorder know the client's version and cipher."""
        self.recorder.update(
            client_version=self.get_extra_info("client_version"),
            cipher=self.get_extra_info("send_cipher"),
        )

    def _offer(self, client: KexInit | None) -> None:
        """Send the first KEXINIT, with the ciphers and MACs for this client."""
        if self._kexinit_timer is not None:
            self._kexinit_timer.cancel()
            self._kexinit_timer = None
        offer = self._context.offers.to(client)
        self._enc_algs = [name.encode() for name in offer.ciphers]
        self._mac_algs = [name.encode() for name in offer.macs]
        super()._send_kexinit()

    def _watch_keys(self, pkttype: int) -> None:
        """Limit the time of a key exchange; after it, send what the channels held back.

        RFC 4253 §7.1 forbids channel data during it, so channels buffer it as for a full window.
        """
        self._keys_awaited = pkttype == MSG_KEXINIT
        if not self._keys_awaited:
            # After what asyncssh has deferred, which may start the next key exchange.
            self._loop.call_soon(self._send_buffered)
        elif self._auth_complete:
            if self._key_exchange_timer is not None:
                self._key_exchange_timer.cancel()
            self._key_exchange_timer = self._loop.call_later(
                _KEY_EXCHANGE_TIMEOUT, self._end_key_exchange
            )

    def _end_key_exchange(self) -> None:
        self._key_exchange_timer = None
        if self._transport is not None and (self._keys_awaited or self.exchanging_keys):
            self.close_for("key_exchange_timeout", "Key exchange timed out")

    def _send_buffered(self) -> None:
        for channel in tuple(self.channels):
            channel.send_buffered()

    def _cleanup(self, exc: Exception | None) -> None:
        for timer in (self._key_exchange_timer, self._kexinit_timer):
            if timer is not None:
                timer.cancel()
        super()._cleanup(exc)

    # Global requests

    def refuse_forwarding(self) -> bool:
        """Log that the client asked for forwarding, and return False."""
        self.recorder.command_refused("forwarding")
        return False

    def _process_tcpip_forward_global_request(self, packet: SSHPacket) -> None:
        """Listening on a port, to forward it: refused."""
        self._report_global_response(self.refuse_forwarding())

    def _process_streamlocal_forward_at_openssh_dot_com_global_request(
        self, packet: SSHPacket
    ) -> None:
        """Listening on a socket, to forward it: refused."""
        self._report_global_response(self.refuse_forwarding())

    def _process_hostkeys_prove_00_at_openssh_dot_com_global_request(
        self, packet: SSHPacket
    ) -> None:
        """Prove that the server has the private keys of these host keys, each once.

        OpenSSH's PROTOCOL §2.5: the signatures are over the name of the request, the session
        identifier and the key, in the order of the request. Clients ask once, for keys that they
        do not know yet.
        """
        keys: list[bytes] = []
        while packet:
            key = packet.get_string()
            if key in keys or key not in self._all_server_host_keys:
                self._report_global_response(False)
                return
            keys.append(key)
        self._count_overhead(_SIGNATURE * len(keys))
        prefix = String("hostkeys-prove-00@openssh.com") + String(self._session_id)
        self._report_global_response(
            b"".join(
                String(self._all_server_host_keys[key].sign(prefix + String(key))) for key in keys
            )
        )

    # Login

    async def reload_config(self) -> None:
        """Nothing to read again."""

    async def _finish_userauth(self, begin_auth: bool, method: bytes, packet: SSHPacket) -> None:
        """Handle one login attempt to its end.

        RFC 4252 §5.1: a server "MUST process each request completely and acknowledge any failed
        requests with SSH_MSG_USERAUTH_FAILURE before processing the next request". Nothing more
        of the client is handled until this returns; asyncssh itself would let the next attempt
        cancel this one.
        """
        await super()._finish_userauth(begin_auth, method, packet)
        if self._auth is not None and self._auth.task is not None:
            await asyncio.wait([self._auth.task])
        elif self._transport is not None and not self._auth_complete:
            self.login.method_refused(self._username, method)

    async def validate_public_key(
        self, username: str, key_data: bytes, msg: bytes, signature: bytes
    ) -> bool:
        """Whether the key is allowed, and its signature, if there is one, right."""
        login, key = self.login, fingerprint(key_data)
        if not signature:  # a query (RFC 4252 §7), which costs no attempt if the answer is yes
            self._count_overhead(1)
        if signature and _signature_algorithm(signature) not in self._context.signatures:
            login.refuse(username, "publickey", "signature_algorithm", key=key)
            return False
        certificate = None
        if is_certificate(key_data):
            try:
                certificate = read_certificate(key_data)
            except ValueError as error:
                _log.debug("a certificate was refused: %s", error)
                reason = Reason.CERTIFICATE_INVALID.value
                login.refuse(username, "publickey", reason, key=key)
                return False
            # The client signs with the key in the certificate. asyncssh asks about that key, and
            # `login` remembers the certificate that it comes from.
            key_data = certificate.key
            key = fingerprint(key_data)
        login.begin_key(certificate)
        valid = await super().validate_public_key(username, key_data, msg, signature)
        if not valid:
            login.key_refused(username, key)
        return valid


def _signature_algorithm(signature: bytes) -> str:
    """RFC 4253 §6.6: a signature starts with the name of its algorithm, as a string."""
    length = int.from_bytes(signature[:4], "big")
    return signature[4 : 4 + length].decode("ascii", "replace")
