"""The mount options of the kit. `python -m benchmarks.worker_kit` measures their values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

#: Maximum size of an sshfs READ request in bytes; its default is half of this.
MAX_READ: Final = 65_536

#: The kernel's read-ahead, in KiB; its default is 128. It exceeds OpenSSH's channel window of 2
#: MiB, so that the window, not the read-ahead, limits the throughput.
READ_AHEAD_KB: Final = 4_096

#: ssh connections of one mount, over which sshfs (since 3.7.0) distributes open files.
MAX_CONNS: Final = 4

#: Every version of sshfs supports `cache_timeout` (`dcache_timeout` only since 3.0). With
#: `auto_cache`, a file that is reopened unchanged is read from the worker's page cache.
CACHE: Final = "cache_timeout=3600,auto_cache"
NO_CACHE: Final = "cache=no"

#: The mount options besides `max_conns`, which older versions refuse.
OPTIONS: Final = (
    "ro",
    "allow_other",
    "default_permissions",
    "reconnect",
    f"max_read={MAX_READ}",
)

#: Variables in the kit's `config`, which administrators may change. Times are in seconds.
TUNING: Final[Mapping[str, str]] = {
    "CACHE": CACHE,
    "NO_CACHE": NO_CACHE,
    "MAX_CONNS": str(MAX_CONNS),
    "READ_AHEAD_KB": str(READ_AHEAD_KB),
    # sshfs drops a silent connection and reconnects with the next request. Reads in progress fail,
    # so this must be longer than a usual network outage.
    "KEEPALIVE_INTERVAL": "15",
    "KEEPALIVE_COUNT": "3",
    # While sshfs reconnects, all requests to the mount wait.
    "CONNECT_TIMEOUT": "5",
    "CHECK_INTERVAL": "10",
    # A mount that hangs although the server answers is replaced after this time. It is longer than
    # `disk_timeout`: a slow disk is not the mount's fault.
    "HUNG_AFTER": "90",
    # Delay after a failed attempt to mount, doubled after each further one up to RETRY_MAX.
    "RETRY": "5",
    "RETRY_MAX": "120",
    # How long the set-up waits for its new key to be authorized on the server.
    "KEY_WAIT": "300",
}
