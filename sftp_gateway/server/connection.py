"""One SSH connection: asyncssh's, with bounds on what it holds, and strict about signatures."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final, cast

import asyncssh

from sftp_gateway.auth.authenticator import Reason
from sftp_gateway.auth.blobs import fingerprint
from sftp_gateway.auth.certificates import is_certificate, read_certificate
from sftp_gateway.server.packets.connection import PacketConnection

if TYPE_CHECKING:
    from asyncssh.packet import SSHPacket, SSHPacketLogger

    from sftp_gateway.server.guest import Guest

_log = logging.getLogger(__name__)

#: Bytes that wait in a socket for the network before the sessions make no more.
_SOCKET_BUFFER: Final = 512 * 1024

#: Bytes of a connection that wait for it to be read on, and for the network to take them, over
#: which nothing more is read. The first is more than the longest packet, and many come together
#: while a login is being decided; the second, more than sessions ever leave there: only answers
#: that have no window, such as those to global requests, come to so much.
_MAX_UNREAD: Final = 512 * 1024
_MAX_UNTAKEN: Final = 2 * 1024 * 1024


class Connection(PacketConnection):
    """A connection that tells its sessions when the socket is full, and what logins came to.

    Overrides of asyncssh: `connection_made`, `pause_writing`, `resume_writing` (asyncio's
    Protocol callbacks, of which asyncssh ignores the last two), `_recv_data` (called whenever
    there is something to read), `send_packet`, `_process_tcpip_forward_global_request` and
    `_process_streamlocal_forward_...` (each would wait a turn of the loop, behind any number of
    others, to ask whether it may listen), `reload_config` (there is no configuration file to
    read again at each login) and `validate_public_key` (the only place that sees the signature).
    """

    gateway_owner: Guest
    _writing_paused = False
    _reading_paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client connected."""
        self._socket = cast(asyncio.Transport, transport)
        self.limit_write_buffer(None)
        super().connection_made(transport)

    @property
    def write_buffer_size(self) -> int:
        """Bytes that wait for the network to take them."""
        return self._socket.get_write_buffer_size()

    def limit_write_buffer(self, high: int | None) -> None:
        """Bytes that may wait there before the sessions are told; None: as many as usual."""
        self._socket.set_write_buffer_limits(high=high or _SOCKET_BUFFER)

    def pause_writing(self) -> None:
        """The socket has enough to send."""
        self._writing_paused = True
        for channel in tuple(self.gateway_owner.channels):
            channel.socket_full(True)

    def resume_writing(self) -> None:
        """The socket has room again."""
        self._writing_paused = False
        self._balance_reading()
        for channel in tuple(self.gateway_owner.channels):
            channel.socket_full(False)

    def _recv_data(self) -> None:
        """Read what came, and no more where too much of it is left or too much was answered.

        asyncssh keeps both without a bound: what comes while it waits for the decision about a
        login, and what it answers to a client that does not read.
        """
        super()._recv_data()
        if self._writing_paused or self._reading_paused or len(self._inpbuf) > _MAX_UNREAD:
            self._balance_reading()

    def _balance_reading(self) -> None:
        if self._transport is None or self._socket.is_closing():
            return
        wait = len(self._inpbuf) > _MAX_UNREAD or (
            self._writing_paused and self.write_buffer_size > _MAX_UNTAKEN
        )
        if wait != self._reading_paused:
            self._reading_paused = wait
            if wait:
                self._socket.pause_reading()
            else:
                self._socket.resume_reading()

    def send_packet(
        self, pkttype: int, *args: bytes, handler: SSHPacketLogger | None = None
    ) -> None:
        """Send a packet, but not the empty MSG_IGNORE that asyncssh puts before every other.

        Those hide the first block of a packet from who can choose its text, against CBC ciphers
        (RFC 4251 §9.3.1), of which none can be offered; and they double the number of packets.
        """
        if pkttype != asyncssh.constants.MSG_IGNORE:
            self._watch_keys(pkttype)
            super().send_packet(pkttype, *args, handler=handler)

    def _watch_keys(self, pkttype: int) -> None:
        """Let the sessions wait while keys are exchanged.

        asyncssh keeps what it may not send meanwhile (RFC 4253 §7.1), and a client that does not
        answer would have it keep all that its window allows.
        """
        if pkttype in (asyncssh.constants.MSG_KEXINIT, asyncssh.constants.MSG_NEWKEYS):
            self._keys_awaited = pkttype == asyncssh.constants.MSG_KEXINIT
            # Behind what asyncssh has kept, which may make it ask for new keys again.
            asyncio.get_running_loop().call_soon(self._tell_keys)

    def _tell_keys(self) -> None:
        for channel in tuple(self.gateway_owner.channels):
            channel.keys_awaited(self._keys_awaited)

    def _process_tcpip_forward_global_request(self, packet: SSHPacket) -> None:
        """Listening on a port, to forward it: refused."""
        self._report_global_response(self.gateway_owner.refuse_forwarding())

    def _process_streamlocal_forward_at_openssh_dot_com_global_request(
        self, packet: SSHPacket
    ) -> None:
        """Listening on a socket, to forward it: refused."""
        self._report_global_response(self.gateway_owner.refuse_forwarding())

    async def reload_config(self) -> None:
        """Nothing to read again."""

    async def validate_public_key(
        self, username: str, key_data: bytes, msg: bytes, signature: bytes
    ) -> bool:
        """Whether the key is allowed and, where there is one, its signature right."""
        guest, key = self.gateway_owner, fingerprint(key_data)
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
