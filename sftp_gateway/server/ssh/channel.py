"""One session channel: SFTP, a command that is answered, or a refusal."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final, cast

import asyncssh
from asyncssh.constants import MSG_CHANNEL_WINDOW_ADJUST
from asyncssh.packet import UInt32

from sftp_gateway.server.exec import command_line as command
from sftp_gateway.server.exec.programs import program
from sftp_gateway.server.exec.session import CommandSession
from sftp_gateway.server.handles import FileHandle
from sftp_gateway.server.sftp.session import SftpSession

if TYPE_CHECKING:
    from asyncssh.packet import SSHPacket

    from sftp_gateway.server.ssh.connection import Connection
    from sftp_gateway.server.ssh.handler import Guest
    from sftp_gateway.server.ssh.server import SshServer

#: Bytes that a client may send on a channel before we have taken them. Requests are small.
_RECEIVE_WINDOW: Final = 512 * 1024
_MAX_PACKET: Final = 32 * 1024

#: Bytes that wait in a channel for the client's window before the session makes no more. A 2 MiB
#: window of a stock client is kept full across a long link.
_CHANNEL_BUFFER: Final = 1024 * 1024

#: The same for channel and socket each, while the budget of all sessions is spent.
_TIGHT_BUFFER: Final = 32 * 1024

#: Seconds in which a client has to take something of what waits for its window or its network, in
#: the middle of a session, and once it is only the rest of one.
_STALL_TIMEOUT: Final = 300.0
_CLOSE_TIMEOUT: Final = 10.0

#: What `ssh` prints where a READ that failed has ended the session.
_READ_FAILED: Final = "sftp-gateway: a read failed ({}); disconnecting\n"


class SessionChannel(asyncssh.SSHServerChannel[bytes]):
    """A session channel as asyncssh has it, that sends within its connection's time slices."""

    # asyncssh would keep something of each of these requests for as long as the channel is open, or
    # for a turn of its loop, however many there are. They mean nothing here: unknown ones.
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
        self._taken = 0  # bytes that the client has not been given room for again

    def _process_exec_request(self, packet: SSHPacket) -> bool:
        """A command is bytes: names of files need not be UTF-8, as asyncssh demands."""
        asked = packet.get_string()
        packet.check_end()
        return self._start_session(command=asked.decode("utf-8", "surrogateescape"))

    def process_packet(self, pkttype: int, pktid: int, packet: SSHPacket) -> Any:
        """Handle a message for this channel."""
        return self._conn.admit(super().process_packet, pkttype, pktid, packet)

    def _deliver_data(self, data: bytes, datatype: asyncssh.DataType) -> None:
        """Give the session data, and the client room for as much as the session has taken.

        asyncssh gives room for the whole window whenever some data is taken, even if as much as
        that still waits here for a session that has paused.
        """
        self._taken += len(data)
        if self._taken >= self._init_recv_window // 2:
            self._recv_window += self._taken
            self.send_packet(MSG_CHANNEL_WINDOW_ADJUST, UInt32(self._taken))
            self._taken = 0
        if self._session is not None:
            self._session.data_received(data, datatype)

    def _flush_send_buf(self) -> None:
        """Called by asyncssh when there may be something to send."""
        if self._conn.send_buffered(self):
            self._conn.wait_turn(self._session)
        if self._send_buf:
            self._pause_resume_writing()
        else:
            super()._flush_send_buf()

    def send_buffered(self) -> None:
        """Continue to send what waits for the client's window."""
        if self._send_buf and self._conn is not None:
            self._flush_send_buf()

    def _process_eow_at_openssh_dot_com_request(self, packet: SSHPacket) -> bool:
        """The client takes no more data (OpenSSH's PROTOCOL §2.1): nobody is left to be answered.

        `ssh` sends this when the program that reads from it is gone.
        """
        packet.check_end()
        self._loop.call_soon(self._session.abort)
        return True

    @property
    def closed(self) -> bool:
        """Whether CHANNEL_CLOSE was sent."""
        return self._send_state == "closed"


class ChannelSession(asyncssh.SSHServerSession[bytes]):
    """A session channel; also the side of it that its session writes to."""

    def __init__(self, guest: Guest, server: SshServer) -> None:
        self._guest = guest
        self._server = server
        self._served: SftpSession | CommandSession | None = None
        self._command: str | None = None
        self._window_full = False
        self._socket_full = False
        self._counted = False
        self._tight = False
        self._lost = False  # and not released yet
        self._paused = False
        self._finishing = False
        self._held_before = 0
        self._progress_timer: asyncio.TimerHandle | None = None
        self.time_slice = guest.connection.time_slice

    def connection_made(self, chan: asyncssh.SSHServerChannel[bytes]) -> None:
        """The channel is open."""
        self._channel = cast(SessionChannel, chan)
        chan.set_write_buffer_limits(high=_CHANNEL_BUFFER)
        self.outgoing = self._guest.connection.outgoing_of(chan)
        self._guest.channels.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """The channel is closed."""
        if exc is not None and any(self.open_files()):
            self._guest.interrupted()
        self._server.budget.remove(self)
        self._stop_watching()
        self._lost = True
        if self._served is not None:
            self._served.connection_lost()
        self._tell_released()

    def _tell_released(self) -> None:
        if self._lost and (self._served is None or self._served.released):
            self._lost = False
            self._guest.channel_closed(self)

    def subsystem_requested(self, subsystem: str) -> bool:
        """`sftp` is served, nothing else."""
        if subsystem == "sftp":
            self._served = self._server.open_sftp(self, self._guest.recorder)
            return True
        self._guest.recorder.command_refused("subsystem", subsystem)
        return False

    def exec_requested(self, command: str) -> bool:
        """Taken, so that there is a channel to refuse it on."""
        self._command = command
        return True

    def shell_requested(self) -> bool:
        """Taken, so that there is a channel to refuse it on."""
        return True

    def session_started(self) -> None:
        """Answer a command or a shell."""
        if self._served is not None:
            return
        recorder = self._guest.recorder
        asked = self._command
        parsed = command.parse(asked) if asked is not None else None
        if asked is None or parsed is None:
            recorder.command_refused("shell" if asked is None else "exec", asked)
            self._channel.write_stderr(command.REFUSAL.encode())
            self._channel.exit(1)
            return
        recorder.command_answered(asked)
        if isinstance(parsed, command.Text):
            self._channel.write(parsed.text.encode())
            self._channel.exit(0)
        else:
            self._served = session = self._server.open_command(self, recorder)
            session.start(program(session, parsed))

    def data_received(self, data: bytes, datatype: asyncssh.DataType) -> None:
        """Bytes of the client."""
        if self._served is not None:
            self._served.data_received(data)

    def eof_received(self) -> bool:
        """The client sends no more; what it asked is still answered, while it takes answers."""
        if isinstance(self._served, SftpSession):
            self.finish()
        elif self._served is not None:
            self._served.eof_received()
        return True

    def pause_writing(self) -> None:
        """The client's window is full."""
        self._window_full = True
        self._tell_room()

    def resume_writing(self) -> None:
        """It has room again."""
        self._window_full = False
        self._tell_room()

    def socket_full(self, full: bool) -> None:
        """The connection's socket has enough to send, or room again."""
        self._socket_full = full
        self._tell_room()
        if not full:
            self._channel.send_buffered()

    def send_held(self) -> None:
        """Send what waited for the end of a key exchange."""
        self._channel.send_buffered()

    def _tell_room(self) -> None:
        self._paused = self._window_full or self._socket_full
        if self._paused:
            self._watch_progress()
        else:
            self._held_before = 0  # some of it was taken, even if as much is held again later
        if self._served is None:
            return
        if self._paused:
            self._served.pause_writing()
        else:
            self._served.resume_writing()

    def take_turn(self) -> None:
        """A time slice of the connection has begun."""
        self._channel.send_buffered()
        if self._served is not None:
            self._served.take_turn()
            self._tell_released()

    def wait_turn(self) -> None:
        """Have `take_turn` called in the next time slice."""
        self._guest.connection.wait_turn(self)

    # A client that takes nothing any more

    def _watch_progress(self) -> None:
        if self._progress_timer is None:
            seconds = _CLOSE_TIMEOUT if self._finishing else _STALL_TIMEOUT
            self._held_before = self.buffered
            loop = asyncio.get_running_loop()
            self._progress_timer = loop.call_later(seconds, self._check_progress)

    def _check_progress(self) -> None:
        self._progress_timer = None
        if self.buffered and self.buffered == self._held_before:
            self.abort()
        elif self._paused or self._finishing:
            self._watch_progress()

    def _finish_soon(self) -> None:
        """From here on the client gets the rest, if it takes it."""
        if not self._finishing:
            self._finishing = True
            self._stop_watching()
            self._watch_progress()

    def _stop_watching(self) -> None:
        if self._progress_timer is not None:
            self._progress_timer.cancel()
            self._progress_timer = None

    def abort(self) -> None:
        """Close the channel; what the client has not taken is lost."""
        self._channel.abort()
        if self._served is not None:
            self._served.connection_lost()

    @property
    def busy(self) -> bool:
        """Whether the client waits for an answer."""
        return self._served is not None and self._served.busy

    def open_files(self) -> Iterable[FileHandle]:
        """What the client has open."""
        return () if self._served is None else self._served.open_files()

    def pump(self) -> None:
        """The access log has room again."""
        if self._served is not None:
            self._served.pump()

    def drain(self) -> None:
        """Close once nothing is open."""
        if self._served is not None:
            self._served.drain()
        else:
            self._channel.close()

    def finish(self) -> None:
        """Close once what was asked is answered."""
        if self._server.stopping and any(self.open_files()):
            self._guest.interrupted()
        self._finish_soon()
        if self._served is not None:
            self._served.finish()
        else:
            self._channel.close()

    @property
    def closed(self) -> bool:
        """Whether our side of the channel is closed, so that the client gets nothing more."""
        return self._channel.closed

    # What a session needs of its channel

    def flush(self) -> None:
        """Send what is in `outgoing`, unless the client has closed the channel meanwhile."""
        if self._channel.is_closing():
            self.outgoing.clear()
        elif not self._guest.connection.send_data(self._channel, self.outgoing) or self._counted:
            self._account()

    def _account(self) -> None:
        """Count what the client has not taken, and give or take room as the budget says."""
        budget = self._server.budget
        self._counted = budget.update(self)
        if budget.exhausted != self._tight:
            self._tight = not self._tight
            self._channel.set_write_buffer_limits(_TIGHT_BUFFER if self._tight else _CHANNEL_BUFFER)
            self._guest.connection.limit_write_buffer(_TIGHT_BUFFER if self._tight else None)

    @property
    def buffered(self) -> int:
        """Bytes that were sent and wait for the client's window or for the network."""
        return self._channel.get_write_buffer_size() + self._guest.connection.write_buffer_size

    def pause_reading(self) -> None:
        """Take no more from the client."""
        self._channel.pause_reading()

    def resume_reading(self) -> None:
        """Take more again."""
        self._channel.resume_reading()

    def close(self) -> None:
        """Close the channel when everything is sent; exit status 0, as sftp-server's."""
        self.exit(0)

    def exit(self, status: int) -> None:
        """Close the channel when everything is sent, with this exit status."""
        self._finish_soon()
        if not self._channel.is_closing():
            self._channel.exit(status)

    def write_error(self, data: bytes) -> None:
        """Send `data` on standard error."""
        if not self._channel.is_closing():
            self._channel.write_stderr(data)

    def close_for_read(self, message: str) -> None:
        """The same over a READ that failed with `message`, with exit status 1."""
        self._guest.read_failed()
        self.write_error(_READ_FAILED.format(message).encode())
        self.exit(1)
