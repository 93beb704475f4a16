"""One session channel: SFTP, a command that is answered, or a refusal."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final, cast

import asyncssh
from asyncssh.constants import MSG_CHANNEL_WINDOW_ADJUST
from asyncssh.packet import UInt32

from sftp_gateway.server.exec import command_line as command
from sftp_gateway.server.exec.programs import program
from sftp_gateway.server.exec.session import CommandSession
from sftp_gateway.server.handles import FileHandle
from sftp_gateway.server.limits.budget import BufferBudget
from sftp_gateway.server.sftp.session import SftpSession
from sftp_gateway.server.ssh.connection import Connection
from sftp_gateway.server.ssh.context import SessionFactory

if TYPE_CHECKING:
    from asyncssh.packet import SSHPacket

#: Bytes of the receive window. Requests are small.
_RECEIVE_WINDOW: Final = 512 * 1024
_MAX_PACKET: Final = 32 * 1024

#: Bytes that wait for the client's window before its session pauses. Enough to keep the 2 MiB
#: window of a stock client full across a long link.
_CHANNEL_BUFFER: Final = 1024 * 1024

#: The same for channel and socket each, while the buffer budget is exhausted.
_REDUCED_BUFFER: Final = 32 * 1024

#: Seconds in which a client has to take some of what is buffered for it: during a session, and
#: while its channel is closing.
_STALL_TIMEOUT: Final = 300.0
_CLOSE_TIMEOUT: Final = 10.0

#: What `ssh` prints when a failed READ has ended the session.
_READ_FAILED: Final = "sftp-gateway: a read failed ({}); disconnecting\n"


class SessionChannel(asyncssh.SSHServerChannel[bytes]):
    """asyncssh's session channel, sending within its connection's time slices."""

    # asyncssh keeps state for each of these requests, without a bound. Here they are unknown ones.
    _process_env_request = None  # type: ignore[assignment]
    _process_x11_req_request = None  # type: ignore[assignment]
    _process_auth_agent_req_at_openssh_dot_com_request = None  # type: ignore[assignment]

    _conn: Connection
    _session: ChannelSession

    def __init__(self, connection: Connection) -> None:
        super().__init__(
            connection, connection._loop, allow_pty=False, line_editor=False, line_echo=False,
            line_history=0, max_line_length=0, encoding=None, errors="strict",
            window=_RECEIVE_WINDOW, max_pktsize=_MAX_PACKET,
        )  # fmt: skip
        self._window_debt = 0  # bytes received for which the window was not adjusted yet

    def _process_exec_request(self, packet: SSHPacket) -> bool:
        """Take a command as bytes: file names in it need not be UTF-8, as asyncssh demands."""
        command_bytes = packet.get_string()
        packet.check_end()
        return self._start_session(command=command_bytes.decode("utf-8", "surrogateescape"))

    def process_packet(self, pkttype: int, pktid: int, packet: SSHPacket) -> Any:
        """Handle a message for this channel."""
        return self._conn.admit(super().process_packet, pkttype, pktid, packet)

    def _deliver_data(self, data: bytes, datatype: asyncssh.DataType) -> None:
        """Pass data to the session, and adjust the window by as much.

        asyncssh adjusts it to its full size whenever some data is consumed, even while a paused
        session has as much waiting.
        """
        self._window_debt += len(data)
        if self._window_debt >= self._init_recv_window // 2:
            self._recv_window += self._window_debt
            self.send_packet(MSG_CHANNEL_WINDOW_ADJUST, UInt32(self._window_debt))
            self._window_debt = 0
        if self._session is not None:
            self._session.data_received(data, datatype)

    def _flush_send_buf(self) -> None:
        """Send what is buffered; called by asyncssh when that may be possible."""
        if self._conn.send_buffered(self):
            self._conn.wait_turn(self._session)
        if self._send_buf:
            self._pause_resume_writing()
        else:
            super()._flush_send_buf()

    def send_buffered(self) -> None:
        """Send more of what waits for the client's window."""
        if self._send_buf and self._conn is not None:
            self._flush_send_buf()

    def _process_eow_at_openssh_dot_com_request(self, packet: SSHPacket) -> bool:
        """Abort: the client reads no more (OpenSSH's PROTOCOL §2.1).

        `ssh` sends this when the program that reads from it has exited.
        """
        packet.check_end()
        self._loop.call_soon(self._session.abort)
        return True

    @property
    def closed(self) -> bool:
        """Whether CHANNEL_CLOSE was sent."""
        return self._send_state == "closed"


class ChannelSession(asyncssh.SSHServerSession[bytes]):
    """What runs on a session channel, between asyncssh and an SFTP or command session."""

    def __init__(
        self,
        connection: Connection,
        *,
        budget: BufferBudget,
        sessions: SessionFactory,
        on_closed: Callable[[], None],
    ) -> None:
        """`on_closed` is called once the channel is closed and its files are."""
        self._connection = connection
        self._recorder = connection.recorder
        self._budget = budget
        self._sessions = sessions
        self._on_closed = on_closed
        self._session: SftpSession | CommandSession | None = None
        self._command: str | None = None
        self._window_full = False
        self._socket_full = False
        self._counted = False  # whether the budget counts bytes of this channel
        self._reduced = False  # whether the buffers have their reduced size
        self._lost = False  # and not reported as closed yet
        self._paused = False
        self._closing = False
        self._buffered_before = 0
        self._progress_timer: asyncio.TimerHandle | None = None
        self.time_slice = connection.time_slice

    def connection_made(self, chan: asyncssh.SSHServerChannel[bytes]) -> None:
        """The channel is open."""
        self._channel = cast(SessionChannel, chan)
        chan.set_write_buffer_limits(high=_CHANNEL_BUFFER)
        self.outgoing = self._connection.outgoing_buffer(chan)
        self._connection.channels.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """The channel is closed."""
        if exc is not None and any(self.open_files()):
            self._connection.callbacks.interrupted()
        self._budget.remove(self)
        self._stop_watching()
        self._lost = True
        if self._session is not None:
            self._session.connection_lost()
        self._report_closed()

    def _report_closed(self) -> None:
        if self._lost and (self._session is None or self._session.released):
            self._lost = False
            self._connection.channels.discard(self)
            self._on_closed()

    def subsystem_requested(self, subsystem: str) -> bool:
        """Serve `sftp`; refuse any other."""
        if subsystem == "sftp":
            self._session = self._sessions.open_sftp(self, self._recorder)
            return True
        self._recorder.command_refused("subsystem", subsystem)
        return False

    def exec_requested(self, command: str) -> bool:
        """Accept, so that there is a channel to answer or refuse it on."""
        self._command = command
        return True

    def shell_requested(self) -> bool:
        """Accept, so that there is a channel to refuse it on."""
        return True

    def session_started(self) -> None:
        """Answer a command or a shell."""
        if self._session is not None:
            return
        recorder = self._recorder
        line = self._command
        parsed = command.parse(line) if line is not None else None
        if line is None or parsed is None:
            recorder.command_refused("shell" if line is None else "exec", line)
            self._channel.write_stderr(command.REFUSAL.encode())
            self._channel.exit(1)
            return
        recorder.command_answered(line)
        if isinstance(parsed, command.Text):
            self._channel.write(parsed.text.encode())
            self._channel.exit(0)
        else:
            self._session = session = self._sessions.open_command(self, recorder)
            session.start(program(session, parsed))

    def data_received(self, data: bytes, datatype: asyncssh.DataType) -> None:
        """The client sent bytes."""
        if self._session is not None:
            self._session.data_received(data)

    def eof_received(self) -> bool:
        """The client sends no more; its requests so far are still answered."""
        if isinstance(self._session, SftpSession):
            self.finish()
        elif self._session is not None:
            self._session.eof_received()
        return True

    def pause_writing(self) -> None:
        """The client's window is full."""
        self._window_full = True
        self._update_paused()

    def resume_writing(self) -> None:
        """It has room again."""
        self._window_full = False
        self._update_paused()

    def socket_full(self, full: bool) -> None:
        """The socket's buffer is full, or has room again."""
        self._socket_full = full
        self._update_paused()
        if not full:
            self._channel.send_buffered()

    def send_buffered(self) -> None:
        """A key exchange has ended: send what had to wait for it."""
        self._channel.send_buffered()

    def _update_paused(self) -> None:
        self._paused = self._window_full or self._socket_full
        if self._paused:
            self._watch_progress()
        else:
            self._buffered_before = 0  # the client took some, even if as much is buffered later
        if self._session is None:
            return
        if self._paused:
            self._session.pause_writing()
        else:
            self._session.resume_writing()

    def take_turn(self) -> None:
        """A time slice of the connection has begun."""
        self._channel.send_buffered()
        if self._session is not None:
            self._session.take_turn()
            self._report_closed()

    def wait_turn(self) -> None:
        """Have `take_turn` called in the next time slice."""
        self._connection.wait_turn(self)

    # Timeout of a client that reads nothing

    def _watch_progress(self) -> None:
        if self._progress_timer is None:
            seconds = _CLOSE_TIMEOUT if self._closing else _STALL_TIMEOUT
            self._buffered_before = self.buffered
            loop = asyncio.get_running_loop()
            self._progress_timer = loop.call_later(seconds, self._check_progress)

    def _check_progress(self) -> None:
        self._progress_timer = None
        if self.buffered and self.buffered == self._buffered_before:
            self.abort()
        elif self._paused or self._closing:
            self._watch_progress()

    def _start_closing(self) -> None:
        """The client has _CLOSE_TIMEOUT seconds for each step with what is left."""
        if not self._closing:
            self._closing = True
            self._stop_watching()
            self._watch_progress()

    def _stop_watching(self) -> None:
        if self._progress_timer is not None:
            self._progress_timer.cancel()
            self._progress_timer = None

    def abort(self) -> None:
        """Close the channel; what is buffered is lost."""
        self._channel.abort()
        if self._session is not None:
            self._session.connection_lost()

    @property
    def busy(self) -> bool:
        """Whether the client waits for an answer."""
        return self._session is not None and self._session.busy

    def open_files(self) -> Iterable[FileHandle]:
        """The files that the client has open."""
        return () if self._session is None else self._session.open_files()

    def pump(self) -> None:
        """The access log has room again."""
        if self._session is not None:
            self._session.pump()

    def drain(self) -> None:
        """Close once the client has closed its files."""
        if self._session is not None:
            self._session.drain()
        else:
            self._channel.close()

    def finish(self) -> None:
        """Close once the requests so far are answered."""
        self._start_closing()
        if self._session is not None:
            self._session.finish()
        else:
            self._channel.close()

    @property
    def closed(self) -> bool:
        """Whether our side of the channel is closed."""
        return self._channel.closed

    # What a session needs of its channel

    def flush(self) -> None:
        """Send what is in `outgoing`, or drop it if the channel is closing."""
        if self._channel.is_closing():
            self.outgoing.clear()
        elif not self._connection.send_data(self._channel, self.outgoing) or self._counted:
            self._update_budget()

    def _update_budget(self) -> None:
        """Report the buffered bytes, and size the buffers as the budget says."""
        budget = self._budget
        self._counted = budget.update(self)
        if budget.exhausted != self._reduced:
            self._reduced = not self._reduced
            self._channel.set_write_buffer_limits(
                _REDUCED_BUFFER if self._reduced else _CHANNEL_BUFFER
            )
            self._connection.limit_write_buffer(_REDUCED_BUFFER if self._reduced else None)

    @property
    def buffered(self) -> int:
        """Bytes that wait for the client's window or for the network."""
        return self._channel.get_write_buffer_size() + self._connection.write_buffer_size

    def pause_reading(self) -> None:
        """Deliver no more data until `resume_reading`."""
        self._channel.pause_reading()

    def resume_reading(self) -> None:
        """Deliver data again."""
        self._channel.resume_reading()

    def exit(self, status: int) -> None:
        """Close with exit status `status` when everything is sent."""
        self._start_closing()
        if not self._channel.is_closing():
            self._channel.exit(status)

    def write_error(self, data: bytes) -> None:
        """Send `data` on standard error."""
        if not self._channel.is_closing():
            self._channel.write_stderr(data)

    def close_for_read(self, message: str) -> None:
        """Close with exit status 1 because a READ failed with `message`."""
        self._connection.end_reason = "read_failed"
        self._connection.callbacks.interrupted()
        self.write_error(_READ_FAILED.format(message).encode())
        self.exit(1)
