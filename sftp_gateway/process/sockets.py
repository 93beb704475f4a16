"""Binds the listening sockets."""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence

from sftp_gateway.errors import ConfigurationError


def bind(host: str, port: int) -> Sequence[socket.socket]:
    """Sockets that are bound to `host` and `port`, not listening yet.

    An empty host means every address, IPv6 and IPv4 by one socket where the machine has both.

    Raises ConfigurationError where that cannot be.
    """
    try:
        if not host:
            return [_bind_all(port)]
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        return [_bound(family, address) for family, _, _, _, address in found[:1]]
    except socket.gaierror as error:
        raise ConfigurationError(
            [f"host (environment: SFTP_GATEWAY_HOST): {host!r} is no address here: {error}"]
        ) from error
    except OSError as error:
        if error.errno == errno.EADDRNOTAVAIL:
            raise ConfigurationError(
                [f"host (environment: SFTP_GATEWAY_HOST): {host} is no address of this machine"]
            ) from error
        raise ConfigurationError(
            [
                f"port (environment: SFTP_GATEWAY_PORT): cannot listen on port {port} of "
                f"{host or 'all addresses'}: {error.strerror}; stop what uses it, or choose another"
            ]
        ) from error


def _bind_all(port: int) -> socket.socket:
    if socket.has_dualstack_ipv6():
        try:
            return _bound(socket.AF_INET6, ("::", port), dual_stack=True)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise  # IPv4 alone would be half of what was asked for
    return _bound(socket.AF_INET, ("0.0.0.0", port))


def _bound(family: int, address: tuple[object, ...], *, dual_stack: bool = False) -> socket.socket:
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not dual_stack)
        bound.setblocking(False)
        bound.bind(address)
    except BaseException:
        bound.close()
        raise
    return bound
