"""The templates of the status page. Only the observer loads them, and Jinja2."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from sftp_gateway.observability import formatting
from sftp_gateway.observability.access_log.json_lines import printable

_FOLDER: Final = Path(__file__).with_name("templates")


def split_path(path: str, user: str = "") -> tuple[str, str]:
    """Last name and folder of a path, without the user's home folder."""
    below = f"{path}/".removeprefix(f"/home/{user}/")
    folder, _, name = below.rstrip("/").rpartition("/")
    return name or "/", folder or "\N{NO-BREAK SPACE}"


def client(version: str) -> str:
    """A client's version string without its protocol prefix and comment."""
    return version.removeprefix("SSH-2.0-").partition(" ")[0]


def dotted(parts: Iterable[object]) -> str:
    """The parts that have a value, with dots between."""
    return " · ".join(str(part) for part in parts if part)


def times(count: int) -> str:
    """What is put behind something that happened more than once."""
    return f", {formatting.number(count)} times" if count > 1 else ""


def _finalize(value: Any) -> Any:
    """What every expression passes through, before it is escaped as HTML."""
    return value if isinstance(value, Markup) else printable(str(value))


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters |= {
        "client": client,
        "clock": formatting.clock,
        "dotted": dotted,
        "duration": formatting.duration,
        "number": formatting.number,
        "rate": formatting.rate,
        "size": formatting.size,
        "span": formatting.span,
        "split_path": split_path,
        "stamp": formatting.stamp,
        "words": formatting.words,
    }
    environment.globals["times"] = times
    return environment


_ENVIRONMENT: Final = _environment()

#: All are compiled when this module is loaded: later, the files may be those of another version.
_TEMPLATES: Final = {
    name: _ENVIRONMENT.get_template(name) for name in _ENVIRONMENT.list_templates()
}


def render(template: str, **values: object) -> bytes:
    """The template with these values, which are escaped as HTML."""
    return _TEMPLATES[template].render(values).encode()
