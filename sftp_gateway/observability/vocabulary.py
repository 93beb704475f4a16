"""The words of the access log and of metric labels, with their meanings.

A label value that a client chooses would let it create any number of time series. So each label
takes its values from a fixed set, and any other value is counted as `other`. Tests hold the
enumerations of the code that decides equal to these.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Final

OTHER: Final = "other"

#: The share label of the virtual folders above the shares.
NO_SHARE: Final = "-"

OPERATIONS: Final = frozenset(
    {
        "open",
        "close",
        "read",
        "lstat",
        "stat",
        "fstat",
        "opendir",
        "readdir",
        "realpath",
        "readlink",
        "statvfs",
        "fstatvfs",
        "limits",
        "home-directory",
        "expand-path",
        "check-file",
        "users-groups-by-id",
        # Those that would write.
        "write",
        "setstat",
        "fsetstat",
        "lsetstat",
        "remove",
        "mkdir",
        "rmdir",
        "rename",
        "posix-rename",
        "symlink",
        "hardlink",
        "fsync",
        "copy-data",
        "unknown",
    }
)

RESULTS: Final = frozenset(
    {
        "ok",
        "eof",
        "no_such_file",
        "permission_denied",
        "failure",
        "bad_message",
        "op_unsupported",
    }
)

LOGIN_RESULTS: Final = frozenset({"accepted", "refused"})

LOGIN_METHODS: Final = frozenset({"none", "publickey", "password"})

#: Why a login was refused.
LOGIN_REFUSALS: Final[Mapping[str, str]] = {
    "unknown_user": "",
    "key_not_authorized": "the key is not in the user's file, or of a type that is never accepted",
    "address_not_allowed": "the key's `from=`, or the certificate's `source-address`, excludes the "
    "client's address",
    "user_address_not_allowed": "the key, certificate or password is right, but the user's "
    "`allow_from` excludes the address",
    "key_expired": "the key's `expiry-time=` has passed",
    "key_too_weak": "",
    "revoked": "the key, the certificate or its authority is in `revoked_keys`",
    "authority_not_trusted": "the certificate's authority is not trusted for this user",
    "certificate_invalid": "the certificate is malformed, is not signed by the authority that it "
    "names or is signed with SHA-1, is not a user certificate, or has a critical option that is "
    "not supported, such as `force-command`",
    "certificate_expired": "",
    "certificate_not_yet_valid": "",
    "principal_not_listed": "the certificate is not for this user",
    "bad_signature": "the client does not have the private key",
    "signature_algorithm": "the signature algorithm is not accepted",
    "wrong_password": "",
    "no_password": "the user has no password",
    "method_not_offered": "the method is not one that the gateway offers; a client's first request "
    "for `none`, which asks for the methods, is not logged",
    "connection_lost": "the client disconnected before its password was verified",
}  # fmt: skip

LOGIN_REASONS: Final = frozenset({"accepted", *LOGIN_REFUSALS})

#: Why a request was denied; the last three have `used` and `limit`.
DENIAL_REASONS: Final[Mapping[str, str]] = {
    "read_only": "the request would change something",
    "outside_shares": "the path is in no share",
    "share_not_granted": "the path is in a share that this user may not read",
    "link_leads_out": "a symbolic link leads out of the share",
    "special_file": "a device, a socket or a FIFO",
    "unreadable": "the gateway itself may not read the file",
    "too_many_handles": "the connection has `max_handles` open files and folders",
    "descriptor_quota": "the connection has used up its share of the worker's descriptors",
    "memory_quota": "the connection has used up its share of the "
    "[memory for open files](limits.md#files-that-are-open)",
}  # fmt: skip

COMMAND_KINDS: Final[Mapping[str, str]] = {
    "exec": "a command",
    "shell": "",
    "pty": "",
    "subsystem": "one other than `sftp`",
    "forwarding": "",
}

#: How connections end.
SESSION_ENDS: Final[Mapping[str, str]] = {
    "closed": "by the client",
    "idle": "no request for `idle_timeout`",
    "too_many_sessions": "the user has as many sessions as allowed",
    "connection_lost": "",
    "not_responding": "keepalives were not answered",
    "login_timeout": "",
    "too_many_login_attempts": "",
    "no_common_algorithm": "`negotiation_failed` says of which kind",
    "credentials_removed": "",
    "key_exchange_timeout": "a key exchange was not finished within 60 seconds",
    "protocol_error": "the client violated the SSH protocol, or sent "
    "[far too much](limits.md#beside-sftp)",
    "read_failed": "a READ failed, as a `read_failed` line says",
    "server_stopping": "",
    "error": "see the gateway's own log",
}

#: Errors of READs beside those of errno(3).
READ_ERRORS: Final[Mapping[str, str]] = {
    "ETIMEDOUT": "the disk did not answer within `disk_timeout`",
    "truncated": "the file was truncated while it was read, and ends before the size that the "
    "client knows",
    "internal": "see the gateway's own log",
}  # fmt: skip

#: Why connections are refused.
CONNECTION_REFUSALS: Final[Mapping[str, str]] = {
    "address_not_allowed": "the address is not in `allow_from`",
    "source_banned": "",
    "source_throttled": "the source would be banned if nobody had logged in from it",
    "penalties_full": "too many sources are banned, and `overflow` is `deny-all`",
    "max_connections": "too many connections are open",
    "max_connections_per_source": "too many connections from this source are open",
    "max_startups": "too many connections have not logged in",
    "max_startups_per_source": "too many connections from this source have not logged in",
    "max_sessions_per_user": "the user has too many sessions",
}

#: What sources are penalized for.
PENALTY_KINDS: Final[Mapping[str, str]] = {
    "failed_login": "",
    "unknown_user": "",
    "no_attempt": "no attempt to log in",
    "grace_exceeded": "not logged in within `login_grace_time`",
    "protocol_error": "",
    "crash": "an internal error of the gateway",
}

UNBAN_REASONS: Final[Mapping[str, str]] = {
    "expired": "",
    "login": "a login on a connection that was open before",
    "evicted": "there are more sources than `max_sources`",
    "configuration": "a new configuration exempts the source",
    "lifted": "[by hand](limits.md#lifting-a-ban)",
}


def known(word: str, words: Container[str]) -> str:
    """`word` if it is one of `words`, else `other`."""
    return str(word) if word in words else OTHER
