"""Reads options from a TOML file and from the environment, which overrides it."""

from __future__ import annotations

import errno
import stat
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from sftp_gateway.errors import ConfigurationError
from sftp_gateway.settings.environment import (
    COMPOSE_VARIABLE,
    CONFIG_VARIABLE,
    ENV_FILE,
    ENV_PREFIX,
    env_file_options,
)
from sftp_gateway.settings.errors import (
    Diagnostic,
    close_to,
    not_json,
    not_toml,
    unknown_variable,
    unnoticed,
    wrong_options,
)
from sftp_gateway.settings.options import Settings, default_tables
from sftp_gateway.settings.origins import Layer, Place, origins, paths
from sftp_gateway.settings.positions import positions

_NO_OPTIONS: Final = frozenset({CONFIG_VARIABLE, COMPOSE_VARIABLE})

DEFAULT_CONFIG_FILE: Final = Path("config/sftp-gateway.toml")


class _Variables(Settings, BaseSettings):
    """The names and types of the options, for pydantic-settings."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, env_nested_delimiter="__")


def load_settings(config_file: Path | None, environ: Mapping[str, str]) -> Settings:
    """Read the options from `config_file` and from `environ`, which overrides it.

    Without `config_file`, the file that SFTP_GATEWAY_CONFIG names is read, or
    config/sftp-gateway.toml if it exists.

    Raises ConfigurationError with all errors.
    """
    errors: list[Diagnostic] = []
    return _settings(_file(config_file, environ, errors), environ, errors)


def settings_without_file(environ: Mapping[str, str]) -> Settings:
    """The options from `environ` and the defaults only. Raises ConfigurationError."""
    return _settings(Layer(), environ, [])


def _settings(file: Layer, environ: Mapping[str, str], errors: list[Diagnostic]) -> Settings:
    environment = _environment(environ, errors)
    both = file.under(environment)
    settings = None
    try:
        settings = Settings(**_with_defaults(both.values))
    except ValidationError as error:
        errors += wrong_options(error, both, alone=False)
    if file.values.keys() & environment.values.keys():
        # Check the overridden options of the file too.
        try:
            Settings(**_with_defaults(file.values))
        except ValidationError as error:
            errors += wrong_options(error, file, alone=True)
    errors += [*unnoticed(file), *unnoticed(environment)]
    if errors or settings is None:
        raise ConfigurationError([*dict.fromkeys(str(each) for each in sorted(errors))])
    return settings.set_by(origins(file, environment, environ))


def config_path(config_file: Path | None, environ: Mapping[str, str]) -> Path:
    """The path that `load_settings` reads; the file need not exist."""
    named = environ.get(CONFIG_VARIABLE)
    return config_file or (Path(named) if named else DEFAULT_CONFIG_FILE)


def _file(config_file: Path | None, environ: Mapping[str, str], errors: list[Diagnostic]) -> Layer:
    path = config_path(config_file, environ)
    try:
        text = _read(path).decode().replace("\r\n", "\n")
    except (OSError, UnicodeDecodeError) as error:
        if isinstance(error, UnicodeDecodeError):
            line = error.object[: error.start].count(b"\n") + 1
            errors.append(Diagnostic(Place(str(path), line), "not text in UTF-8; save it as such"))
        elif config_file is not None or environ.get(CONFIG_VARIABLE):
            by = "--config" if config_file is not None else CONFIG_VARIABLE
            errors.append(Diagnostic(Place(variable=by), f"{path}: {_why_unread(error)}"))
        elif not isinstance(error, FileNotFoundError) or path.is_symlink():
            errors.append(Diagnostic(Place(str(path)), _why_unread(error)))
        return Layer()
    try:
        values = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        errors.append(not_toml(str(path), text, error))
        return Layer()
    places = {at: Place(str(path), *position) for at, position in positions(text).items()}
    return Layer(values, places)


def _read(path: Path) -> bytes:
    """Read a regular file; reading a fifo would never end.

    Docker creates a folder in place of a missing file that it is to mount. Neither that nor a
    dangling link may pass for an empty configuration.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file")
    return path.read_bytes()


def _why_unread(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    return f"cannot be read: {error.strerror}"


def _with_defaults(given: Mapping[str, Any]) -> dict[str, Any]:
    """`given` with the default user and shares, without those that are switched off by name.

    A name that is switched off but resembles a default is kept, to be reported as an error.
    """
    wanted = _is_true(given.get("defaults", True))
    result = dict(given)
    for table, defaults in default_tables().items():
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
    """As pydantic parses it; other values are reported elsewhere."""
    try:
        return TypeAdapter(bool).validate_python(value)
    except ValidationError:
        return True


def _environment(environ: Mapping[str, str], errors: list[Diagnostic]) -> Layer:
    """The options from variables; one for a part of a table overrides one for all of it."""
    in_file = env_file_options()
    source = EnvSettingsSource(_Variables)
    layer = Layer()
    for name in sorted(environ, key=lambda name: (name.count("__"), name)):
        if not name.upper().startswith(ENV_PREFIX) or name.upper() in _NO_OPTIONS:
            continue
        value, line = in_file.get(name, ("", 0))
        from_file = line and value == environ[name]
        place = Place(str(ENV_FILE), line, variable=name) if from_file else Place(variable=name)
        if unknown := unknown_variable(name, place):
            errors.append(unknown)
        elif environ[name]:  # an empty variable counts as unset
            source.env_vars = {name.lower(): environ[name]}
            try:
                values = source()
            except (SettingsError, RecursionError):
                errors.append(not_json(name, environ[name], place))
                continue
            depth = name.count("__") + 1
            places = {at: place for at in paths(values) if len(at) >= depth}
            layer = layer.under(Layer(values, places))
    return layer
