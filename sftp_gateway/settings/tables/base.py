"""The base class of the configuration file's tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict


class Table(BaseModel):
    """A table of the file; immutable, and without unknown options."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @property
    def changed(self) -> dict[str, Any]:
        """The options that differ from their defaults, as JSON values.

        In a table of names, false stands for a default entry that has been removed.
        """
        dumped = self.model_dump(mode="json")
        changed = {}
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            default = None if field.is_required() else field.get_default(call_default_factory=True)
            if field.is_required() or value != default:
                changed[name] = _changed(value, default, dumped[name])
        return changed


def _changed(value: Any, default: Any, dumped: Any) -> Any:
    if isinstance(value, Table):
        return value.changed
    if isinstance(value, Mapping):
        missing: dict[str, Any] = dict.fromkeys(default.keys() - value.keys(), False)
        return missing | {
            name: _changed(each, None, dumped[name])
            for name, each in value.items()
            if each != default.get(name)
        }
    return dumped
