"""What the tables of the configuration file have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict


class Table(BaseModel):
    """A table of the file: it cannot be changed, and has no options but those that it names."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @property
    def changed(self) -> dict[str, Any]:
        """The options that have another value than their default, as JSON has them.

        Of a list of tables that is not the default one, each table is there.
        """
        dumped = self.model_dump(mode="json")
        changed = {}
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            if field.is_required() or value != field.get_default(call_default_factory=True):
                changed[name] = _changed(value, dumped[name])
        return changed


def _changed(value: Any, dumped: Any) -> Any:
    if isinstance(value, Table):
        return value.changed
    if isinstance(value, Mapping):
        return {name: _changed(each, dumped[name]) for name, each in value.items()}
    return dumped
