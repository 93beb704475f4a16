"""One session channel: SFTP, an `echo` that is answered, or a refusal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

import asyncssh

from sftp_gateway.server import command
from sftp_gateway.server.handles import FileHandle
from sftp_gateway.server.sftp import SftpSession

if TYPE_CHECKING:
    from sftp_gateway.server.guest import Guest
    from sftp_gateway.server.ssh import SshServer

#: Bytes that wait in a channel for the client's window before the session makes no more. A 2 MiB
#: window of a stock client is kept full across a long link.
_CHANNEL_BUFFER: Final = 1024 * 1024

#: The same for channel and socket each, while the budget of all sessions is spent.
_TIGHT_BUFFER: Final = 32 * 1024

#: Requests of which asyncssh would keep something for as long as the channel is open, or for each a
#: turn of its loop, however many there are: variables, which mean nothing here, and forwarding.
_UNWANTED: Final = ("env", "x11_req", "auth_agent_req_at_openssh_dot_com")


def refuse_unwanted(channel: asyncssh.SSHServerChannel[bytes]) -> None:
    """Have these requests on `channel` refused as unknown ones are: at once, and forgotten."""
    for name in _UNWANTED:
        setattr(channel, f"_process_{name}_request", None)


class ChannelSession(asyncssh.SSHServerSession[bytes]):
    """A session channel; also the side of it that an SftpSession writes to."""

    def __init__(self, guest: Guest, server: SshServer) -> None:
        self._guest = guest
        self._server = server
        self._sftp: SftpSession | None = None
        self._command: str | None = None
        self._window_full = False
        self._socket_full = False
        self._keys_awaited = False
        self._counted = False
        self._tight = False

    def connection_made(self, chan: asyncssh.SSHServerChannel[bytes]) -> None:
        """The channel is open."""
        self._channel = chan
        chan.set_write_buffer_limits(high=_CHANNEL_BUFFER)
        self.outgoing = self._guest.connection.outgoing_of(chan)
        self._guest.channels.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """The channel is closed."""
        self._server.budget.forget(self)
        if self._sftp is not None:
            self._sftp.connection_lost()
        self._guest.channel_closed(self)

    def subsystem_requested(self, subsystem: str) -> bool:
        """`sftp` is served, nothing else."""
        if subsystem == "sftp":
            self._sftp = self._server.open_sftp(self, self._guest.recorder)
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
        if self._sftp is not None:
            return
        recorder = self._guest.recorder
        words = command.answer(self._command) if self._command is not None else None
        if words is not None and self._command is not None:
            recorder.command_answered(self._command)
            self._channel.write(words.encode())
            self._channel.exit(0)
        else:
            kind = "shell" if self._command is None else "exec"
            recorder.command_refused(kind, self._command)
            self._channel.write_stderr(command.REFUSAL.encode())
            self._channel.exit(1)

    def data_received(self, data: bytes, datatype: asyncssh.DataType) -> None:
        """Bytes of the client."""
        if self._sftp is not None:
            self._sftp.data_received(data)

    def eof_received(self) -> bool:
        """The client sends no more; what it asked is still answered."""
        if self._sftp is not None:
            self._sftp.finish()
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

    def keys_awaited(self, awaited: bool) -> None:
        """A key exchange has begun, during which nothing can be sent, or has ended."""
        self._keys_awaited = awaited
        self._tell_room()

    def _tell_room(self) -> None:
        if self._sftp is None:
            return
        if self._window_full or self._socket_full or self._keys_awaited:
            self._sftp.pause_writing()
        else:
            self._sftp.resume_writing()

    @property
    def busy(self) -> bool:
        """Whether the client waits for an answer."""
        return self._sftp is not None and self._sftp.busy

    def open_files(self) -> Iterable[FileHandle]:
        """What the client has open."""
        return () if self._sftp is None else self._sftp.open_files()

    def pump(self) -> None:
        """The access log has room again."""
        if self._sftp is not None:
            self._sftp.pump()

    def drain(self) -> None:
        """Close once nothing is open."""
        if self._sftp is not None:
            self._sftp.drain()
        else:
            self._channel.close()

    def finish(self) -> None:
        """Close once what was asked is answered."""
        if self._sftp is not None:
            self._sftp.finish()
        else:
            self._channel.close()

    # What SftpSession needs of a channel

    def flush(self) -> None:
        """Send what is in `outgoing`, unless the client has closed the channel meanwhile."""
        if self._channel.is_closing():
            self.outgoing.clear()
        elif not self._guest.connection.send_data(self._channel, self.outgoing) or self._counted:
            self._account()

    def _account(self) -> None:
        """Count what the client has not taken, and give or take room as the budget says."""
        budget = self._server.budget
        self._counted = budget.count(self)
        if budget.spent != self._tight:
            self._tight = not self._tight
            self._channel.set_write_buffer_limits(_TIGHT_BUFFER if self._tight else _CHANNEL_BUFFER)
            self._guest.connection.limit_write_buffer(_TIGHT_BUFFER if self._tight else None)

    @property
    def held(self) -> int:
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
        if not self._channel.is_closing():
            self._channel.exit(0)
