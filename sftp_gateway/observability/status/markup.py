"""HTML that cannot be broken by what is put into it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from html import escape
from typing import Final

# What the access log escapes too, and C0 controls: it breaks, reorders or hides text.
_UNSEEN: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f\ud800-\udfff\ufeff]"
)


class Html(str):
    """Text that is HTML already, and is not escaped again."""

    __slots__ = ()


def visible(text: str) -> str:
    r"""`text` with everything written as `\uXXXX` that does more than show."""
    return _UNSEEN.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def fill(template: str, **values: object) -> Html:
    """The template with its {names} filled in, escaped unless they are HTML."""
    return Html(template.format_map({name: html(value) for name, value in values.items()}))


def html(value: object) -> Html:
    """Whatever it is, as HTML."""
    return value if isinstance(value, Html) else Html(escape(visible(str(value))))


def join(parts: Iterable[Html]) -> Html:
    """One after the other."""
    return Html("".join(parts))
