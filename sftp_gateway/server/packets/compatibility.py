"""Whether the installed asyncssh has the internals that `connection` was written against.

`connection` bypasses asyncssh's public API. This module lists the functions and classes that it
depends on, with a digest of each one's verified source text. If any differs, the gateway leaves all
packets to asyncssh, which is slower. To accept a new version of asyncssh, read what changed, then
renew the digests: `python -m sftp_gateway.server.packets.compatibility` prints them.

| object                              | attributes that are read or written                     |
|-------------------------------------|---------------------------------------------------------|
| a connection, negotiating           | _client_version _client_kexinit _enc_algs _mac_algs     |
|                                     | _server_host_key_algs _session_id                       |
| a connection, sending               | _send_encryption _send_seq _compressor _kex_complete    |
|                                     | _rekey_bytes _rekey_bytes_sent _rekey_seconds           |
|                                     | _rekey_time _transport _kex                             |
| a connection, receiving             | _recv_encryption _next_recv_encryption _recv_seq        |
|                                     | _decompressor _next_decompressor _auth_complete         |
|                                     | _inpbuf _max_recv_pktlen _channels _recv_handler        |
| a connection, logging in            | _auth _username _all_server_host_keys _session_id       |
| a connection, keeping alive         | _keepalive_timer _keepalive_interval _loop              |
| a channel                           | _send_chan _send_state _send_window _send_pktsize       |
|                                     | _send_buf _send_buf_len _recv_state _recv_window _conn  |
|                                     | _session _init_recv_window                              |
| a cipher                            | _key _iv _adkey                                         |
"""

from __future__ import annotations

import functools
import hashlib
import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Final

from asyncssh.channel import SSHChannel, SSHServerChannel
from asyncssh.connection import SSHConnection
from asyncssh.crypto.chacha import ChachaCipher
from asyncssh.crypto.cipher import GCMCipher
from asyncssh.encryption import ChachaEncryption, GCMEncryption

_ASYNCSSH_INTERNALS: Final[Mapping[type[Any], tuple[str, ...]]] = {
    SSHConnection: (
        "data_received",
        "send_packet",
        "send_newkeys",
        "_send",
        "_send_deferred_packets",
        "_send_kexinit",
        "_recv_version",
        "_recv_data",
        "_recv_pkthdr",
        "_recv_packet",
        "_finish_recv_packet",
        "_process_newkeys",
        "_cleanup",
        "_force_close",
        "_set_keepalive_timer",
        "_reset_keepalive_timer",
        "_cancel_keepalive_timer",
        "_keepalive_timer_callback",
        "_process_userauth_request",
        "_finish_userauth",
        "_process_kexinit",
        "_process_global_request",
        "_report_global_response",
        "_process_channel_open",
    ),
    SSHServerChannel: ("__init__", "_start_session"),
    SSHChannel: (
        "write",
        "_flush_send_buf",
        "_pause_resume_writing",
        "_close_send",
        "_accept_data",
        "_deliver_data",
        "_process_data",
        "_process_window_adjust",
    ),
    GCMEncryption: ("",),
    GCMCipher: ("",),
    ChachaEncryption: ("",),
    ChachaCipher: ("",),
}

#: Verified with asyncssh 2.24.1.
_VERIFIED: Final[Mapping[str, str]] = {
    "SSHConnection.data_received": "b2d14a83b2604db6",
    "SSHConnection.send_packet": "fb9da7bec6dd395a",
    "SSHConnection.send_newkeys": "0b41234420373618",
    "SSHConnection._send": "c6698a37eb80f574",
    "SSHConnection._send_deferred_packets": "c5ef8240853eb331",
    "SSHConnection._send_kexinit": "275ddc818b59f44b",
    "SSHConnection._recv_version": "05573b0ac8886bf3",
    "SSHConnection._recv_data": "fc4e0735191bb0fd",
    "SSHConnection._recv_pkthdr": "7adc4d88fe20593c",
    "SSHConnection._recv_packet": "b3daa22e9763eee9",
    "SSHConnection._finish_recv_packet": "e12d96db58b3524e",
    "SSHConnection._process_newkeys": "a0331fe3cfd09d0b",
    "SSHConnection._cleanup": "ea4cd2aed57194e5",
    "SSHConnection._force_close": "264b4367525f4f86",
    "SSHConnection._set_keepalive_timer": "23a054202a1cb32b",
    "SSHConnection._reset_keepalive_timer": "7a9157707c514524",
    "SSHConnection._cancel_keepalive_timer": "d812058ddd18253c",
    "SSHConnection._keepalive_timer_callback": "6d8aa6656cfc6003",
    "SSHConnection._process_userauth_request": "9d1a0e42d15a1526",
    "SSHConnection._finish_userauth": "bd2146536318273d",
    "SSHConnection._process_kexinit": "439bdf2fc55e6737",
    "SSHConnection._process_global_request": "ab927889d3844db5",
    "SSHConnection._report_global_response": "590a13bfd2ed513f",
    "SSHConnection._process_channel_open": "0a1ae759cb6aab2b",
    "SSHServerChannel.__init__": "00e69c3de18ffa1d",
    "SSHServerChannel._start_session": "4ef1112382d829bb",
    "SSHChannel.write": "1045e20008469933",
    "SSHChannel._flush_send_buf": "3f11e9dc27c58b18",
    "SSHChannel._pause_resume_writing": "b05e507ca9fdeec9",
    "SSHChannel._close_send": "5dcbc60194d9a29b",
    "SSHChannel._accept_data": "33121e9e185c9850",
    "SSHChannel._deliver_data": "bd94ccbaa59ab510",
    "SSHChannel._process_data": "342490795c4b893c",
    "SSHChannel._process_window_adjust": "7a2e4c4998e0b496",
    "GCMEncryption": "d255f9e6b1fa73ee",
    "GCMCipher": "e389d2b5bed8eb41",
    "ChachaEncryption": "5902581e97e59135",
    "ChachaCipher": "e678065d67f48c01",
}


@functools.cache
def unverified() -> Sequence[str]:
    """The internals whose source differs from the verified one; empty for a known asyncssh."""
    found = digests()
    return tuple(name for name in found if found[name] != _VERIFIED.get(name))


def digests() -> dict[str, str]:
    """The first 16 hexadecimal digits of each source text's SHA-256, or "missing", by name."""
    return {
        f"{owner.__name__}.{name}".rstrip("."): _digest(owner, name)
        for owner, names in _ASYNCSSH_INTERNALS.items()
        for name in names
    }


def _digest(owner: type[Any], name: str) -> str:
    try:
        source = inspect.getsource(getattr(owner, name) if name else owner)
    except (AttributeError, OSError):  # gone, or installed without its sources
        return "missing"
    return hashlib.sha256(source.encode()).hexdigest()[:16]


if __name__ == "__main__":
    for known, digest in digests().items():
        print(f'    "{known}": "{digest}",')
