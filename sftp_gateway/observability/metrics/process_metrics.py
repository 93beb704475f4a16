"""The metrics of one process of the gateway.

docs/metrics.md describes them; a test holds the two together. Methods are named after what
happened, and none lets a client choose the value of a label. `exposition.py` reads the metrics of
all processes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, Literal, TypeAlias

from sftp_gateway.observability.access_log.log import AccessLog
from sftp_gateway.observability.access_log.relay import LogWriter
from sftp_gateway.observability.metrics.request_counter import RequestCounter
from sftp_gateway.observability.metrics.shared_memory import SharedValues
from sftp_gateway.observability.vocabulary import (
    COMMAND_KINDS,
    DENIAL_REASONS,
    LOGIN_METHODS,
    LOGIN_REASONS,
    LOGIN_RESULTS,
    known,
)

#: Shared by the two modules that count it.
DROPPED_HELP: Final = "Lines that are missing in the history."

HandleKind: TypeAlias = Literal["file", "folder"]

#: (share, lane) -> requests waiting or running in the pool.
PoolDepths: TypeAlias = Mapping[tuple[str, str], int]


class Metrics:
    """The metrics of a worker.

    Share names come from the configuration, `vocabulary.NO_SHARE` for what belongs to no share; all
    other label values are words of `vocabulary`, or `other`.
    """

    def __init__(self, values: SharedValues) -> None:
        self._requests = RequestCounter(values)
        #: Count one answered request; from any thread.
        self.request_done = self._requests.add
        #: Bytes of files by share, as of the last `publish`.
        self.sent: Mapping[str, int] = self._requests.sent
        self._watched: list[Callable[[], None]] = []
        self._values = values
        self._connections = values.gauge(
            "connections", "Open connections, including those before login."
        )
        self._accepted = values.counter("connections_accepted", "Accepted connections.")
        self._sessions = values.gauge("sessions", "Open connections that are logged in.")
        self._logins = values.counter(
            "logins", "Login attempts, by outcome.", "result", "method", "reason"
        )
        self._handles = values.gauge("open_handles", "Open file and folder handles.", "kind")
        self._denied = values.counter("denied", "Denied requests, by reason.", "reason")
        self._commands = values.counter(
            "commands_refused", "Refused requests for anything but SFTP, by kind.", "kind"
        )
        self._slow_reads = values.counter(
            "slow_reads", "Reads that were not answered from the page cache.", "share"
        )
        self._share_up = values.gauge(
            "share_up", "1 if the share can be read.", "share", mode="livemin"
        )
        self._disk_errors = values.counter(
            "disk_errors",
            "Requests that failed or timed out in the file system.",
            "share",
            "lane",
            "error",
        )
        self._own_record_layer = values.gauge(
            "own_record_layer",
            "1 if the gateway encrypts and decrypts SSH packets itself.",
            mode="livemin",
        )
        self._bandwidth = values.gauge(
            "bandwidth_bytes", "Bandwidth of a limited user's sessions in bytes per second.", "user"
        )
        self._landlock_abi = values.gauge(
            "landlock_abi",
            "Landlock ABI that confines the workers; 0 without Landlock.",
            mode="livemin",
        )
        for gauge in (self._connections, self._sessions):
            gauge.set(0)
        for kind in ("file", "folder"):
            self._handles.set(0, kind)
        self._accepted.inc(by=0)

    def connection_opened(self) -> None:
        """A client connected."""
        self._connections.inc()
        self._accepted.inc()

    def connection_closed(self) -> None:
        """A connection, logged in or not, ended."""
        self._connections.inc(by=-1)

    def session_opened(self) -> None:
        """A client logged in."""
        self._sessions.inc()

    def session_closed(self) -> None:
        """The connection of a client that was logged in ended."""
        self._sessions.inc(by=-1)

    def login(self, result: str, method: str, reason: str) -> None:
        """One attempt to log in was decided."""
        self._logins.inc(
            known(result, LOGIN_RESULTS),
            known(method, LOGIN_METHODS),
            known(reason, LOGIN_REASONS),
        )

    def slow_read(self, share: str) -> None:
        """A read had to go to a thread."""
        self._slow_reads.inc(share)

    def handle_opened(self, kind: HandleKind) -> None:
        """A client opened a file or a folder."""
        self._handles.inc(kind)

    def handle_closed(self, kind: HandleKind) -> None:
        """A file or a folder was closed, by the client or with its session."""
        self._handles.inc(kind, by=-1)

    def denied(self, reason: str) -> None:
        """A request was denied."""
        self._denied.inc(known(reason, DENIAL_REASONS))

    def command_refused(self, kind: str) -> None:
        """A command, a shell, a forwarding or the like was refused."""
        self._commands.inc(known(kind, COMMAND_KINDS))

    def share_up(self, share: str, up: bool) -> None:
        """The share was found to be readable, or not."""
        self._share_up.set(up, share)

    def disk_error(self, share: str, lane: str, error: str) -> None:
        """A share's disk failed a request, with the error of this name."""
        self._disk_errors.inc(share, lane, error)

    def bandwidth(self, user: str, rate: float) -> None:
        """Set this process's part of the limit of a user of the configuration."""
        self._bandwidth.set(rate, user)

    def own_record_layer(self, own: bool) -> None:
        """Whether the gateway handles SSH packets itself, or leaves them to asyncssh."""
        self._own_record_layer.set(own)

    def landlock_abi(self, version: int) -> None:
        """Which version of Landlock confines this process; 0 where none does."""
        self._landlock_abi.set(version)

    def watch_access_log(self, log: AccessLog) -> None:
        """Publish the access log's own counts too."""
        self._watched.append(AccessLogCounts(self._values, log).publish)

    def watch_history(self, dropped: Callable[[], int]) -> None:
        """Publish how many lines the history could not be handed, which `dropped()` gives."""
        self._watched.append(HistoryDrops(self._values, dropped).publish)

    def watch_pools(self, depths: Callable[[], PoolDepths]) -> None:
        """Publish `depths()` too."""
        gauge = self._values.gauge(
            "slow_lane_depth", "Requests waiting or running on threads.", "share", "lane"
        )

        def publish() -> None:
            for (share, lane), depth in depths().items():
                gauge.set(depth, share, lane)

        self._watched.append(publish)

    def publish(self) -> None:
        """Publish what is counted in this process; called twice a second and at its end."""
        self._requests.publish()
        for publish in self._watched:
            publish()


class AccessLogCounts:
    """Publishes the counters of an access log and, in the observer, of the log writer."""

    def __init__(
        self, values: SharedValues, log: AccessLog, writer: LogWriter | None = None
    ) -> None:
        self._log = log
        self._writer = writer
        self._depth = values.gauge("access_log_queue_depth", "Events waiting to be written.")
        self._counters = {
            name: values.counter(f"access_log_{name}", help_text)
            for name, help_text in (
                ("dropped", "Events dropped because the queue was full."),
                ("suppressed", "Events counted by an events_suppressed line instead of written."),
                ("write_errors", "Failed writes of batches of lines."),
                ("lines_lost", "Lines lost in failed writes."),
            )
        }
        self._told = dict.fromkeys(self._counters, 0)
        self.publish()

    def publish(self) -> None:
        """Publish what was counted since the last call."""
        self._depth.set(self._log.depth)
        for name, counter in self._counters.items():
            count: int = getattr(self._log, name) + getattr(self._writer, name, 0)
            counter.inc(by=count - self._told[name])
            self._told[name] = count


class HistoryDrops:
    """Publishes the lines that a process could not send to the history."""

    def __init__(self, values: SharedValues, dropped: Callable[[], int]) -> None:
        self._counter = values.counter("history_dropped", DROPPED_HELP)
        self._counter.inc(by=0)
        self._dropped = dropped
        self._told = 0

    def publish(self) -> None:
        """Publish what was counted since the last call."""
        count = self._dropped()
        self._counter.inc(by=count - self._told)
        self._told = count
