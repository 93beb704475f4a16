"""Every option can be set in the file and in the environment."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, SecretStr

from sftp_gateway.settings import (
    AccessLogSettings,
    HistorySettings,
    PenaltySettings,
    Settings,
    ShareSettings,
    StatusSettings,
    UserSettings,
    variable,
)
from tests.unit.conftest import Errors, Load

#: A non-default value per option: its text in the environment, and the parsed value.
OPTIONS: dict[str, tuple[str, Any]] = {
    "host": ("192.0.2.1", "192.0.2.1"),
    "port": ("2022", 2022),
    "public_host": ("files.example.org", "files.example.org"),
    "public_port": ("22", 22),
    "keys_dir": ("/srv/keys", Path("/srv/keys")),
    "auto_setup": ("false", False),
    "auto_reload": ("false", False),
    "end_sessions_of_removed_keys": ("false", False),
    "defaults": ("false", False),
    "users": (
        '{"ana": {"shares": ["models"], "password_hash_file": "/run/secrets/ana", '
        '"allow_from": ["192.0.2.0/24"], "max_sessions": 3, "bandwidth_limit": 1000000}}',
        {
            "ana": UserSettings(
                shares=("models",),
                password_hash_file=Path("/run/secrets/ana"),
                allow_from=("192.0.2.0/24",),
                max_sessions=3,
                bandwidth_limit=1_000_000,
            )
        },
    ),
    "shares": (
        '{"a/b": {"path": "/srv/b", "links": "dereference"}}',
        {"a/b": ShareSettings(path=Path("/srv/b"), links="dereference")},
    ),
    "show_uid": ("1000", 1000),
    "disk_timeout": ("1.5", 1.5),
    "show_gid": ("1001", 1001),
    "show_mode": ("read-only", "read-only"),
    "access_log": ('{"capacity": 200}', AccessLogSettings(capacity=200)),
    "access_log.level": ("requests", "requests"),
    "access_log.stdout": ("false", False),
    "access_log.file": ("/var/log/access.log", Path("/var/log/access.log")),
    "access_log.overflow": ("drop", "drop"),
    "access_log.capacity": ("500", 500),
    "access_log.file_max_bytes": ("1000000", 1_000_000),
    "access_log.file_keep": ("7", 7),
    "access_log.file_max_age": ("90", 90.0),
    "history": ('{"max_size": 8}', HistorySettings(max_size=8)),
    "history.enabled": ("false", False),
    "history.file": ("/var/lib/history", Path("/var/lib/history")),
    "history.max_age": ("0.5", 0.5),
    "history.max_size": ("64", 64),
    "status": ('{"enabled": false}', StatusSettings(enabled=False)),
    "status.enabled": ("false", False),
    "status.token": ("0123456789abcdef", SecretStr("0123456789abcdef")),
    "status.token_file": ("/run/secrets/status", Path("/run/secrets/status")),
    "metrics_host": ("0.0.0.0", "0.0.0.0"),
    "metrics_port": ("9999", 9999),
    "metrics_allowed_hosts": ('["gateway.example.org"]', ("gateway.example.org",)),
    "record_layer": ("asyncssh", "asyncssh"),
    "nist_curves": ("true", True),
    "landlock": ("require", "require"),
    "ciphers": ('["aes256-ctr", "aes128-ctr"]', ("aes256-ctr", "aes128-ctr")),
    "rekey_limit": ("16777216", 16_777_216),
    "login_grace_time": ("12.5", 12.5),
    "max_auth_tries": ("2", 2),
    "keepalive_interval": ("7.5", 7.5),
    "keepalive_count_max": ("9", 9),
    "workers": ("3", 3),
    "max_connections": ("10", 10),
    "max_connections_per_source": ("11", 11),
    "max_startups": ("10:30:60", "10:30:60"),
    "max_startups_per_source": ("12", 12),
    "max_sessions_per_user": ("13", 13),
    "source_ipv4_prefix": ("24", 24),
    "source_ipv6_prefix": ("56", 56),
    "allow_from": ('["192.0.2.0/24", "2001:db8::1"]', ("192.0.2.0/24", "2001:db8::1")),
    "penalties": ('{"minimum": 7}', PenaltySettings(minimum=7.0)),
    "penalties.enabled": ("false", False),
    "penalties.failed_login": ("2", 2.0),
    "penalties.unknown_user": ("3", 3.0),
    "penalties.no_attempt": ("0", 0.0),
    "penalties.grace_exceeded": ("4", 4.0),
    "penalties.protocol_error": ("6", 6.0),
    "penalties.crash": ("8", 8.0),
    "penalties.minimum": ("15", 15.0),
    "penalties.maximum": ("3600", 3600.0),
    "penalties.exempt": ('["198.51.100.0/24"]', ("198.51.100.0/24",)),
    "penalties.trust": ("60", 60.0),
    "penalties.trusted_rate": ("0.5", 0.5),
    "penalties.max_sources": ("1000", 1000),
    "penalties.overflow": ("deny-all", "deny-all"),
    "idle_timeout": ("3600", 3600.0),
    "max_handles": ("64", 64),
    "drain_timeout": ("0", 0.0),
}


def value_of(settings: BaseModel, option: str) -> Any:
    value: Any = settings
    for part in option.split("."):
        value = getattr(value, part)
    return value


def as_toml(value: Any) -> str:
    """The value in TOML; JSON is valid TOML except for objects."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {as_toml(v)}" for k, v in value.items()) + "}"
    return json.dumps(value)


def plain(option: str) -> Any:
    """The option's non-default value as a plain TOML value."""
    text, value = OPTIONS[option]
    return text if isinstance(value, str | Path | SecretStr) else json.loads(text)


def test_every_option_is_covered() -> None:
    names = set(Settings.model_fields)
    names |= {f"access_log.{name}" for name in AccessLogSettings.model_fields}
    names |= {f"history.{name}" for name in HistorySettings.model_fields}
    names |= {f"penalties.{name}" for name in PenaltySettings.model_fields}
    names |= {f"status.{name}" for name in StatusSettings.model_fields}
    assert set(OPTIONS) == names
    for option, (_, other) in OPTIONS.items():
        assert value_of(Settings(), option) != other


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_can_be_set_in_the_environment(load: Load, option: str) -> None:
    text, value = OPTIONS[option]
    others = {"SFTP_GATEWAY_SHARES": '{"models": {"path": "m"}}'} if option == "users" else {}
    if option in ("users", "shares"):
        others["SFTP_GATEWAY_DEFAULTS"] = "false"
    assert value_of(load(**{variable(option): text}, **others), option) == value


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_can_be_set_in_the_file(load: Load, option: str) -> None:
    table, _, name = option.rpartition(".")
    text = f"{f'[{table}]' if table else ''}\n{name} = {as_toml(plain(option))}\n"
    others = {}
    if option in ("users", "shares"):
        others["SFTP_GATEWAY_DEFAULTS"] = "false"
    if option == "users":
        text += '[shares.models]\npath = "m"\n'
    assert value_of(load(text, **others), option) == OPTIONS[option][1]


@pytest.mark.parametrize("option", OPTIONS)
def test_variable_names_ignore_case(load: Load, option: str) -> None:
    text, value = OPTIONS[option]
    if option in ("users", "shares"):  # the default ones stay
        value = {**value_of(Settings(), option), **value}
    assert value_of(load(**{variable(option).lower(): text}), option) == value


def test_the_environment_overrides_the_file(load: Load) -> None:
    text = 'port = 1\nhost = "file"\n[access_log]\nlevel = "requests"\ncapacity = 300\n'
    settings = load(text, SFTP_GATEWAY_PORT="2", SFTP_GATEWAY_ACCESS_LOG__CAPACITY="400")
    assert (settings.port, settings.host) == (2, "file")
    assert (settings.access_log.level, settings.access_log.capacity) == ("requests", 400)


def test_settings_can_be_pickled(load: Load) -> None:
    settings = load('[users.ana]\npassword_hash = "secret"\n', SFTP_GATEWAY_WORKERS="2")
    copy = pickle.loads(pickle.dumps(settings))  # noqa: S301 - this test's own
    assert copy == settings
    assert type(copy) is Settings
    assert copy.users["ana"].password_hash.get_secret_value() == "secret"


def test_a_password_from_the_environment_joins_a_user_of_the_file(load: Load) -> None:
    settings = load(
        '[users.ana]\nshares = ["models"]\n', SFTP_GATEWAY_USERS__ANA__PASSWORD_HASH="$argon2id$x"
    )
    user = settings.users["ana"]
    assert user.shares == ("models",)
    assert user.password_hash is not None
    assert user.password_hash.get_secret_value() == "$argon2id$x"


@pytest.mark.parametrize("option", OPTIONS)
def test_an_empty_variable_is_ignored(load: Load, option: str) -> None:
    text = f"max_auth_tries = {Settings().max_auth_tries}\n"
    assert load(text, **{variable(option): ""}).model_dump() == Settings().model_dump()


def test_without_a_file_the_defaults_apply(load: Load) -> None:
    assert load().model_dump() == Settings().model_dump()
    assert list(Settings().users) == ["gvpocr"]
    assert Settings().users["gvpocr"].shares == "*"
    shares = Settings().shares
    assert list(shares) == ["Bhushanji", "newsletters", "models", ".cache/huggingface/hub"]
    assert [share.links for share in shares.values()] == [*["auto"] * 3, "dereference"]


def test_the_default_file_is_read_if_it_exists(load: Load, unconfigured: Path) -> None:
    (unconfigured / "config").mkdir()
    (unconfigured / "config/sftp-gateway.toml").write_text("port = 5\n")
    assert load().port == 5


def test_a_variable_names_the_file_and_an_argument_overrides_it(
    load: Load, unconfigured: Path
) -> None:
    (unconfigured / "other.toml").write_text("port = 6\n")
    assert load(SFTP_GATEWAY_CONFIG="other.toml").port == 6
    assert load("port = 7\n").port == 7


def test_the_default_user_and_shares_stay_beside_others(load: Load) -> None:
    settings = load('[users.ana]\n[shares.data]\npath = "d"\n')
    assert list(settings.users) == [*Settings().users, "ana"]
    assert list(settings.shares) == [*Settings().shares, "data"]


def test_the_default_user_and_shares_can_be_disabled_by_name(load: Load) -> None:
    settings = load("users.gvpocr = false\n[users.ana]\n[shares]\nmodels = false\n")
    assert list(settings.users) == ["ana"]
    assert list(settings.shares) == [name for name in Settings().shares if name != "models"]


def test_the_environment_can_disable_defaults_by_name(load: Load) -> None:
    settings = load("[users.ana]\n", SFTP_GATEWAY_USERS__GVPOCR="false")
    assert list(settings.users) == ["ana"]


def test_a_user_of_the_file_can_be_disabled(load: Load) -> None:
    assert list(load("users.ana = false\n").users) == ["gvpocr"]


def test_a_table_overrides_single_options_of_a_default_share(load: Load) -> None:
    hub = ".cache/huggingface/hub"
    share = load(f'[shares."{hub}"]\npath = "/data/hub"\n').shares[hub]
    assert share == ShareSettings(path=Path("/data/hub"), links="dereference")


def test_disabled_defaults_leave_only_named_users_and_shares(load: Load) -> None:
    settings = load('defaults = false\n[users.ana]\n[shares.models]\npath = "d"\n')
    assert list(settings.users) == ["ana"]
    assert settings.shares == {"models": ShareSettings(path=Path("d"))}


@pytest.mark.parametrize("kind", ["directory", "fifo", "dangling link"])
def test_an_irregular_default_file_is_an_error(
    errors: Errors, unconfigured: Path, kind: str
) -> None:
    path = unconfigured / "config/sftp-gateway.toml"
    path.parent.mkdir()
    match kind:
        case "directory":
            path.mkdir()
        case "fifo":
            os.mkfifo(path)
        case _:
            path.symlink_to("nowhere")
    (message,) = errors()
    assert message.startswith("config/sftp-gateway.toml: ")
    assert message.endswith(("it is not a regular file", "there is no such file"))


def test_settings_are_immutable() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings().port = 1  # type: ignore[misc]
    with pytest.raises(ValueError, match="frozen"):
        Settings().users["gvpocr"].shares = ()  # type: ignore[misc]
