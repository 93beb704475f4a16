"""Every option of the gateway: its name, type, default, bounds and meaning, once.

    options.py      `Settings`: the options outside all tables, and which tables there are
    tables/         one module for each table, such as `[access_log]`
      base.py       what the tables have in common
      values.py     types of values, such as a port, and their error messages
    environment.py  how options are named in the environment
    loading.py      reads a TOML file, and the environment, which overrides it
    positions.py    where in a TOML file each option is; origins.py: where each was set
    expected.py     the values that an option accepts, in words
    errors.py       error messages

The reference page, `.env.example` and the error messages are derived from these models.
"""

from sftp_gateway.settings.environment import ENV_FILE, env_file_options, variable
from sftp_gateway.settings.loading import (
    DEFAULT_CONFIG_FILE,
    config_path,
    load_settings,
    settings_without_file,
)
from sftp_gateway.settings.options import Settings
from sftp_gateway.settings.tables.access_log import AccessLogSettings
from sftp_gateway.settings.tables.history import HistorySettings
from sftp_gateway.settings.tables.penalties import PenaltySettings
from sftp_gateway.settings.tables.shares import FOLDER_VARIABLES, HUB_SHARE, ShareSettings
from sftp_gateway.settings.tables.status import SHORTEST_TOKEN, StatusSettings
from sftp_gateway.settings.tables.users import UserSettings, default_users

__all__ = [
    "DEFAULT_CONFIG_FILE",
    "ENV_FILE",
    "FOLDER_VARIABLES",
    "HUB_SHARE",
    "SHORTEST_TOKEN",
    "AccessLogSettings",
    "HistorySettings",
    "PenaltySettings",
    "Settings",
    "ShareSettings",
    "StatusSettings",
    "UserSettings",
    "config_path",
    "default_users",
    "env_file_options",
    "load_settings",
    "settings_without_file",
    "variable",
]
