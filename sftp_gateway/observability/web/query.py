"""The query of the page's URL."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal
from urllib.parse import parse_qsl, urlencode, urlsplit

from sftp_gateway.observability.access_log.line import RESULTS
from sftp_gateway.observability.history.queries import Filter
from sftp_gateway.observability.web.chart import COLUMNS

#: Characters of a field that are read.
_MAX_LENGTH: Final = 500

_DEFAULT_HOURS: Final = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """The fields of the URL; invalid ones have their defaults."""

    hours: int = _DEFAULT_HOURS
    by: Literal["share", "user"] = "share"
    user: str = ""
    share: str = ""
    key: str = ""
    path: str = ""
    result: str = ""
    before: int | None = None
    after: int | None = None

    @classmethod
    def parse(cls, path: str) -> Query:
        """From the path of a request."""
        given = {name: value[:_MAX_LENGTH] for name, value in parse_qsl(urlsplit(path).query)}
        hours = given.get("hours", "")
        result = given.get("result", "")
        return cls(
            hours=int(hours) if hours in map(str, COLUMNS) else _DEFAULT_HOURS,
            by="user" if given.get("by") == "user" else "share",
            user=given.get("user", ""),
            share=given.get("share", ""),
            key=given.get("key", "").strip(),
            path=given.get("path", "").strip(),
            result=result if result in RESULTS else "",
            before=_id(given.get("before", "")),
            after=_id(given.get("after", "")),
        )

    @property
    def filtered(self) -> bool:
        """Whether accesses are filtered."""
        return bool(self.user or self.share or self.key or self.path or self.result)

    @property
    def filter(self) -> Filter:
        """The filter for the history."""
        return Filter(
            user=self.user,
            share=self.share,
            key=self.key,
            path=self.path,
            result=self.result,
            accesses=True,
            before=self.before,
            after=self.after,
        )

    def address(self, part: str = "", **changed: object) -> str:
        """The URL of this page with some fields changed, at the anchor `part`."""
        other = replace(self, **changed)  # type: ignore[arg-type]
        default = Query()
        fields = {
            name: value
            for name in self.__slots__
            if (value := getattr(other, name)) != getattr(default, name) and value is not None
        }
        # "./" drops the query; an empty reference would keep it.
        return (f"?{urlencode(fields)}" if fields else "./") + (f"#{part}" if part else "")


def _id(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 19 else None
