"""What the gateway's processes may still do if a client takes one over.

| who | may |
|---|---|
| all of them | execute nothing, create no device, fifo, socket or link, use no further TCP port |
| a worker | in addition, open only what `worker_rules` lists, and signal no other process |

The first row is one Landlock domain, created before the supervisor forks; each worker has one of
its own within it. The other processes can therefore inspect and signal a worker, but no worker can
inspect or signal another process. The supervisor has to read whatever a new configuration names, so
it is not confined further; clients' bytes do not reach it.
"""

from __future__ import annotations

import logging
import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, Literal

import sftp_gateway
from sftp_gateway.errors import ConfigurationError
from sftp_gateway.sandbox import landlock
from sftp_gateway.sandbox.landlock import READ, Access, Rule
from sftp_gateway.settings import Settings

_log = logging.getLogger(__name__)

_DENIED_TO_ALL: Final = (
    Access.EXECUTE
    | Access.MAKE_CHAR
    | Access.MAKE_BLOCK
    | Access.MAKE_SOCK
    | Access.MAKE_FIFO
    | Access.MAKE_SYM
)

#: Modules and shared libraries that Python loads on first use, and time zones.
_LIBRARIES: Final = (
    *(Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib")),
    Path(sftp_gateway.__file__).parent,
    *map(Path, ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib")),
    Path("/etc/ld.so.cache"),
    Path("/usr/share/zoneinfo"),
)

#: What the C library and OpenSSL read, and the processor's features (AES instructions).
_SYSTEM_INFO: Final = (
    *map(Path, ("/dev/null", "/dev/urandom", "/proc/cpuinfo", "/proc/meminfo", "/proc/stat")),
    Path("/sys/devices/system/cpu"),
)

_READ_WRITE: Final = (
    READ | Access.WRITE_FILE | Access.MAKE_REG | Access.TRUNCATE | Access.REMOVE_FILE
)

Mode = Literal["auto", "require", "off"]


def version(mode: Mode) -> int:
    """The Landlock ABI to confine with; 0 for none."""
    return 0 if mode == "off" else landlock.abi()


def limitations(mode: Mode) -> list[str]:
    """What `mode` asks for and the kernel's Landlock cannot do, as sentences."""
    if mode == "off":
        return []
    found = landlock.abi()
    if found == 0:
        return [
            "landlock: the kernel has no Landlock, or does not let this process use it, so only "
            "the gateway's own checks confine it; use Linux 5.13 or newer with "
            "landlock in its list of security modules (lsm=), or set landlock = off"
        ]
    lacks = [
        what
        for since, what in (
            (3, "the truncation of files (Linux 6.2)"),
            (4, "TCP connections (Linux 6.7)"),
            (6, "signals (Linux 6.12)"),
        )
        if found < since
    ]
    return [f"landlock: the kernel's version {found} does not forbid {w}" for w in lacks]


def describe(mode: Mode) -> str:
    """The state, in words."""
    found = version(mode)
    if mode == "off":
        return "off"
    return f"version {found} confines the workers" if found else "not available"


def confine_all(mode: Mode) -> None:
    """Deny this process and its future children what none of them needs.

    Call it with one thread running, after all sockets listen. Raises ConfigurationError if it fails
    and `mode` is "require".
    """
    landlock.forbid_new_privileges()
    if found := version(mode):
        try:
            landlock.restrict(found, handled=_DENIED_TO_ALL)
        except OSError as error:
            _failed(mode, error)


def confine_worker(settings: Settings, *, folders: Mapping[str, int]) -> int:
    """Confine this process to what a worker needs; return the ABI in use, 0 for none.

    Call it with one thread running. Raises ConfigurationError as `confine_all`.
    """
    found = version(settings.landlock)
    if found:
        rules = worker_rules(folders)
        try:
            landlock.restrict(found, handled=landlock.all_accesses(found), rules=rules, scoped=True)
        except OSError as error:
            _failed(settings.landlock, error)
            return 0
    return found


def worker_rules(folders: Mapping[str, int]) -> Iterator[Rule]:
    """All that a running worker opens by itself; `folders` has the shares' descriptors.

    Host keys, authorized keys and password hashes are not included: the worker inherits them.
    """
    for folder in folders.values():
        yield Rule(Path(f"/proc/self/fd/{folder}"), READ)
    for path in (*_LIBRARIES, *_SYSTEM_INFO):
        yield Rule(path, READ)


def confine_history(settings: Settings, folder: Path) -> None:
    """Confine the calling thread to what it needs to write the history in `folder`.

    Landlock applies per thread. The observer's other threads have to inspect the processes, which
    this would deny; this thread handles what workers send, and is the only one that writes.
    """
    found = version(settings.landlock)
    if not found:
        return
    rules = [Rule(path, READ) for path in (*_LIBRARIES, *_SYSTEM_INFO)]
    rules.append(Rule(folder, _READ_WRITE))
    try:
        landlock.restrict(found, handled=landlock.all_accesses(found), rules=rules)
    except OSError as error:
        _log.error("landlock: the kernel refuses to confine the history: %s", error.strerror)


def _failed(mode: Mode, error: OSError) -> None:
    sentence = f"landlock: the kernel refuses to confine this process: {error.strerror}"
    if mode == "require":
        raise ConfigurationError([sentence]) from error
    _log.error("%s", sentence)
