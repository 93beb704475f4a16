"""SFTP constants, named as in draft-ietf-secsh-filexfer-02, and the gateway's limits."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

#: The version that sshfs and OpenSSH use; the server never announces a higher one.
SFTP_VERSION: Final = 3


class MessageType(IntEnum):
    """§3: the type byte of a packet."""

    INIT = 1
    VERSION = 2
    OPEN = 3
    CLOSE = 4
    READ = 5
    WRITE = 6
    LSTAT = 7
    FSTAT = 8
    SETSTAT = 9
    FSETSTAT = 10
    OPENDIR = 11
    READDIR = 12
    REMOVE = 13
    MKDIR = 14
    RMDIR = 15
    REALPATH = 16
    STAT = 17
    RENAME = 18
    READLINK = 19
    SYMLINK = 20
    STATUS = 101
    HANDLE = 102
    DATA = 103
    NAME = 104
    ATTRS = 105
    EXTENDED = 200
    EXTENDED_REPLY = 201


class StatusCode(IntEnum):
    """§7: the code of a STATUS response."""

    OK = 0
    EOF = 1
    NO_SUCH_FILE = 2
    PERMISSION_DENIED = 3
    FAILURE = 4
    BAD_MESSAGE = 5
    NO_CONNECTION = 6
    CONNECTION_LOST = 7
    OP_UNSUPPORTED = 8


class OpenFlags(IntEnum):
    """§6.3: bits of `pflags` of OPEN. (No IntFlag, which makes an object for each operation.)"""

    READ = 0x01
    WRITE = 0x02
    APPEND = 0x04
    CREAT = 0x08
    TRUNC = 0x10
    EXCL = 0x20


#: Flags that request more than reading.
WRITING_FLAGS: Final = (
    OpenFlags.WRITE | OpenFlags.APPEND | OpenFlags.CREAT | OpenFlags.TRUNC | OpenFlags.EXCL
)


class AttributeFlags(IntEnum):
    """§5: which fields an ATTRS structure holds."""

    SIZE = 0x00000001
    UIDGID = 0x00000002
    PERMISSIONS = 0x00000004
    ACMODTIME = 0x00000008
    EXTENDED = 0x80000000


#: `f_flag` of statvfs@openssh.com (OpenSSH PROTOCOL §4.4): the file system is read-only, and
#: set-user-id bits have no effect.
STATVFS_RDONLY: Final = 0x1
STATVFS_NOSUID: Final = 0x2

#: Maximum length of a client's packet, without its length field: OpenSSH's SFTP_MAX_MSG_LENGTH, so
#: that every packet of a stock client is accepted.
MAX_PACKET_LENGTH: Final = 256 * 1024

#: Maximum length of the data for one READ; a longer READ gets this many bytes (OpenSSH PROTOCOL
#: §4.8).
MAX_READ_LENGTH: Final = 256 * 1024

#: The max-read-length of limits@openssh.com: the response must fit into MAX_PACKET_LENGTH.
#: OpenSSH's server leaves 1,024 bytes too.
ANNOUNCED_READ_LENGTH: Final = MAX_PACKET_LENGTH - 1024

#: Maximum length of a NAME response. sshfs closes the connection on a reply over 131,072 bytes.
MAX_NAME_LENGTH: Final = 64 * 1024

#: Maximum length of a handle (§7: "The length of the handle string MUST NOT exceed 256").
MAX_HANDLE_LENGTH: Final = 256

#: Bytes kept of the algorithm list in a check-file request; the names in the draft take 47.
MAX_ALGORITHMS_LENGTH: Final = 1024

#: Maximum number of uids, and of gids, in a users-groups-by-id@openssh.com request. A client asks
#: for the owners of one directory.
MAX_IDS: Final = 1024

#: Length of the header of a DATA packet: length, type, request id, data length.
DATA_HEADER_LENGTH: Final = 13
