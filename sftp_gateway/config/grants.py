"""Who may log in with what and read which shares, and what another configuration removes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

#: In place of a key's fingerprint.
PASSWORD: Final = "password"  # noqa: S105 - a constant, not a password
#: In place of a user: authorities whose certificates are accepted for all users.
EVERYBODY: Final = "*"

#: Names listed in one sentence; further ones are counted.
_MAX_NAMES: Final = 20

#: Numbers of sessions by user and login: the fingerprint of a key or an authority, or PASSWORD.
Sessions = Mapping[tuple[str, str], int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Grants:
    """Names of shares by user; comments of keys by user and fingerprint."""

    shares: Mapping[str, Sequence[str]]
    keys: Mapping[str, Mapping[str, str]]

    def as_json(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Any) -> Grants:
        """The inverse of `as_json`. Raises ValueError."""
        try:
            return cls(
                shares={
                    str(user): tuple(map(str, data["shares"][user])) for user in data["shares"]
                },
                keys={
                    str(user): {str(key): str(comment) for key, comment in keys.items()}
                    for user, keys in data["keys"].items()
                },
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError("not grants") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class RemovedGrants:
    """What was removed, in words ("" for nothing), and how many live sessions lose their login."""

    users: str
    keys: str
    shares: str
    sessions: int

    def sentences(self) -> list[str]:
        """One sentence for each kind."""
        said = [
            f"{kind} no longer served: {names}"
            for kind, names in (("users", self.users), ("keys", self.keys), ("shares", self.shares))
            if names
        ]
        if self.sessions:
            said.append(f"live sessions that lose their login: {self.sessions}")
        return said


def removed_grants(before: Grants, after: Grants, sessions: Sessions) -> RemovedGrants:
    """What `before` grants and `after` does not."""
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
    return RemovedGrants(
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


def _shares(before: Grants, after: Grants) -> Iterable[str]:
    """Each share that a user loses, with those users if others keep it."""
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
    more = [f"and {len(listed) - _MAX_NAMES} more"] if len(listed) > _MAX_NAMES else []
    return ", ".join([*listed[:_MAX_NAMES], *more])
