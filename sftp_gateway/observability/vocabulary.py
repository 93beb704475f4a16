"""The words that may become values of metric labels.

A label value that a client chooses would let it make as many time series as it likes. So each
label takes its values from a fixed set, and whatever is not in the set is counted as `other`.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import Final

OTHER: Final = "other"

#: The share label of what belongs to no share: the folders that the gateway makes up.
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

LOGIN_REASONS: Final = frozenset(
    {
        "accepted",
        "unknown_user",
        "key_not_authorized",
        "address_not_allowed",
        "user_address_not_allowed",
        "key_expired",
        "key_too_weak",
        "wrong_password",
        "no_password",
        "bad_signature",
        "signature_algorithm",
        "method_not_offered",
        "connection_lost",
        "revoked",
        "authority_not_trusted",
        "certificate_invalid",
        "certificate_expired",
        "certificate_not_yet_valid",
        "principal_not_listed",
    }
)

DENIAL_REASONS: Final = frozenset(
    {
        "read_only",
        "outside_shares",
        "share_not_granted",
        "link_leads_out",
        "special_file",
        "unreadable",
        "too_many_handles",
        "descriptor_quota",
        "memory_quota",
    }
)

COMMAND_KINDS: Final = frozenset({"exec", "shell", "pty", "subsystem", "forwarding"})

#: Our own words: nothing here comes from a client.
CONNECTION_REFUSALS: Final = frozenset(
    {
        "address_not_allowed",
        "source_banned",
        "source_throttled",
        "penalties_full",
        "max_connections",
        "max_connections_per_source",
        "max_startups",
        "max_startups_per_source",
        "max_sessions_per_user",
    }
)

#: What sources are penalised for.
PENALTY_KINDS: Final = frozenset(
    {
        "failed_login",
        "unknown_user",
        "no_attempt",
        "grace_exceeded",
        "protocol_error",
        "crash",
    }
)


def known(word: str, words: AbstractSet[str]) -> str:
    """`word` if it is one of `words`, else `other`."""
    return str(word) if word in words else OTHER
