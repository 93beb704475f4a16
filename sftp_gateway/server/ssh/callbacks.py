"""What the worker hears of a connection that it handed over, and may do to it."""

from __future__ import annotations

from collections.abc import Callable


class ConnectionCallbacks:
    """The callbacks of one connection.

    `logged_in` gets the user and the fingerprint of the credential, once. `interrupted` is called
    before `ended` if the client had files open and did not close the connection itself. `ended` is
    called once, however the connection ends.
    """

    def __init__(
        self,
        *,
        logged_in: Callable[[str, str], None],
        ended: Callable[[str | None], None],
        interrupted: Callable[[], None] = lambda: None,
    ) -> None:
        self.logged_in = logged_in
        self.interrupted = interrupted
        self._ended: Callable[[str | None], None] | None = ended
        #: Closes the connection because its user has too many. Set once the client is connected.
        self.disconnect: Callable[[], None] = lambda: None

    def ended(self, offence: str | None) -> None:
        """Report the end; `offence` is a value of `auth.penalties.Offence`, or None."""
        report, self._ended = self._ended, None
        if report is not None:
            report(offence)
