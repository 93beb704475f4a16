"""How much one session owes its client."""

from __future__ import annotations


class Owed:
    """The requests that are with the threads or wait for them; one count, whoever answers them."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0
