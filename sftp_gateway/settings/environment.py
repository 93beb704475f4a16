"""How options are named in the environment, and in the file that adds to it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from dotenv.parser import parse_stream

from sftp_gateway.errors import ConfigurationError

ENV_PREFIX: Final = "SFTP_GATEWAY_"
#: Names the configuration file; not an option itself, because it says where options are.
CONFIG_VARIABLE: Final = "SFTP_GATEWAY_CONFIG"

#: What `.env` has for the variables that docker-compose.yml sets itself, as NAME=VALUE without the
#: prefix: only there can it be seen that they have no effect.
COMPOSE_VARIABLE: Final = "SFTP_GATEWAY_COMPOSE_SETS"
#: Variables of docker-compose.yml that publish what these would move within the container.
_PUBLISHED: Final = {
    "SFTP_GATEWAY_PORT": "SFTP_PORT",
    "SFTP_GATEWAY_PUBLIC_PORT": "SFTP_PORT",
    "SFTP_GATEWAY_METRICS_PORT": "METRICS_PORT",
}

#: The file that docker-compose reads too; its lines SFTP_GATEWAY_... are the gateway's.
ENV_FILE: Final = Path(".env")


def variable(option: str) -> str:
    """The environment variable of `option`, such as `access_log.level`."""
    return ENV_PREFIX + option.replace(".", "__").upper()


def set_by_compose(environ: Mapping[str, str]) -> Mapping[str, str]:
    """What `.env` has for each variable that docker-compose.yml sets; "" if it has none."""
    pairs = (pair.partition("=") for pair in environ.get(COMPOSE_VARIABLE, "").split())
    return {ENV_PREFIX + name: value for name, _, value in pairs}


def why_overridden(name: str, environ: Mapping[str, str]) -> str:
    """Why another value than the variable's has no effect, and what to do about it."""
    if name not in set_by_compose(environ):
        return f"because {name} overrides it"
    advice = f"; {_PUBLISHED[name]} in .env is the published port" if name in _PUBLISHED else ""
    return f"because docker-compose.yml sets {name}={environ.get(name, '')}{advice}"


def env_file_options() -> Mapping[str, tuple[str, int]]:
    """The value of each of the gateway's variables in the working folder's `.env`, and its line.

    Quotes and comments are docker-compose's. Raises ConfigurationError if it cannot be read.
    """
    options = {}
    try:
        with ENV_FILE.open(encoding="utf-8", errors="replace") as file:
            for binding in parse_stream(file):
                if binding.key and binding.key.startswith(ENV_PREFIX) and binding.value is not None:
                    blank = len(binding.original.string) - len(binding.original.string.lstrip())
                    line = binding.original.line + binding.original.string[:blank].count("\n")
                    options[binding.key] = (binding.value, line)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise ConfigurationError([f"{ENV_FILE}: cannot be read: {error.strerror}"]) from error
    return options
