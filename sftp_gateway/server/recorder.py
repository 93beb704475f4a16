"""Records what one connection does, in the access log, the metrics and totals of its own."""

from __future__ import annotations

import dataclasses
import errno
import time
from typing import Final

from sftp_gateway.errors import Denied, TooManyHandles, Truncated
from sftp_gateway.observability.access_log import events
from sftp_gateway.observability.access_log.log import AccessLog
from sftp_gateway.observability.metrics.process_metrics import Metrics
from sftp_gateway.observability.vocabulary import NO_SHARE
from sftp_gateway.server.handles import DirectoryHandle, FileHandle
from sftp_gateway.vfs.share import Share

#: Characters of a client's offer that are logged: twice OpenSSH's longest list.
_MAX_OFFER: Final = 1000


class Recorder:
    """Records the events of one connection."""

    def __init__(self, *, session: events.Session, log: AccessLog, metrics: Metrics) -> None:
        self.session = session
        self._log = log
        self._metrics = metrics
        #: When the client connected, in seconds since 1970.
        self.started = time.time()
        self._started = time.monotonic()
        self._bytes = self._files = self._folders = self._requests = self._denied = 0
        self._announced = False
        self._logged_in = False

    @property
    def requests(self) -> int:
        """The number of requests that were answered."""
        return self._requests

    @property
    def sent(self) -> int:
        """The bytes of files that were sent."""
        return self._bytes

    @property
    def credential(self) -> str:
        """The fingerprint of the authority or key that was accepted, or "password"."""
        return self.session.ca or self.session.key or self.session.auth or ""

    def update(self, **known: str | int | None) -> None:
        """Set fields of events.Session."""
        self.session = dataclasses.replace(self.session, **known)  # type: ignore[arg-type]

    def connected(self) -> None:
        """Log the connection, once."""
        if not self._announced:
            self._announced = True
            self._log.emit(events.Connection(session=self.session))

    def login_accepted(self) -> None:
        """The login was accepted; `session.user` is set."""
        self._logged_in = True
        self._metrics.login("accepted", self.session.auth or "", "accepted")
        self._metrics.session_opened()
        self._log.emit(events.LoginAccepted(session=self.session))

    def login_refused(
        self,
        *,
        user: str,
        method: str,
        key: str | None,
        reason: str,
        key_label: str | None = None,
        ca: str | None = None,
        certificate: str | None = None,
        serial: int | None = None,
    ) -> None:
        """An attempt was refused; `ca`, `certificate` and `serial` are its certificate's."""
        self.connected()
        self._metrics.login("refused", method, reason)
        self._log.emit(
            events.LoginRefused(
                session=self.session,
                user_tried=user,
                method=method,
                key=key,
                key_label=key_label,
                ca=ca,
                certificate=certificate,
                serial=serial,
                reason=reason,
            )
        )

    def negotiation_failed(self, *, algorithm: str, their_offer: str, remedy: str) -> None:
        """The client and the gateway have no algorithm of this kind in common."""
        self.connected()
        self._log.emit(
            events.NegotiationFailed(
                session=self.session,
                algorithm=algorithm,
                their_offer=their_offer[:_MAX_OFFER],
                remedy=remedy,
            )
        )

    def credentials_removed(self, reason: str) -> None:
        """The session ends because the current credentials refuse its login."""
        self._log.emit(events.CredentialsRemoved(session=self.session, reason=reason))

    def command_refused(self, kind: str, command: str | None = None) -> None:
        """A command, shell, subsystem or forwarding was refused."""
        self._metrics.command_refused(kind)
        self._log.emit(events.CommandRefused(session=self.session, kind=kind, command=command))

    def command_answered(self, command: str) -> None:
        """A command is answered."""
        self._log.emit(events.CommandAnswered(session=self.session, command=command))

    def opened(self, opened: FileHandle | DirectoryHandle) -> None:
        """A file or folder was opened."""
        if isinstance(opened, DirectoryHandle):
            self._metrics.handle_opened("folder")
            return
        self._metrics.handle_opened("file")
        self._files += 1
        self._log.emit(
            events.FileOpened(
                session=self.session,
                share=opened.share.name,
                path=opened.path,
                size=opened.file.size,
            )
        )

    def closed(self, opened: FileHandle | DirectoryHandle, *, result: str) -> None:
        """A handle was closed by the client ("ok") or with its session ("aborted")."""
        duration = time.monotonic() - opened.opened
        if isinstance(opened, DirectoryHandle):
            self._metrics.handle_closed("folder")
            self._folders += 1
            self._log.emit(
                events.FolderListed(
                    session=self.session,
                    share=opened.share.name if opened.share else None,
                    path=opened.path,
                    entries=opened.entries,
                    complete=opened.complete,
                    duration=duration,
                )
            )
            return
        self._metrics.handle_closed("file")
        self._log.emit(
            events.FileClosed(
                session=self.session,
                share=opened.share.name,
                path=opened.path,
                size=opened.file.size,
                bytes=opened.served,
                reads=opened.reads,
                duration=duration,
                whole=opened.whole,
                result=result,
            )
        )

    def checked(self, opened: FileHandle) -> None:
        """A file was opened for its checksum only."""
        self.opened(opened)
        self.closed(opened, result="ok")

    def denied(
        self,
        operation: str,
        error: Denied | TooManyHandles,
        *,
        share: Share | None,
        path: bytes | None,
        target: bytes | None,
    ) -> None:
        """A request was denied."""
        self._denied += 1
        self._metrics.denied(error.reason)
        full = error if isinstance(error, TooManyHandles) else None
        self._log.emit(
            events.Denied(
                session=self.session,
                operation=operation,
                share=share.name if share else None,
                path=path,
                target=target,
                reason=error.reason,
                used=full.used if full else None,
                limit=full.limit if full else None,
            )
        )

    def slow_read(self, share: Share) -> None:
        """A READ could not be answered from the page cache."""
        self._metrics.slow_read(share.name)

    def read_failed(
        self, opened: FileHandle, offset: int, length: int, error: Exception, *, effect: str
    ) -> None:
        """The disk failed a READ; `effect` is that of events.ReadFailed."""
        self._log.emit(
            events.ReadFailed(
                session=self.session,
                share=opened.share.name,
                path=opened.path,
                offset=offset,
                length=length,
                error=_error_name(error),
                effect=effect,
            )
        )

    def request(
        self,
        operation: str,
        *,
        share: Share | None,
        path: bytes | None,
        started: float,
        result: str,
        sent: int = 0,
        offset: int | None = None,
        length: int | None = None,
    ) -> None:
        """A request was answered. `started` is by time.perf_counter(), `sent` in bytes."""
        seconds = time.perf_counter() - started
        self._requests += 1
        self._bytes += sent
        self._metrics.request_done(
            share.name if share else NO_SHARE, operation, result, seconds, sent
        )
        if self._log.wants_requests:
            self._log.emit(
                events.Request(
                    session=self.session,
                    operation=operation,
                    share=share.name if share else None,
                    path=path,
                    offset=offset,
                    length=length,
                    bytes=sent,
                    duration=seconds,
                    result=result,
                )
            )

    def ended(self, reason: str) -> None:
        """The connection and all its files are closed."""
        if self._logged_in:
            self._metrics.session_closed()
        self._metrics.connection_closed()
        if not self._announced:
            return
        self._log.emit(
            events.SessionEnded(
                session=self.session,
                duration=time.monotonic() - self._started,
                bytes=self._bytes,
                files=self._files,
                folders=self._folders,
                requests=self._requests,
                denied=self._denied,
                reason=reason,
            )
        )


def _error_name(error: Exception) -> str:
    """The name of an errno, "truncated" or "internal"."""
    if isinstance(error, Truncated):
        return "truncated"
    if isinstance(error, OSError) and error.errno is not None:
        return errno.errorcode.get(error.errno, str(error.errno))
    return "internal"
