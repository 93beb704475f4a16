"""Every key of any TOML document is located at its position."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sftp_gateway.settings.positions import Path, positions

#: Syntax that is plain text within strings.
SNIPPETS = "a=#[]{},.'\"\\\n \u00e9\U0001f511"

bare = st.sampled_from(["a", "b", "c", "1", "a-b", "_"])
text = st.lists(st.sampled_from(SNIPPETS), max_size=6).map("".join)
space = st.sampled_from(["", " ", "\t "])
gap = st.sampled_from(["", "\n", "# a = [1] '''\n", " \t\n\n"])


def basic(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)


@st.composite
def key_part(draw: st.DrawFn) -> str:
    if draw(st.booleans()):
        return draw(bare)
    plain = draw(text).replace("\n", "")
    if "'" not in plain and draw(st.booleans()):
        return f"'{plain}'"
    return basic(plain)


@st.composite
def key(draw: st.DrawFn) -> str:
    parts = draw(st.lists(key_part(), min_size=1, max_size=3))
    return f"{draw(space)}.{draw(space)}".join(parts)


@st.composite
def string(draw: st.DrawFn) -> str:
    value = draw(text)
    kind = draw(st.sampled_from(["basic", "literal", "multi-line", "multi-line literal"]))
    if kind == "literal" and not {"'", "\n"} & set(value):
        return f"'{value}'"
    if kind == "multi-line literal" and "'" not in value:
        return f"'''{value}''{draw(st.sampled_from(['', ' ']))}'''"
    if kind == "multi-line":
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"""{escaped}{draw(st.sampled_from(["", chr(34), chr(34) * 2]))}"""'
    return basic(value)


scalar = st.one_of(
    string(),
    st.sampled_from(["1", "-0.5e3", "true", "inf", "1979-05-27 07:32:00Z", "07:32:00", "0xff"]),
)


@st.composite
def array(draw: st.DrawFn, values: st.SearchStrategy[str]) -> str:
    items = draw(st.lists(values, max_size=3))
    body = f",{draw(gap)}".join(f"{draw(gap)}{item}{draw(gap)}" for item in items)
    return f"[{body}{',' if items and draw(st.booleans()) else ''}{draw(gap)}]"


@st.composite
def inline(draw: st.DrawFn, values: st.SearchStrategy[str]) -> str:
    pairs = draw(st.lists(st.tuples(key(), values), max_size=3))
    return "{" + ", ".join(f"{draw(space)}{k}{draw(space)}= {v} " for k, v in pairs) + "}"


value = st.recursive(scalar, lambda inner: st.one_of(array(inner), inline(inner)), max_leaves=6)


@st.composite
def statement(draw: st.DrawFn) -> str:
    name = draw(key())
    line = draw(
        st.one_of(
            st.just(f"[{draw(space)}{name}{draw(space)}]"),
            st.just(f"[[{name}]]"),
            value.map(lambda each: f"{name}{draw(space)}={draw(space)}{each}"),
        )
    )
    comment = draw(st.sampled_from(["", " # [b]", "\t"]))
    return f"{draw(space)}{line}{comment}\n{draw(gap)}"


@st.composite
def document(draw: st.DrawFn) -> str:
    """A valid document: statements that TOML does not allow there are omitted."""
    made = draw(gap)
    for each in draw(st.lists(statement(), max_size=12)):
        try:
            tomllib.loads(made + each)
        except tomllib.TOMLDecodeError:
            continue
        made += each
    return made


def paths(value: Any, path: Path = ()) -> Iterator[Path]:
    """Every path into the parsed document."""
    members: Any = ()
    if isinstance(value, dict):
        members = value.items()
    elif isinstance(value, list):
        members = enumerate(value)
    for name, member in members:
        yield (*path, name)
        yield from paths(member, (*path, name))


def check(source: str) -> None:
    read = tomllib.loads(source)
    found = positions(source)
    assert found.keys() == set(paths(read))
    lines = source.split("\n")
    for path, (line, column) in found.items():
        rest = "\n".join([lines[line - 1][column - 1 :], *lines[line:]])
        name = path[-1]
        if isinstance(name, str):
            assert rest.startswith((name, basic(name), f"'{name}'"))


@settings(max_examples=300)
@given(document())
def test_every_key_of_a_document_is_located(source: str) -> None:
    check(source)


@pytest.mark.parametrize(
    ("source", "path", "position"),
    [
        ("a = 1\n", ("a",), (1, 1)),
        ("# [b]\n\n  a = 1", ("a",), (3, 3)),
        ("a . 'b c'. \"d\\u0065\" = 1", ("a", "b c", "de"), (1, 12)),
        ("[x]\n[x.y]\na = 1", ("x", "y", "a"), (3, 1)),
        ("[x.y]\n[x]\na = 1", ("x",), (1, 2)),
        ("a = [\n  1, # [\n  [2,\n 3],\n]", ("a", 1, 1), (4, 2)),
        ("a = {b.c = 1, d = [{e = 2}]}", ("a", "d", 0, "e"), (1, 21)),
        ("[[a]]\nb = 1\n[[a]]\n[a.c]\nd = 2", ("a", 1, "c", "d"), (5, 1)),
        ("[[a]]\n[[a.b]]\n[[a.b]]\nc = 1", ("a", 0, "b", 1, "c"), (4, 1)),
        ('a = """\nb = 1\n"""""\nc = 2', ("c",), (4, 1)),
        ("a = '''x\n'b = 1'''\nc = 2", ("c",), (3, 1)),
        ("a = 1979-05-27 07:32:00 # b\nc = 1", ("c",), (2, 1)),
    ],
)
def test_a_key_is_located(source: str, path: Path, position: tuple[int, int]) -> None:
    assert positions(source)[path] == position
    assert positions(source).keys() == set(paths(tomllib.loads(source)))
