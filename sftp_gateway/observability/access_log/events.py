"""The events of the access log: one frozen dataclass each.

A field is named as its key in the log. Annotations describe the fields; scripts/generate makes
docs/access-log-events.md of them and of the docstrings, which are Markdown.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from os import getpid
from time import time as unix_time
from typing import Annotated, ClassVar, Final, TypeAlias

from sftp_gateway.observability import vocabulary

# Some events have a field named `bytes`, which hides the type inside their class.
RawPath: TypeAlias = Annotated[bytes, "path"]
RawText: TypeAlias = Annotated[str | bytes, "text"]

#: Chosen by a client.
ClientText: TypeAlias = Annotated[str, "text"]

#: In seconds since 1970 (UTC); RFC 3339 in the log.
Time: TypeAlias = Annotated[float, "time"]
Seconds: TypeAlias = Annotated[float, "seconds"]

Path: TypeAlias = Annotated[RawPath, "The file, as the client sees it."]
Share: TypeAlias = Annotated[str, "The share's name."]
Worker: TypeAlias = Annotated[int, "The worker's number, from 0; reused when the worker has ended."]
Pid: TypeAlias = Annotated[int, "The worker's process id, in the gateway's PID namespace."]


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """What is known of one connection; every event of the connection carries it.

    Replaced (`dataclasses.replace`) as more becomes known: the client's version and the cipher
    after the key exchange; user, auth and key once the login is accepted.
    """

    session: Annotated[str, "16 hexadecimal digits that identify the connection."]
    client_ip: Annotated[
        str,
        "The client's address. In Docker, clients on the Docker host have that of the bridge, "
        "172.x.0.1 ([why](operations.md#addresses-in-docker)).",
    ]
    client_port: Annotated[int, "The client's port."]
    client_version: Annotated[ClientText | None, "The client's SSH version string."] = None
    cipher: Annotated[str | None, "The cipher from server to client, which encrypts files."] = None
    user: Annotated[str | None, "The user, once the login is accepted."] = None
    auth: Annotated[str | None, "How the user logged in: `publickey` or `password`."] = None
    key: Annotated[str | None, "The key's fingerprint, as `ssh-keygen -l` prints it."] = None
    key_label: Annotated[
        ClientText | None,
        "The key's comment in the user's `authorized_keys` file, or the certificate's key id; the "
        "first 64 characters.",
    ] = None
    ca: Annotated[str | None, "The fingerprint of the authority that signed the certificate."] = (
        None
    )
    certificate: Annotated[ClientText | None, "The certificate's key id (`ssh-keygen -I`)."] = None
    serial: Annotated[int | None, "The certificate's serial number (`ssh-keygen -z`)."] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Base of every event."""

    name: ClassVar[str]

    time: Time = field(default_factory=unix_time)


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionEvent(Event):
    """Base of the events that belong to a connection."""

    session: Session


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection(SessionEvent):
    """A client connected.

    A client on the same machine (`127.0.0.1`, `::1`) gets this line when it begins to log in, and
    none if it never does, so that health checks leave no lines.
    """

    name: ClassVar[str] = "connection"

    pid: Annotated[int, "The process id of the worker that serves the connection."] = field(
        default_factory=getpid
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginAccepted(SessionEvent):
    """A login was accepted; `user`, `auth` and `key` say whose and how."""

    name: ClassVar[str] = "login_accepted"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginRefused(SessionEvent):
    """An attempt to log in was refused.

    A client may make several attempts on one connection, for example one for each key in its agent.
    The client is not told the reason.
    """

    name: ClassVar[str] = "login_refused"

    user_tried: Annotated[ClientText, "The user name that the client sent."]
    method: Annotated[str, "`publickey`, `password` or `none`."]
    key: Annotated[str | None, "The fingerprint of the key that was tried."] = None
    key_label: Annotated[
        ClientText | None,
        "The key's comment, if the key is in the file of the user that was tried, or the "
        "certificate's key id.",
    ] = None
    ca: Annotated[
        str | None, "The fingerprint of the authority of the certificate that was tried."
    ] = None
    certificate: Annotated[ClientText | None, "The certificate's key id."] = None
    serial: Annotated[
        int | None,
        "The certificate's serial number. It and the two fields before it are left out if the "
        "authority is not trusted: anybody can write anything into a certificate.",
    ] = None
    reason: Annotated[str, "Why the attempt was refused.", vocabulary.LOGIN_REFUSALS]


@dataclass(frozen=True, slots=True, kw_only=True)
class NegotiationFailed(SessionEvent):
    """The client and the gateway support no common algorithm of some kind.

    The connection ends with the reason `no_common_algorithm`.
    """

    name: ClassVar[str] = "negotiation_failed"

    algorithm: Annotated[
        str, "The kind of algorithm: `key_exchange`, `host_key`, `cipher` or `mac`."
    ]
    their_offer: Annotated[
        str, "The client's algorithms, separated by commas; the first 1,000 characters."
    ]
    remedy: Annotated[
        str, "The option or host key that would admit this client, or `update the client`."
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class CredentialsRemoved(SessionEvent):
    """The session's login is no longer accepted by the new credentials.

    The session is ended (`end_sessions_of_removed_keys`).
    """

    name: ClassVar[str] = "credentials_removed"

    reason: Annotated[
        str,
        "Why a new login would be refused, as in `login_refused`; `wrong_password` if the "
        "password was changed.",
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionEnded(SessionEvent):
    """A connection ended; these are its totals."""

    name: ClassVar[str] = "session_end"

    duration: Annotated[Seconds, "Time since the client connected."]
    bytes: Annotated[int, "Bytes of files sent."]
    files: Annotated[int, "Files opened."]
    folders: Annotated[int, "Folders listed."]
    requests: Annotated[int, "SFTP requests answered."]
    denied: Annotated[int, "Requests denied."]
    reason: Annotated[str, "How the connection ended.", vocabulary.SESSION_ENDS]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileOpened(SessionEvent):
    """A file was opened for reading."""

    name: ClassVar[str] = "file_opened"

    share: Share
    path: Path
    size: Annotated[int, "The length of the file in bytes when it was opened."]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileClosed(SessionEvent):
    """A file was closed.

    Each `file_opened` is followed by one, even if the connection breaks, unless the worker process
    is killed. Then it is unknown how much was read of its open files, and there is no
    `session_end`; `worker_exited` has the `pid`, and so has the `connection` line of each session
    that ended with it. `sftp-gateway logs FILE` counts these files.
    """

    name: ClassVar[str] = "file_closed"

    share: Share
    path: Path
    size: Annotated[int, "The length of the file in bytes when it was opened."]
    bytes: Annotated[int, "Bytes sent; more than `size` if parts were read twice."]
    reads: Annotated[int, "READ requests answered with data."]
    duration: Annotated[Seconds, "Time from opening to closing."]
    whole: Annotated[
        bool,
        "Whether every byte was sent, in any order. Also false if a client left more than 256 "
        "gaps at once, which are not all remembered.",
    ]
    result: Annotated[str, "`ok`: the client closed the file; `aborted`: the session ended first."]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadFailed(SessionEvent):
    """A READ failed; the client gets no data for it.

    These lines are limited by [rate](access-log.md#limits-per-client).
    """

    name: ClassVar[str] = "read_failed"

    share: Share
    path: Path
    offset: Annotated[int, "The offset of the READ."]
    length: Annotated[int, "The length of the READ."]
    error: Annotated[
        str,
        "The name of the error in errno(3), such as `EIO`, or one of these.",
        vocabulary.READ_ERRORS,
    ]
    effect: Annotated[
        str,
        "`disconnect`: the session ends, because sshfs would take an error for the end of the "
        "file; `status`: the client was sent the error ([`read_errors`](configuration.md)).",
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderListed(SessionEvent):
    """A folder was read and closed."""

    name: ClassVar[str] = "folder_listed"

    share: Annotated[
        str | None, "The share's name; left out for the virtual folders above the shares."
    ] = None
    path: Annotated[RawPath, "The folder, as the client sees it."]
    entries: Annotated[int, "Entries sent."]
    complete: Annotated[bool, "Whether the listing was read to its end."]
    duration: Annotated[Seconds, "Time from opening to closing."]


@dataclass(frozen=True, slots=True, kw_only=True)
class Denied(SessionEvent):
    """A request was denied.

    A missing file is not a denial, and is not logged at level `files`.
    """

    name: ClassVar[str] = "denied"

    operation: Annotated[str, "The request: `write`, `remove`, `rename`, `open`, ..."]
    share: Annotated[str | None, "The share's name, if the path is in one."] = None
    path: Annotated[RawPath | None, "The path of the request."] = None
    target: Annotated[RawPath | None, "The new name of a rename, or the target of a link."] = None
    reason: Annotated[str, "Why the request was denied.", vocabulary.DENIAL_REASONS]
    used: Annotated[
        int | None,
        "For the last three reasons: what the connection uses, in handles, descriptors or bytes.",
    ] = None
    limit: Annotated[int | None, "For the last three reasons: what the connection may use."] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandRefused(SessionEvent):
    """The client requested something other than SFTP."""

    name: ClassVar[str] = "command_refused"

    kind: Annotated[str, "What was requested.", vocabulary.COMMAND_KINDS]
    command: Annotated[
        RawText | None, "The command, or the name of the subsystem; escaped as paths are."
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandAnswered(SessionEvent):
    """The gateway answered an `echo`, an `scp` or a checksum command itself; nothing was executed.

    Files and folders that the command opened have lines of their own, as with SFTP. A file of which
    only a checksum was sent has `"bytes":0` and `"result":"ok"` in its `file_closed`. `rclone
    check` sends a command for each file: beyond the [rate](access-log.md#limits-per-client) these
    lines are only counted, while all lines of files are written.
    """

    name: ClassVar[str] = "command_answered"

    command: Annotated[RawText, "The command, escaped as paths are."]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request(SessionEvent):
    """An SFTP request was answered. Only at level `requests`.

    A client that reads at full speed causes thousands of these a second: use this level to find out
    what a client does, not permanently.
    """

    name: ClassVar[str] = "request"

    operation: Annotated[str, "`open`, `read`, `lstat`, `readdir`, ..."]
    share: Annotated[str | None, "The share's name, if the request concerns one."] = None
    path: Annotated[
        RawPath | None, "The path of the request; for a handle, that of the file or folder."
    ] = None
    offset: Annotated[int | None, "The offset of a READ."] = None
    length: Annotated[int | None, "The length of a READ."] = None
    bytes: Annotated[int, "Bytes of a file sent."]
    duration: Annotated[Seconds, "Time from the arrival of the request to its response."]
    result: Annotated[
        str,
        "The status of the response: `ok`, `eof`, `no_such_file`, `permission_denied`, "
        "`failure`, `bad_message` or `op_unsupported`.",
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class EventsSuppressed(SessionEvent):
    """Events of the session exceeded [their rate](access-log.md#limits-per-client).

    They have no lines of their own; this line counts them. A session has one such line every 30
    seconds while there is anything to count, and one before its `session_end`.
    """

    name: ClassVar[str] = "events_suppressed"

    count: Annotated[int, "The number of events that were not written."]
    since: Annotated[Time, "When the first of them happened."]
    until: Annotated[Time, "When the last of them happened."]
    denied: Annotated[int | None, "How many were `denied`; left out if none was."] = None
    command_refused: Annotated[
        int | None, "How many were `command_refused`; left out if none was."
    ] = None
    command_answered: Annotated[
        int | None, "How many were `command_answered`; left out if none was."
    ] = None
    login_refused: Annotated[int | None, "How many were `login_refused`; left out if none was."] = (
        None
    )
    read_failed: Annotated[int | None, "How many were `read_failed`; left out if none was."] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LogDropped(Event):
    """Events are missing here.

    `file_closed` lines may lack their `file_opened`, and vice versa.
    """

    name: ClassVar[str] = "log_dropped"

    count: Annotated[int, "The number of events that are missing."]
    since: Annotated[Time, "When the first of them was lost."]
    reason: Annotated[
        str, "`queue_full`; or `write_failed`: this output could not be written for a while."
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerStarted(Event):
    """All workers are serving; their `worker_started` lines come before this one."""

    name: ClassVar[str] = "server_started"

    version: Annotated[str, "The gateway's version."]
    address: Annotated[str, "The address it listens on."]
    port: Annotated[int, "The port it listens on."]
    record_layer: Annotated[
        str,
        "What encrypts and decrypts SSH packets: `own` (the gateway), or `asyncssh`, which is "
        "slower.",
    ]
    landlock: Annotated[int, "The Landlock ABI that confines the workers; 0 without Landlock."]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerStopping(Event):
    """The gateway accepts no new logins, and lets running reads finish."""

    name: ClassVar[str] = "server_stopping"

    signal: Annotated[str, "The signal that it received."]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerStopped(Event):
    """The gateway closed its last session. The last line."""

    name: ClassVar[str] = "server_stopped"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStarted(Event):
    """A worker process was started.

    At the start of the gateway, to replace a worker that ended, or for a new configuration.
    """

    name: ClassVar[str] = "worker_started"

    worker: Worker
    pid: Pid


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOutdated(Event):
    """Another folder appeared at a share's path, for example because a disk was mounted again.

    Landlock lets a worker read only what existed when it was started, so it is replaced. There is a
    line for each worker.
    """

    name: ClassVar[str] = "worker_outdated"

    worker: Worker
    pid: Pid
    share: Share


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerExited(Event):
    """A worker process ended.

    If it was not told to, it is replaced at once, or after up to 10 seconds if workers keep ending
    soon after their start.
    """

    name: ClassVar[str] = "worker_exited"

    worker: Worker
    pid: Pid
    status: Annotated[int | None, "Its exit status, if it exited."] = None
    signal: Annotated[
        str | None,
        "The signal that killed it. `SIGKILL` is often the kernel's, for lack of memory.",
    ] = None
    connections: Annotated[
        int,
        "Connections that broke; they have no `session_end`, and their open files no "
        "`file_closed`.",
    ]
    expected: Annotated[bool, "Whether it was told to end, by a stop or for a new configuration."]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionsRefused(Event):
    """Connections were closed before anything was sent.

    The first has a line at once; later ones share a line every five seconds.
    [Limits](limits.md) describes the options. `max_sessions_per_user` appears in the metrics only:
    the connection itself has a `session_end` with `too_many_sessions`.
    """

    name: ClassVar[str] = "connections_refused"

    reason: Annotated[str, "Why the last of them was refused.", vocabulary.CONNECTION_REFUSALS]
    count: Annotated[int, "The number of connections refused."]
    since: Annotated[Time, "When the first of them was refused."]
    client_ip: Annotated[str, "The address of the last of them."]
    open: Annotated[int, "Open connections."]
    busiest_ip: Annotated[
        str | None, "The address with the most open connections; left out if none is open."
    ] = None
    busiest_open: Annotated[int, "Open connections from that address."]


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceBanned(Event):
    """A source has enough [penalties](limits.md#penalties) to be refused.

    Its open connections stay open.
    """

    name: ClassVar[str] = "source_banned"

    source: Annotated[str, "An address, or the network that is treated as one source."]
    reason: Annotated[str, "The last penalty.", vocabulary.PENALTY_KINDS]
    score: Annotated[Seconds, "The sum of the penalties."]
    until: Annotated[
        Time, "When the ban ends, unless connections that are still open earn more penalties."
    ]
    times: Annotated[int, "The number of bans of this source since it was last forgotten."]
    effect: Annotated[
        str,
        "`refused`: all its connections are refused; `throttled`: the source is trusted, and "
        "only its connections without a login are limited.",
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceUnbanned(Event):
    """The ban of a source ended."""

    name: ClassVar[str] = "source_unbanned"

    source: Annotated[str, "As in `source_banned`."]
    reason: Annotated[str, "Why it ended.", vocabulary.UNBAN_REASONS]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigurationReloaded(Event):
    """All workers have the new configuration.

    If workers were replaced, the connections of the old ones are closed, or will be within
    `drain_timeout`. The last four fields are left out if nothing is taken away; each names 20 items
    and counts the rest. Standard error has the same information for people, and `sftp-gateway
    check` prints it before the configuration is applied.
    """

    name: ClassVar[str] = "configuration_reloaded"

    workers: Annotated[int, "The number of workers."]
    cause: Annotated[
        str,
        "`signal`: SIGHUP; `restart`: SIGUSR1, which replaces all workers whether anything has "
        "changed or not; `files`: files have changed.",
    ]
    changed: Annotated[
        str,
        "`credentials`: who may log in, or the host keys, which running workers applied; `all`: "
        "more, so that workers were replaced; `nothing`.",
    ]
    removed_users: Annotated[
        str | None,
        "Users that may no longer log in, each with the number of its keys and live sessions.",
    ] = None
    removed_keys: Annotated[
        str | None,
        "Keys (and authorities, and `password`) that were removed from other users: user, "
        "fingerprint, comment and live sessions; the user is `*` if it applies to all.",
    ] = None
    removed_shares: Annotated[
        str | None, "Shares that were removed, or that some users may no longer read."
    ] = None
    removed_sessions: Annotated[
        int | None,
        "Live sessions whose login is no longer valid; with `end_sessions_of_removed_keys` they "
        "are ended.",
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigurationRefused(Event):
    """The configuration was read again and is invalid; the gateway keeps the current one."""

    name: ClassVar[str] = "configuration_refused"

    cause: Annotated[str, "`signal`, `restart` or `files`, as in `configuration_reloaded`."]
    mistakes: Annotated[str, "What is wrong, as standard error has it line by line."]


#: Every kind of event.
EVENTS: Final[tuple[type[Event], ...]] = (
    Connection,
    LoginAccepted,
    LoginRefused,
    NegotiationFailed,
    CredentialsRemoved,
    SessionEnded,
    FileOpened,
    FileClosed,
    ReadFailed,
    FolderListed,
    Denied,
    CommandRefused,
    CommandAnswered,
    Request,
    EventsSuppressed,
    LogDropped,
    ServerStarted,
    ServerStopping,
    ServerStopped,
    WorkerStarted,
    WorkerOutdated,
    WorkerExited,
    ConnectionsRefused,
    SourceBanned,
    SourceUnbanned,
    ConfigurationReloaded,
    ConfigurationRefused,
)
