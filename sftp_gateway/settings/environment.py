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

#: The file that docker-compose reads too; its lines SFTP_GATEWAY_... are the gateway's.
ENV_FILE: Final = Path(".env")


def variable(option: str) -> str:
    """The environment variable of `option`, such as `access_log.level`."""
    return ENV_PREFIX + option.replace(".", "__").upper()


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
