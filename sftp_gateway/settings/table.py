"""What the tables of the configuration file have in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Table(BaseModel):
    """A table of the file: it cannot be changed, and has no options but those that it names."""

    model_config = ConfigDict(frozen=True, extra="forbid")
