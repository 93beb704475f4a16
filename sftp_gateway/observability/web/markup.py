"""HTML that cannot be broken by what is put into it."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from sftp_gateway.observability.access_log.json_lines import visible


class Html(str):
    """Text that is HTML already, and is not escaped again."""

    __slots__ = ()


def fill(template: str, **values: object) -> Html:
    """The template with its {names} filled in, escaped unless they are HTML."""
    return Html(template.format_map({name: html(value) for name, value in values.items()}))


def html(value: object) -> Html:
    """Whatever it is, as HTML."""
    return value if isinstance(value, Html) else Html(escape(visible(str(value))))


def join(parts: Iterable[Html]) -> Html:
    """One after the other."""
    return Html("".join(parts))
