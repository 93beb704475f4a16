"""Numbers of the SFTP protocol, named as draft-ietf-secsh-filexfer-02 names them, and our caps."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

#: The version that stock sshfs and the OpenSSH clients speak; we never answer a higher one.
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


#: Any of these asks for more than reading.
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

#: Largest packet taken from a client, without its length field: OpenSSH's SFTP_MAX_MSG_LENGTH,
#: so that whatever a stock client may send is read and answered rather than cut off.
MAX_PACKET_LENGTH: Final = 256 * 1024

#: Most bytes one READ is answered with. A longer READ gets this many (OpenSSH PROTOCOL §4.8).
MAX_READ_LENGTH: Final = 256 * 1024

#: What limits@openssh.com announces for READ: the answer has to fit a packet of
#: MAX_PACKET_LENGTH, as OpenSSH's own server leaves 1,024 bytes of room.
ANNOUNCED_READ_LENGTH: Final = MAX_PACKET_LENGTH - 1024

#: Most bytes of a NAME response. sshfs ends the connection over a reply of more than 131,072.
MAX_NAME_LENGTH: Final = 64 * 1024

#: Most bytes of a handle (§7: "The length of the handle string MUST NOT exceed 256").
MAX_HANDLE_LENGTH: Final = 256

#: Bytes of a check-file request's list of algorithms that are kept: all that the draft has take 47.
MAX_ALGORITHMS_LENGTH: Final = 1024

#: Most users, and most groups, of one users-groups-by-id@openssh.com request. A client asks for the
#: owners of one folder.
MAX_IDS: Final = 1024

#: Bytes of a DATA packet before the file's bytes: length, type, request id, data length.
DATA_HEADER_LENGTH: Final = 13
