"""What the gateway tells about itself: the access log, metrics, and the HTTP endpoint for both."""

from sftp_gateway.observability.access_log import AccessLog, Level, Overflow
from sftp_gateway.observability.events import (
    CommandAnswered,
    CommandRefused,
    Connection,
    Denied,
    Event,
    FileClosed,
    FileOpened,
    FolderListed,
    LogDropped,
    LoginAccepted,
    LoginRefused,
    Request,
    ServerStarted,
    ServerStopped,
    ServerStopping,
    Session,
    SessionEnded,
    SessionEvent,
)
from sftp_gateway.observability.http import Health, ObservabilityServer, Probe
from sftp_gateway.observability.json_lines import encode, escape_path, unescape_path
from sftp_gateway.observability.labels import NO_SHARE, Vocabulary
from sftp_gateway.observability.metrics import HandleKind, LaneDepths, Metrics
from sftp_gateway.observability.sinks import FileSink, Sink, StreamSink

__all__ = [
    "NO_SHARE",
    "AccessLog",
    "CommandAnswered",
    "CommandRefused",
    "Connection",
    "Denied",
    "Event",
    "FileClosed",
    "FileOpened",
    "FileSink",
    "FolderListed",
    "HandleKind",
    "Health",
    "LaneDepths",
    "Level",
    "LogDropped",
    "LoginAccepted",
    "LoginRefused",
    "Metrics",
    "ObservabilityServer",
    "Overflow",
    "Probe",
    "Request",
    "ServerStarted",
    "ServerStopped",
    "ServerStopping",
    "Session",
    "SessionEnded",
    "SessionEvent",
    "Sink",
    "StreamSink",
    "Vocabulary",
    "encode",
    "escape_path",
    "unescape_path",
]
