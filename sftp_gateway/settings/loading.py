"""Reads the options: from a TOML file, and before it from the environment."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from pydantic import ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    TomlConfigSettingsSource,
)

from sftp_gateway.errors import ConfigurationError
from sftp_gateway.settings.environment import CONFIG_VARIABLE
from sftp_gateway.settings.mistakes import unknown_variables, wrong_options
from sftp_gateway.settings.options import Settings

DEFAULT_CONFIG_FILE: Final = Path("config/sftp-gateway.toml")


def load_settings(config_file: Path | None, environ: Mapping[str, str]) -> Settings:
    """Read the options from `config_file` and the process's environment.

    Without `config_file`, the file that SFTP_GATEWAY_CONFIG names is read, or
    config/sftp-gateway.toml if it exists.

    Raises ConfigurationError with every mistake at once.
    """
    named = _named_file(config_file, environ)
    file = named or DEFAULT_CONFIG_FILE
    mistakes = unknown_variables(environ)
    if named is not None and not named.is_file():
        mistakes.append(f"{named}: there is no such configuration file")

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


def _from_file(file: Path) -> type[Settings]:
    """Settings that take from `file` what the environment does not say."""

    class FromFile(Settings):
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
