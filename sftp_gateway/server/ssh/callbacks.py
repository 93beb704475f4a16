"""What who passed a connection on is told of it, and may do with it."""

from __future__ import annotations

from collections.abc import Callable


class Account:
    """One connection's.

    `logged_in` is told the user and the credential, once. `ended` is told once, whatever happens,
    with a word of `auth.penalties.Offence` for what the client did wrong, or None; before it,
    `interrupted` is called if the client had files open, and did not end the connection itself.
    """

    def __init__(
        self,
        *,
        logged_in: Callable[[str, str], None],
        ended: Callable[[str | None], None],
        interrupted: Callable[[], None] = lambda: None,
    ) -> None:
        self.logged_in = logged_in
        self.ended = ended
        self.interrupted = interrupted
        #: Closes the connection, because the user has too many; set once there is one.
        self.dismiss: Callable[[], None] = lambda: None
