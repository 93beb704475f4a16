"""Creates listening sockets."""

from __future__ import annotations

import errno
import socket
from contextlib import suppress
from typing import Final

from sftp_gateway.errors import ConfigurationError

#: Connections that may wait to be accepted; the kernel's limit is net.core.somaxconn.
_BACKLOG: Final = 1024

#: The longest retransmission timeout of TCP, in milliseconds, so that answers arrive this soon
#: after a broken link is back. Since Linux 6.15 (include/uapi/linux/tcp.h); unknown to Python.
_TCP_RTO_MAX_MS: Final = 44
_MAX_RTO_MS: Final = 4_000

#: Bytes that the kernel buffers of what a client sends (socket(7) has it double the number for its
#: own use). Requests are small. By default, the kernel would hold up to tcp_rmem[2] for each client
#: that sends faster than it is served: 6 MiB, often 32.
_RECEIVE_BUFFER: Final = 128 * 1024


def listen(host: str, port: int) -> socket.socket:
    """A non-blocking socket that listens on `host` and `port`.

    An empty host means all addresses, with one socket for IPv6 and IPv4. Raises ConfigurationError.
    """
    try:
        if not host:
            return _listen_to_all(port)
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = found[0]
        return _listening(family, address)
    except socket.gaierror as error:
        raise ConfigurationError([f"host: {host!r} cannot be resolved: {error}"]) from error
    except OSError as error:
        if error.errno == errno.EADDRNOTAVAIL:
            raise ConfigurationError([f"host: {host} is not an address of this machine"]) from error
        raise ConfigurationError(
            [
                f"port: cannot listen on port {port} of "
                f"{host or 'all addresses'}: {error.strerror}; stop what uses it, or choose another"
            ]
        ) from error


def _listen_to_all(port: int) -> socket.socket:
    if socket.has_dualstack_ipv6():
        try:
            return _listening(socket.AF_INET6, ("::", port), dual_stack=True)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise  # IPv4 alone would be half of what was asked for
    return _listening(socket.AF_INET, ("0.0.0.0", port))


def _listening(
    family: int, address: tuple[object, ...], *, dual_stack: bool = False
) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Accepted sockets inherit both; the size must be known before the first connection.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        with suppress(OSError):  # an older kernel
            listener.setsockopt(socket.IPPROTO_TCP, _TCP_RTO_MAX_MS, _MAX_RTO_MS)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not dual_stack)
        listener.setblocking(False)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener
