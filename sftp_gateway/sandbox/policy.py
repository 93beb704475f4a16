"""What the processes of the gateway may still reach, should a client get the better of one.

| who | may |
|---|---|
| all of them | execute nothing, make no device, fifo, socket or link; use no more TCP port |
| a worker | moreover open only what `of_worker` lists, and signal nobody outside |

All have the first as one Landlock domain, made before the supervisor forks; a worker has one of
its own within. So the others may look at a worker, as the observer does for its metrics, and
signal it, but no worker may look at another or at them. The supervisor has to read whatever a new
configuration names, so it is not confined further; clients' bytes do not come to it.
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

_NOBODY: Final = (
    Access.EXECUTE
    | Access.MAKE_CHAR
    | Access.MAKE_BLOCK
    | Access.MAKE_SOCK
    | Access.MAKE_FIFO
    | Access.MAKE_SYM
)

#: Modules and shared libraries that Python loads when they are first needed, and time zones.
_LIBRARIES: Final = (
    *(Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib")),
    Path(sftp_gateway.__file__).parent,
    *map(Path, ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib")),
    Path("/etc/ld.so.cache"),
    Path("/usr/share/zoneinfo"),
)

#: What the C library and OpenSSL ask for; and whether the processor has AES instructions.
_FACTS: Final = (
    *map(Path, ("/dev/null", "/dev/urandom", "/proc/cpuinfo", "/proc/meminfo", "/proc/stat")),
    Path("/sys/devices/system/cpu"),
)

_KEEP: Final = READ | Access.WRITE_FILE | Access.MAKE_REG | Access.TRUNCATE | Access.REMOVE_FILE

Mode = Literal["auto", "require", "off"]


def version(mode: Mode) -> int:
    """The version of Landlock to confine with, 0 for none."""
    return 0 if mode == "off" else landlock.abi()


def shortcomings(mode: Mode) -> list[str]:
    """What the kernel's Landlock cannot do of what `mode` asks for: sentences."""
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
    """The state, for people."""
    found = version(mode)
    if mode == "off":
        return "off"
    return f"version {found} confines the workers" if found else "not available"


def confine_all(mode: Mode) -> None:
    """Take from this process and all that it will fork what none of them needs.

    To be called with one thread, once everything listens. Raises ConfigurationError where it
    fails and `mode` is "require".
    """
    landlock.forbid_new_privileges()
    if found := version(mode):
        try:
            landlock.restrict(found, handled=_NOBODY)
        except OSError as error:
            _failed(mode, error)


def confine_worker(settings: Settings, *, folders: Mapping[str, int]) -> int:
    """Confine this process to what a worker needs; return the version, 0 where it is not.

    To be called with one thread. Raises ConfigurationError as `confine_all` does.
    """
    found = version(settings.landlock)
    if found:
        rules = of_worker(folders)
        try:
            landlock.restrict(found, handled=landlock.everything(found), rules=rules, scoped=True)
        except OSError as error:
            _failed(settings.landlock, error)
            return 0
    return found


def of_worker(folders: Mapping[str, int]) -> Iterator[Rule]:
    """All that a worker opens by itself once it runs; `folders` are those of shares, open.

    Host keys, authorised keys and password hashes are not among it: it was handed them.
    """
    for folder in folders.values():
        yield Rule(Path(f"/proc/self/fd/{folder}"), READ)
    for path in (*_LIBRARIES, *_FACTS):
        yield Rule(path, READ)


def confine_history(settings: Settings, folder: Path) -> None:
    """Confine the thread that calls this to what writing the history in `folder` takes.

    Landlock holds for a thread. The observer's others have to look into the processes, which it
    would forbid; this one is given what workers say, and is the only one that writes.
    """
    found = version(settings.landlock)
    if not found:
        return
    rules = [Rule(path, READ) for path in (*_LIBRARIES, *_FACTS)]
    rules.append(Rule(folder, _KEEP))
    try:
        landlock.restrict(found, handled=landlock.everything(found), rules=rules)
    except OSError as error:
        _log.error("landlock: the kernel refuses to confine the history: %s", error.strerror)


def _failed(mode: Mode, error: OSError) -> None:
    sentence = f"landlock: the kernel refuses to confine this process: {error.strerror}"
    if mode == "require":
        raise ConfigurationError([sentence]) from error
    _log.error("%s", sentence)
