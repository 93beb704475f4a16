"""How options are named in the environment."""

from __future__ import annotations

from typing import Final

ENV_PREFIX: Final = "SFTP_GATEWAY_"
#: Names the configuration file; not an option itself, because it says where options are.
CONFIG_VARIABLE: Final = "SFTP_GATEWAY_CONFIG"


def variable(option: str) -> str:
    """The environment variable of `option`, such as `access_log.level`."""
    return ENV_PREFIX + option.replace(".", "__").upper()
