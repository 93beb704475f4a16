"""What clients are known to do, by the version string of their SSH library."""

from __future__ import annotations

from typing import Final

#: Libraries whose SFTP clients report a READ that fails as an error. OpenSSH is missing because
#: sshfs runs its `ssh`; whatever is missing may be sshfs on another library.
_REPORT_READ_ERRORS: Final = (
    "asyncssh_",
    "filezilla_",
    "jsch",
    "libssh2_",
    "paramiko_",
    "putty_",
    "rclone/",
    "winscp_",
)

#: Seconds behind which Linux asks for the size of a file again: it caches attributes for 1 second
#: (libfuse's `attr_timeout`). A file that sshfs could not read on ends at that place until then.
ATTRIBUTES_EXPIRE: Final = 1.1

#: What golang.org/x/crypto/ssh calls itself.
_GO: Final = "go"


def reports_read_errors(version: str) -> bool:
    """Whether the client certainly does not take a failed READ for the end of the file.

    `version` is its identification string (RFC 4253 §4.2), such as `SSH-2.0-paramiko_3.5.0`.
    """
    software = version.lower().removeprefix("ssh-2.0-")
    return software == _GO or software.startswith(_REPORT_READ_ERRORS)
