"""An unconfigured environment, and settings loaded in it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sftp_gateway.errors import ConfigurationError
from sftp_gateway.sandbox import landlock
from sftp_gateway.settings import Settings, load_settings

Load = Callable[..., Settings]
Errors = Callable[..., tuple[str, ...]]


@pytest.fixture
def unconfigured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory without environment variables."""
    folder = tmp_path / "unconfigured"
    folder.mkdir()
    monkeypatch.chdir(folder)
    for name in list(os.environ):
        if name.upper().startswith("SFTP_GATEWAY_"):
            monkeypatch.delenv(name)
    # So that what is said does not depend on the kernel.
    monkeypatch.setattr(landlock, "abi", lambda: landlock.NEWEST_ABI)
    return folder


@pytest.fixture
def reachable() -> Iterator[Path]:
    """A folder accessible to every user, unlike pytest's own."""
    with tempfile.TemporaryDirectory(dir="/tmp") as made:
        Path(made).chmod(0o755)
        yield Path(made)


@pytest.fixture
def load(unconfigured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Loads the settings from variables and, if given, the text of a file."""

    def from_text(text: str | None = None, **variables: str) -> Settings:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        file = None
        if text is not None:
            file = tmp_path / "given.toml"
            file.write_text(text)
        return load_settings(file, os.environ)

    return from_text


@pytest.fixture
def errors(load: Load) -> Errors:
    """The error messages of an invalid configuration."""

    def of(text: str | None = None, **variables: str) -> tuple[str, ...]:
        with pytest.raises(ConfigurationError) as raised:
            load(text, **variables)
        assert str(raised.value) == "\n".join(raised.value.errors)
        return raised.value.errors

    return of
