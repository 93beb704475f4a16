"""Who may log in with what and read which shares, and what another configuration takes away."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

#: In the place of a key's fingerprint.
PASSWORD: Final = "password"  # noqa: S105 - it says that there is one
#: Whoever has a certificate of an authority that holds for all users.
EVERYBODY: Final = "*"

#: Names in one sentence; further ones are counted.
_MOST_NAMES: Final = 20

#: Sessions by user and by what they logged in with: a key's fingerprint, an authority's, PASSWORD.
Sessions = Mapping[tuple[str, str], int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """Names of shares by user; comments of keys by user and fingerprint."""

    shares: Mapping[str, Sequence[str]]
    keys: Mapping[str, Mapping[str, str]]

    def as_json(self) -> dict[str, Any]:
        """As it is told to programs."""
        return asdict(self)

    @classmethod
    def from_json(cls, told: Any) -> Served:
        """What `as_json` gave. Raises ValueError for anything else."""
        try:
            return cls(
                shares={
                    str(user): tuple(map(str, told["shares"][user])) for user in told["shares"]
                },
                keys={
                    str(user): {str(key): str(comment) for key, comment in keys.items()}
                    for user, keys in told["keys"].items()
                },
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError("not what is served") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal:
    """What is not there any more, in words for people, and how many live sessions lose their
    login by it; each text is "" for nothing."""

    users: str
    keys: str
    shares: str
    sessions: int

    def sentences(self) -> list[str]:
        """One for each kind."""
        said = [
            f"{kind} no longer served: {names}"
            for kind, names in (("users", self.users), ("keys", self.keys), ("shares", self.shares))
            if names
        ]
        if self.sessions:
            said.append(f"live sessions that lose their login: {self.sessions}")
        return said


def removal(before: Served, after: Served, sessions: Sessions) -> Removal:
    """What is served before and not after."""
    users = [user for user in before.shares if user not in after.shares]
    keys = [
        (user, key, comment)
        for user, keys in before.keys.items()
        if user not in users
        for key, comment in keys.items()
        if key not in after.keys.get(user, {})
    ]
    lost = {(user, key) for user, key, _ in keys}
    ended = {
        login: count
        for login, count in sessions.items()
        if login[0] in users or login in lost or (EVERYBODY, login[1]) in lost
    }
    return Removal(
        users=_listed(
            f"{user} ({_number(len(before.keys.get(user, {})), 'key')}, "
            f"{_number(sum(n for (name, _), n in ended.items() if name == user), 'session')})"
            for user in users
        ),
        keys=_listed(
            " ".join(filter(None, (user, key, comment)))
            + f" ({_number(_with(ended, user, key), 'session')})"
            for user, key, comment in keys
        ),
        shares=_listed(_shares(before, after)),
        sessions=sum(ended.values()),
    )


def _with(sessions: Sessions, user: str, key: str) -> int:
    return sum(n for (name, by), n in sessions.items() if by == key and user in (name, EVERYBODY))


def _shares(before: Served, after: Served) -> Iterable[str]:
    """Each share that is taken from anybody, with those who lose it if others keep it."""
    losers: dict[str, list[str]] = {}
    for user, names in before.shares.items():
        for name in names:
            if name not in after.shares.get(user, names):
                losers.setdefault(name, []).append(user)
    kept = {name for names in after.shares.values() for name in names}
    for name, users in losers.items():
        yield f"{name} (for {_listed(users)})" if name in kept else name


def _number(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _listed(names: Iterable[str]) -> str:
    listed = list(names)
    more = [f"and {len(listed) - _MOST_NAMES} more"] if len(listed) > _MOST_NAMES else []
    return ", ".join([*listed[:_MOST_NAMES], *more])
