"""Parses an Alloy file and applies its loki.process stages to lines, as documented.

Supports the syntax and stages that our file uses; anything else is an error.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

_TOKENS = re.compile(
    r"""\s*(?:(?P<comment>//[^\n]*)|(?P<string>"(?:[^"\\]|\\.)*")"""
    r"""|(?P<name>[A-Za-z_][\w.]*)|(?P<mark>[{}\[\],=]))"""
)


@dataclass
class Block:
    """`name "label" { attributes and blocks }`"""

    name: str
    label: str = ""
    attributes: dict[str, Any] = field(default_factory=dict)
    blocks: list[Block] = field(default_factory=list)

    def only(self, name: str, label: str = "") -> Block:
        [found] = [b for b in self.blocks if b.name == name and b.label == label]
        return found


@dataclass
class Entry:
    """A line on its way to Loki."""

    line: str
    labels: dict[str, str]
    timestamp: str = ""
    extracted: dict[str, Any] = field(default_factory=dict)


def parse(text: str) -> Block:
    """Parse the file into an unnamed block."""
    tokens = list(_tokens(text))
    root = Block("")
    while tokens:
        _statement(tokens, root)
    return root


def process(stages: list[Block], entry: Entry) -> Entry:
    """Apply stages to a line (see the reference of loki.process)."""
    for stage in stages:
        match stage.name:
            case "stage.json":
                data = json.loads(entry.line)
                for name, expression in stage.attributes["expressions"].items():
                    # Empty: the field of that name. JMESPath of a plain name is that field.
                    wanted = expression or name
                    assert re.fullmatch(r"[a-z_]+", wanted), wanted
                    entry.extracted[name] = data.get(wanted)
            case "stage.timestamp":
                assert stage.attributes["format"] == "RFC3339Nano"
                value = entry.extracted[stage.attributes["source"]]
                # Go's 2006-01-02T15:04:05.999999999Z07:00: any number of digits, and a zone.
                shape = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)"
                assert re.fullmatch(shape, value), value
                entry.timestamp = value
            case "stage.labels":
                for label, source in stage.attributes["values"].items():
                    # What is not there or null becomes no label.
                    if (value := entry.extracted.get(source or label)) is not None:
                        entry.labels[label] = str(value)
            case "stage.label_drop":
                for label in stage.attributes["values"]:
                    entry.labels.pop(label, None)
            case _:
                raise AssertionError(f"a stage that this test does not know: {stage.name}")
    return entry


def _tokens(text: str) -> Iterator[str]:
    at = 0
    while at < len(text.rstrip()):
        found = _TOKENS.match(text, at)
        assert found, f"no Alloy: {text[at : at + 40]!r}"
        at = found.end()
        if found.lastgroup != "comment":
            yield found[found.lastgroup or 0]


def _statement(tokens: list[str], into: Block) -> None:
    name = tokens.pop(0)
    if tokens[0] == "=":
        tokens.pop(0)
        into.attributes[name] = _value(tokens)
        return
    block = Block(name, json.loads(tokens.pop(0)) if tokens[0].startswith('"') else "")
    assert tokens.pop(0) == "{", name
    while tokens[0] != "}":
        _statement(tokens, block)
    tokens.pop(0)
    into.blocks.append(block)


def _value(tokens: list[str]) -> Any:
    first = tokens.pop(0)
    if first == "[":
        listed = []
        while tokens[0] != "]":
            listed.append(_value(tokens))
            if tokens[0] == ",":
                tokens.pop(0)
        tokens.pop(0)
        return listed
    if first == "{":
        mapped = {}
        while tokens[0] != "}":
            key = tokens.pop(0).strip('"')
            assert tokens.pop(0) == "=", key
            mapped[key] = _value(tokens)
            if tokens[0] == ",":
                tokens.pop(0)
        tokens.pop(0)
        return mapped
    return json.loads(first) if first.startswith('"') else first
