"""What the access log can tell: one frozen dataclass per event.

A field is named as its key in the log. `docs/access-log.md` is the reference for readers of the
log; a test holds the two together.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from os import getpid
from time import time as unix_time
from typing import ClassVar, Final, TypeAlias

# Some events have a field named `bytes`, which hides the type inside their class.
RawPath: TypeAlias = bytes
RawText: TypeAlias = str | bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """What is known of one connection; every event of the connection carries it.

    It is replaced (`dataclasses.replace`) as more becomes known: the client's version and the
    cipher after the key exchange; user, auth and key once the login is accepted.
    """

    session: str  # 16 hexadecimal digits, unique per connection
    client_ip: str
    client_port: int
    client_version: str | None = None
    cipher: str | None = None  # the one from server to client, which carries the file bytes
    user: str | None = None
    auth: str | None = None  # "publickey" or "password"
    key: str | None = None  # fingerprint, "SHA256:..."
    key_label: str | None = None  # the key's comment, or the certificate's key id
    ca: str | None = None  # fingerprint of who signed the certificate
    certificate: str | None = None  # its key id
    serial: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Base of every event; `time` is in seconds since 1970 (UTC)."""

    name: ClassVar[str]

    time: float = field(default_factory=unix_time)


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionEvent(Event):
    """Base of the events that belong to a connection."""

    session: Session


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection(SessionEvent):
    """A client connected and begins to log in; `pid` is the worker that serves it."""

    name: ClassVar[str] = "connection"

    pid: int = field(default_factory=getpid)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginAccepted(SessionEvent):
    """A login was accepted; user, auth and key are in the session."""

    name: ClassVar[str] = "login_accepted"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginRefused(SessionEvent):
    """One attempt to log in was refused; `key` is the fingerprint of the key that was tried."""

    name: ClassVar[str] = "login_refused"

    user_tried: str
    method: str
    key: str | None = None
    key_label: str | None = None
    ca: str | None = None
    certificate: str | None = None
    serial: int | None = None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NegotiationFailed(SessionEvent):
    """The client and the gateway have no algorithm of a kind in common; the connection ends."""

    name: ClassVar[str] = "negotiation_failed"

    algorithm: str  # "key_exchange", "host_key", "cipher" or "mac"
    their_offer: str  # names, with commas between
    remedy: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CredentialsRemoved(SessionEvent):
    """The session ends: the login would not be accepted by the new credentials."""

    name: ClassVar[str] = "credentials_removed"

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionEnded(SessionEvent):
    """A connection ended, with its totals; `bytes` counts bytes of files."""

    name: ClassVar[str] = "session_end"

    duration: float
    bytes: int
    files: int
    folders: int
    requests: int
    denied: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FileOpened(SessionEvent):
    """A file was opened for reading; `size` is its length in bytes at that moment."""

    name: ClassVar[str] = "file_opened"

    share: str
    path: RawPath
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FileClosed(SessionEvent):
    """A file was closed ("ok"), or its session ended ("aborted"); `bytes` were served of it."""

    name: ClassVar[str] = "file_closed"

    share: str
    path: RawPath
    size: int
    bytes: int
    reads: int
    duration: float
    whole: bool
    result: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadFailed(SessionEvent):
    """The disk failed a READ; `effect` is "disconnect" (the session ends for it) or "status"."""

    name: ClassVar[str] = "read_failed"

    share: str
    path: RawPath
    offset: int
    length: int
    error: str
    effect: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderListed(SessionEvent):
    """A folder was read and closed; `share` is None for the folders that the gateway makes up."""

    name: ClassVar[str] = "folder_listed"

    share: str | None = None
    path: RawPath
    entries: int
    complete: bool
    duration: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Denied(SessionEvent):
    """A request was denied; `target` is the second path of a rename or a link.

    `used` and `limit` are what the connection had of what `reason` names, and could have.
    """

    name: ClassVar[str] = "denied"

    operation: str
    share: str | None = None
    path: RawPath | None = None
    target: RawPath | None = None
    reason: str
    used: int | None = None
    limit: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandRefused(SessionEvent):
    """Anything that is not SFTP was refused: `kind` says what, `command` what it would have run."""

    name: ClassVar[str] = "command_refused"

    kind: str
    command: RawText | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandAnswered(SessionEvent):
    """The gateway itself answered an `echo`; nothing was executed."""

    name: ClassVar[str] = "command_answered"

    command: RawText


@dataclass(frozen=True, slots=True, kw_only=True)
class Request(SessionEvent):
    """One SFTP request; only at level `requests`."""

    name: ClassVar[str] = "request"

    operation: str
    share: str | None = None
    path: RawPath | None = None
    offset: int | None = None
    length: int | None = None
    bytes: int
    duration: float
    result: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EventsSuppressed(SessionEvent):
    """`count` events of the session came too fast to be written; of each kind, how many."""

    name: ClassVar[str] = "events_suppressed"

    count: int
    since: float
    until: float
    denied: int | None = None
    command_refused: int | None = None
    command_answered: int | None = None
    login_refused: int | None = None
    read_failed: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LogDropped(Event):
    """`count` events are missing from the log at this place, the first of them from `since`."""

    name: ClassVar[str] = "log_dropped"

    count: int
    since: float
    reason: str  # "queue_full" or "write_failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerStarted(Event):
    """Every worker serves."""

    name: ClassVar[str] = "server_started"

    version: str
    address: str
    port: int
    record_layer: str  # "own" or "asyncssh"
    landlock: int  # the version that confines the workers, 0 without


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerStopping(Event):
    """The gateway was told to stop: no new logins, running reads finish."""

    name: ClassVar[str] = "server_stopping"

    signal: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerStopped(Event):
    """The gateway has closed its last session."""

    name: ClassVar[str] = "server_stopped"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStarted(Event):
    """A worker process was started; `worker` is its number, which its successor takes over."""

    name: ClassVar[str] = "worker_started"

    worker: int
    pid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOutdated(Event):
    """Another folder has come to the share's path, which the worker must not read: a new one will.

    Landlock lets a worker read what was there when it was started.
    """

    name: ClassVar[str] = "worker_outdated"

    worker: int
    pid: int
    share: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerExited(Event):
    """A worker process ended: by itself with `status`, or by `signal`."""

    name: ClassVar[str] = "worker_exited"

    worker: int
    pid: int
    status: int | None = None
    signal: str | None = None
    connections: int  # that were open, and broke
    expected: bool  # it was told to end


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionsRefused(Event):
    """`count` connections were closed unserved since the last such line, or since `since`."""

    name: ClassVar[str] = "connections_refused"

    reason: str
    count: int
    since: float
    client_ip: str  # of the last of them
    open: int
    busiest_ip: str | None = None
    busiest_open: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceBanned(Event):
    """A source has gathered too many penalties; `effect` is "refused" or "throttled"."""

    name: ClassVar[str] = "source_banned"

    source: str  # an address or a network
    reason: str  # the last of them
    score: float
    until: float
    times: int
    effect: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceUnbanned(Event):
    """A source's ban is over."""

    name: ClassVar[str] = "source_unbanned"

    source: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigurationReloaded(Event):
    """All workers have the new configuration."""

    name: ClassVar[str] = "configuration_reloaded"

    workers: int
    cause: str  # "signal", "restart" or "files"
    changed: str  # "nothing", "credentials", which running workers took, or "all"
    removed_users: str | None = None  # each with its keys and live sessions, counted
    removed_keys: str | None = None  # of users that stay: user, fingerprint, comment, sessions
    removed_shares: str | None = None
    removed_sessions: int | None = None  # live ones that lose their login


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigurationRefused(Event):
    """The new configuration is wrong; the old one stays."""

    name: ClassVar[str] = "configuration_refused"

    cause: str
    mistakes: str


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
