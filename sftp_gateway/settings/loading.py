"""Reads the options: from a TOML file, and before it from the environment."""

from __future__ import annotations

import os
import stat
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    TomlConfigSettingsSource,
)

from sftp_gateway.errors import ConfigurationError
from sftp_gateway.settings.environment import CONFIG_VARIABLE
from sftp_gateway.settings.mistakes import close_to, unknown_variables, wrong_options
from sftp_gateway.settings.options import Settings
from sftp_gateway.settings.shares import default_shares
from sftp_gateway.settings.table import Table
from sftp_gateway.settings.users import default_users

DEFAULT_CONFIG_FILE: Final = Path("config/sftp-gateway.toml")


def load_settings(config_file: Path | None, environ: Mapping[str, str]) -> Settings:
    """Read the options from `config_file` and the process's environment.

    Without `config_file`, the file that SFTP_GATEWAY_CONFIG names is read, or
    config/sftp-gateway.toml if it exists.

    Raises ConfigurationError with every mistake at once.
    """
    file = config_path(config_file, environ)
    mistakes = unknown_variables(environ)
    mistakes += _unreadable(file, named=_named_file(config_file, environ) is not None)

    try:
        loaded = _from_file(file)()
    except ValidationError as error:
        mistakes += wrong_options(error)
    except tomllib.TOMLDecodeError as error:
        mistakes.append(f"{file}: not valid TOML: {error}")
    except (OSError, UnicodeDecodeError) as error:
        mistakes.append(f"{file}: cannot be read: {error}")
    except ValueError as error:  # pydantic-settings: a variable that should hold JSON does not
        mistakes.append(f"environment: {error}")
    if mistakes:
        raise ConfigurationError(mistakes)
    # A plain Settings, which another process can be handed: a local class cannot be pickled.
    return Settings.model_construct(
        **{name: getattr(loaded, name) for name in Settings.model_fields}
    )


def config_path(config_file: Path | None, environ: Mapping[str, str]) -> Path:
    """The file that `load_settings` reads, which need not be there."""
    return _named_file(config_file, environ) or DEFAULT_CONFIG_FILE


def _named_file(config_file: Path | None, environ: Mapping[str, str]) -> Path | None:
    named = environ.get(CONFIG_VARIABLE)
    return config_file or (Path(named) if named else None)


def _unreadable(file: Path, *, named: bool) -> list[str]:
    """A sentence if the configuration file is not a file, or is missing and was `named`.

    A folder is what Docker makes of a file that it is to mount and that is missing; neither that
    nor a link to nothing may pass for a configuration that says nothing.
    """
    try:
        regular = stat.S_ISREG(os.stat(file).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        missing = named or file.is_symlink()
        return [f"{file}: there is no such configuration file"] if missing else []
    except OSError as error:
        return [f"{file}: cannot be read: {error.strerror}"]
    return [] if regular else [f"{file}: is not a file, so there is no such configuration file"]


def _with_defaults(given: dict[str, Any]) -> dict[str, Any]:
    """`given` with the default user and shares; without those that are switched off by name.

    What is switched off and looks like the misspelt name of a default stays, as a mistake.
    """
    all_of_them: Mapping[str, Mapping[str, Table]] = {
        "users": default_users(),
        "shares": default_shares(),
    }
    wanted = _is_true(given.get("defaults", True))
    result = dict(given)
    for table, defaults in all_of_them.items():
        named = given.get(table, {})
        if not isinstance(named, dict):
            continue
        kept = {name: each.model_dump(exclude_unset=True) for name, each in defaults.items()}
        merged = {name: named.get(name, {}) for name in (*(kept if wanted else ()), *named)}
        result[table] = {
            name: {**kept.get(name, {}), **value} if isinstance(value, dict) and wanted else value
            for name, value in merged.items()
            if value is not False or (name not in kept and close_to(name, kept))
        }
    return result


def _is_true(value: object) -> bool:
    """As pydantic takes it; what is neither is told elsewhere."""
    try:
        return TypeAdapter(bool).validate_python(value)
    except ValidationError:
        return True


def _from_file(file: Path) -> type[Settings]:
    """Settings that take from `file` what the environment does not say."""

    class FromFile(Settings):
        @model_validator(mode="before")
        @classmethod
        def _add_defaults(cls, given: dict[str, Any]) -> dict[str, Any]:
            return _with_defaults(given)

        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return env_settings, TomlConfigSettingsSource(settings_cls, file)

    return FromFile
