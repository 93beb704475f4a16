"""Merges another server's authorized_keys files into one of the gateway's, as text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from sftp_gateway.auth.keys.authorized_keys import AuthorizedKey, parse_authorized_keys
from sftp_gateway.auth.keys.keyring import key_lines

_AROUND: Final = " \t\r\ufeff"


@dataclass(frozen=True, slots=True)
class SourceFile:
    """The name and text of a file from the other server."""

    name: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportResult:
    """The result for one line; `key` is None if refused, `said` is the reason or a remark."""

    file: str
    line: int
    outcome: Literal["added", "there already", "refused"]
    key: AuthorizedKey | None = None
    said: str = ""


def merge_keys(text: str, files: Iterable[SourceFile]) -> tuple[str, list[ImportResult]]:
    """Append the keys that `text` lacks; return the new text and a result for each line of `files`.

    Lines keep their options and comments, and the comment lines above them. Keys already in `text`
    keep their options, so that access restricted or expired since is not restored.
    """
    ours: dict[bytes, list[AuthorizedKey]] = {}
    for _, key in key_lines(text):
        ours.setdefault(key.blob, []).append(key)
    added: dict[AuthorizedKey, str] = {}
    results: list[ImportResult] = []
    taken: list[str] = []
    for file in files:
        above: list[str] = []
        for number, raw in enumerate(file.text.split("\n"), start=1):
            line = raw.strip(_AROUND)
            if not line:
                continue
            if line.startswith("#"):
                above.append(line)
                continue
            result = _import_line(file.name, number, line, ours, added)
            if result.outcome == "added" and result.key is not None:
                added[result.key] = f"{file.name}, line {number}"
                taken += [*above, line]
            results.append(result)
            above = []
    return _appended(text, taken), results


def _import_line(
    file: str,
    number: int,
    line: str,
    ours: dict[bytes, list[AuthorizedKey]],
    added: dict[AuthorizedKey, str],
) -> ImportResult:
    parsed = parse_authorized_keys(line, source="it")
    if parsed.errors:
        why = parsed.errors[0].partition(": ")[2]
        return ImportResult(file=file, line=number, outcome="refused", said=why)
    (key,) = parsed.keys
    same = next((where for other, where in added.items() if _alike(key, other)), None)
    if key.blob not in ours and same is None:
        return ImportResult(file=file, line=number, outcome="added", key=key)
    if same is not None:
        said = f"the same as {same}"
    elif any(_alike(key, there) for there in ours[key.blob]):
        said = ""
    else:
        said = "with other options, which are left as they are"
    return ImportResult(file=file, line=number, outcome="there already", key=key, said=said)


def _alike(one: AuthorizedKey, other: AuthorizedKey) -> bool:
    """Whether two lines grant the same access; comments are ignored."""
    return _conditions(one) == _conditions(other)


def _conditions(key: AuthorizedKey) -> tuple[object, ...]:
    sources = None if key.sources is None else key.sources.text
    return key.blob, sources, key.expires, key.authority, key.principals


def _appended(text: str, lines: Sequence[str]) -> str:
    if not lines:
        return text
    ended = text if not text or text.endswith("\n") else text + "\n"
    return ended + "".join(f"{line}\n" for line in lines)
