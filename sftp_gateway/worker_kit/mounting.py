"""How the kit mounts. Each value was chosen by `python -m benchmarks.worker_kit`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

#: The most that sshfs asks for in one READ; its default is half of it.
MAX_READ: Final = 65_536

#: What the kernel asks for ahead of a reader, in KiB; its default is 128. More than the 2 MiB that
#: OpenSSH lets be under way in a connection, so that the connection is what bounds the rate.
READ_AHEAD_KB: Final = 4_096

#: ssh connections of one mount, which readers of several files share out; since sshfs 3.7.0.
MAX_CONNS: Final = 4

#: `cache_timeout` is what every version of sshfs knows (`dcache_timeout` only those since 3.0).
#: `auto_cache` lets a file that is opened again and has not changed come from the worker's memory.
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

#: In `config` of the kit, and there for who knows better. Seconds, but for the counts.
TUNING: Final[Mapping[str, str]] = {
    "CACHE": CACHE,
    "NO_CACHE": NO_CACHE,
    "MAX_CONNS": str(MAX_CONNS),
    "READ_AHEAD_KB": str(READ_AHEAD_KB),
    # A connection that hears nothing is given up, and made anew by whoever reads next. What is
    # read just then fails; so no shorter than a link may well be gone.
    "KEEPALIVE_INTERVAL": "15",
    "KEEPALIVE_COUNT": "3",
    # While it connects anew, sshfs answers nobody.
    "CONNECT_TIMEOUT": "5",
    "CHECK_INTERVAL": "10",
    # A mount that hangs while the server answers is mounted anew; longer than the gateway takes to
    # give up a disk (`disk_timeout`), for that is not the mount's fault.
    "HUNG_AFTER": "90",
    # After an attempt to mount that failed; twice as many after each further one, up to RETRY_MAX.
    "RETRY": "5",
    "RETRY_MAX": "120",
    # How long the set-up waits until somebody has let a new key in on the server.
    "KEY_WAIT": "300",
}
