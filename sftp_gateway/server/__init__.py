"""The asyncio shell around the protocol, the file tree and the logins."""

import ctypes.util


def _import_asyncssh() -> None:
    """Import asyncssh without its search for liboqs and libnettle.

    The search runs ldconfig, gcc and ld (ctypes.util.find_library); none of the algorithms in these
    libraries is offered.
    """
    find_library = ctypes.util.find_library
    ctypes.util.find_library = lambda name: None
    try:
        import asyncssh  # noqa: F401, PLC0415
    finally:
        ctypes.util.find_library = find_library


_import_asyncssh()
