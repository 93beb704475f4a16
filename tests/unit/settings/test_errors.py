"""Every error names its option and location, and never repeats a possible secret.

The exact wording is tested in test_golden.py.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from sftp_gateway.auth import hash_password
from sftp_gateway.errors import ConfigurationError
from sftp_gateway.settings import load_settings, variable
from tests.unit.conftest import Errors, Load


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("port", "ssh"),
        ("port", "65536"),
        ("port", "-1"),
        ("public_port", "1.5"),
        ("auto_setup", "perhaps"),
        ("show_uid", "-1"),
        ("show_gid", "4294967296"),
        ("access_log.level", "everything"),
        ("access_log.stdout", "2"),
        ("access_log.overflow", "wait"),
        ("access_log.capacity", "99"),
        ("access_log.file_max_bytes", "65535"),
        ("metrics_port", "http"),
        ("ciphers", "aes256-ctr"),
        ("ciphers", "[]"),
        ("ciphers", "[1]"),
        ("login_grace_time", "0"),
        ("login_grace_time", "nan"),
        ("max_auth_tries", "0"),
        ("keepalive_interval", "inf"),
        ("keepalive_count_max", "101"),
        ("rekey_limit", "1048575"),
        ("rekey_limit", "68719476737"),
        ("workers", "0"),
        ("workers", "65"),
        ("workers", "1.5"),
        ("workers", "many"),
        ("max_connections", "0"),
        ("max_handles", "15"),
        ("drain_timeout", "-0.1"),
    ],
)
def test_an_error_names_its_variable_once(errors: Errors, option: str, text: str) -> None:
    (message,) = errors(**{variable(option): text})
    assert message.startswith(f"{variable(option)}: must be ")


def test_an_error_shows_the_expected_and_the_given_value(errors: Errors) -> None:
    (message,) = errors('[access_log]\nlevel = "everything"\n')
    assert message.endswith(
        'given.toml:2:1: access_log.level: must be "files" or "requests", not "everything"'
    )
    (message,) = errors("max_handles = 1000000\n")
    assert message.endswith("must be a whole number from 16 to 65536, not 1000000")


def test_every_error_is_reported_at_once(errors: Errors) -> None:
    messages = errors(
        'port = "x"\nunknown = 1\n[shares.a]\nlinks = "no"\n[users."a b"]\n',
        SFTP_GATEWAY_MAX_HANDLES="1",
        SFTP_GATEWAY_NONSENSE="1",
    )
    assert [re.sub(r".*toml:", "", each).split(": ")[:2] for each in messages] == [
        ["SFTP_GATEWAY_MAX_HANDLES", 'must be a whole number from 16 to 65536, not "1"'],
        ["SFTP_GATEWAY_NONSENSE", "unknown option; see docs/configuration.md"],
        ["1:1", "port"],
        ["2:1", "unknown"],
        ["3:9", "shares.a.path"],
        ["4:1", "shares.a.links"],
        ["5:8", "users.a b"],
    ]


@pytest.mark.parametrize(
    ("text", "option"),
    [
        ("prot = 1\n", "prot"),
        ("[access_log]\nfiel = 1\n", "access_log.fiel"),
        ("[users.ana]\npassword = 1\n", "users.ana.password"),
        ('[shares.a]\npath = "x"\nreadonly = true\n', "shares.a.readonly"),
        ("[metrics]\nport = 1\n", "metrics"),
    ],
)
def test_an_unknown_option_in_the_file_is_an_error(errors: Errors, text: str, option: str) -> None:
    (message,) = errors(text)
    assert f": {option}: unknown option" in message


@pytest.mark.parametrize(
    "name",
    [
        "SFTP_GATEWAY_PROT",
        "SFTP_GATEWAY_",
        "sftp_gateway_prot",
        "SFTP_GATEWAY_PORT__X",
        "SFTP_GATEWAY_CONFIG__X",
        "SFTP_GATEWAY_ACCESSLOG__LEVEL",
        "SFTP_GATEWAY___PORT",
    ],
)
def test_an_unknown_variable_is_an_error(errors: Errors, name: str) -> None:
    (message,) = errors(**{name: "1"})
    assert message.startswith(f"{name}: unknown option; ")


def test_an_unknown_part_of_a_variable_is_an_error(errors: Errors) -> None:
    (message,) = errors(SFTP_GATEWAY_ACCESS_LOG__LEVL="requests")
    assert message == (
        "SFTP_GATEWAY_ACCESS_LOG__LEVL: unknown option; "
        "did you mean SFTP_GATEWAY_ACCESS_LOG__LEVEL?"
    )


def test_variables_without_the_prefix_are_ignored(load: Load) -> None:
    load(SFTP_GATEWAYPORT="x", SFTP="y", MY_SFTP_GATEWAY_PROT="z")


@pytest.mark.parametrize(
    ("name", "why"),
    [("missing.toml", "there is no such file"), (".", "cannot be read: it is not a regular file")],
)
def test_a_file_named_by_a_variable_must_exist(errors: Errors, name: str, why: str) -> None:
    message = errors(SFTP_GATEWAY_CONFIG=name)
    assert message == (f"SFTP_GATEWAY_CONFIG: {Path(name)}: {why}",)


def test_a_file_named_on_the_command_line_must_exist(unconfigured: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"^--config: missing\.toml: there is no"):
        load_settings(Path("missing.toml"), os.environ)


@pytest.mark.parametrize(
    ("text", "option", "meant"),
    [
        ("users.gvpcor = false\n", "users.gvpcor", "gvpocr"),
        ("shares.bhushanji = false\n", "shares.bhushanji", "Bhushanji"),
    ],
)
def test_disabling_a_misspelt_name_is_an_error(
    errors: Errors, text: str, option: str, meant: str
) -> None:
    (message,) = errors(text)
    assert f":1:7: {option}: has nothing to switch off: " in message or ":1:8: " in message
    assert message.endswith(f"did you mean {meant}?")


@pytest.mark.parametrize(
    ("content", "line"),
    [(b"port = \n", "1:8"), (b"#\n[users\n", "2:7"), (b"\n\nhost = '\xff'\n", "3")],
)
def test_a_file_with_invalid_toml_is_an_error(
    unconfigured: Path, content: bytes, line: str
) -> None:
    (unconfigured / "bad.toml").write_bytes(content)
    with pytest.raises(ConfigurationError, match=rf"^bad\.toml:{line}: "):
        load_settings(Path("bad.toml"), os.environ)


def test_a_variable_with_invalid_json_is_an_error(errors: Errors) -> None:
    messages = errors(SFTP_GATEWAY_SHARES="a=/srv/a", SFTP_GATEWAY_ALLOW_FROM="x", prot="1")
    assert [*messages] == [
        'SFTP_GATEWAY_ALLOW_FROM: must be a list in JSON, such as ["x"]',
        'SFTP_GATEWAY_SHARES: must be an object in JSON, such as {"NAME": {"OPTION": "VALUE"}}',
    ]


@pytest.mark.parametrize("text", ["a = " + "[" * 5000, 'keys_dir = "a\\u0000b"\n'])
def test_values_beyond_the_libraries_limits_are_errors(errors: Errors, text: str) -> None:
    (message,) = errors(text)
    assert "nested too deeply" in message or ":1:1: keys_dir: has a null character" in message


def test_too_deeply_nested_json_is_an_error(errors: Errors) -> None:
    (message,) = errors(SFTP_GATEWAY_ALLOW_FROM="[" * 100_000)
    assert message.startswith("SFTP_GATEWAY_ALLOW_FROM: must be a list in JSON")


# Follow-ups


@pytest.mark.parametrize(
    "text",
    [
        'workers = "many"\n',
        "ciphers = [1, 2]\n",
        "allow_from = [1, 2]\n",
        "[users.ana]\nshares = [1, 2]\n",
        '[shares.a]\npaht = "/srv/a"\n',
        'shares.a = "/srv/a"\n',
        "users = [1, 2]\n",
        "max_connections = true\n",
        '[users.ana]\nshares = ["modles", "x"]\n',
    ],
)
def test_one_error_is_one_message(errors: Errors, text: str) -> None:
    (message,) = errors(text)
    assert re.search(r"given\.toml:\d+:\d+: ", message)


def test_each_invalid_item_of_a_list_is_reported(errors: Errors) -> None:
    messages = errors('allow_from = [\n"x",\n"192.0.2.7",\n"y"\n]\n')
    assert [each.partition("given.toml:")[2][:3] for each in messages] == ["2:1", "4:1"]


# Overridden by the environment


def test_an_overridden_error_is_still_reported(errors: Errors) -> None:
    (message,) = errors("port = -3\n", SFTP_GATEWAY_PORT="2222")
    assert message.endswith(":1:1: port: must be a whole number from 0 to 65535, not -3")


def test_values_completed_by_the_environment_are_valid(load: Load) -> None:
    settings = load(
        '[shares.data]\nlinks = "keep"\n[users.ana]\nshares = ["more"]\n'
        "[penalties]\nminimum = 700\n",
        SFTP_GATEWAY_SHARES__DATA__PATH="/srv/data",
        SFTP_GATEWAY_SHARES__MORE__PATH="/srv/more",
        SFTP_GATEWAY_PENALTIES__MAXIMUM="800",
    )
    assert settings.shares["data"].path == Path("/srv/data")


def test_an_overridden_option_of_the_file_is_reported(load: Load) -> None:
    settings = load(
        'port = 2022\nhost = "same"\n[users.ana]\npassword_hash = "a secret"\n',
        SFTP_GATEWAY_PORT="2222",
        SFTP_GATEWAY_HOST="same",
        SFTP_GATEWAY_USERS='{"ana": {"password_hash": "another"}}',
    )
    port, secret = settings.origins.overridden
    assert port.endswith(
        "given.toml:1:1: port: has no effect, because SFTP_GATEWAY_PORT overrides it"
    )
    assert secret.endswith(
        "given.toml:4:1: users.ana.password_hash: has no effect, because SFTP_GATEWAY_USERS "
        "overrides it"
    )


def test_settings_overridden_by_the_compose_file_are_reported(load: Load) -> None:
    settings = load(
        "port = 2022\n",
        SFTP_GATEWAY_PORT="2222",
        SFTP_GATEWAY_AUTO_SETUP="false",
        SFTP_GATEWAY_METRICS_PORT="9222",
        SFTP_GATEWAY_COMPOSE_SETS="AUTO_SETUP=true PORT= METRICS_PORT=9222",
    )
    setup, port = settings.origins.overridden
    assert setup == (
        ".env: SFTP_GATEWAY_AUTO_SETUP=true has no effect, "
        "because docker-compose.yml sets SFTP_GATEWAY_AUTO_SETUP=false"
    )
    assert port.endswith(
        "given.toml:1:1: port: has no effect, because docker-compose.yml sets "
        "SFTP_GATEWAY_PORT=2222; SFTP_PORT in .env is the published port"
    )


def test_an_option_is_described_with_where_it_was_set(load: Load) -> None:
    settings = load('[shares."a.b"]\npath = "x"\n[users.ana]\n', SFTP_GATEWAY_KEYS_DIR="k")
    messages = settings.origins.located(
        [
            "shares.a.b.path: there is no folder x",
            "users.ana.shares names none",
            "users.ana: nothing lets this user log in",
            "keys_dir: there is no host key",
            "port: is taken",
            "k/revoked_keys, line 2: is wrong",
        ]
    )
    assert [each.partition("given.toml:")[2] or each for each in messages] == [
        "2:1: shares.a.b.path: there is no folder x",
        "3:8: users.ana.shares names none",
        "3:8: users.ana: nothing lets this user log in",
        "SFTP_GATEWAY_KEYS_DIR: there is no host key",
        "port: is taken",
        "k/revoked_keys, line 2: is wrong",
    ]


@pytest.mark.parametrize("name", ["_env_file", "_cli_parse_args", "model_config", "__init__"])
def test_a_name_reserved_by_the_library_is_an_unknown_option(errors: Errors, name: str) -> None:
    (message,) = errors(f"{name} = true\n")
    assert f": {name}: unknown option" in message


# Secrets

HASH = hash_password("correct horse")


@pytest.mark.parametrize(
    "text",
    [
        'users = "SECRET"\n',
        'users = ["SECRET"]\n',
        'users = {ana = "SECRET"}\n',
        'users = {ana = ["SECRET"]}\n',
        '[users.ana]\npassword = "SECRET"\n',
        '[users.ana]\npassword_hash = ["SECRET"]\n',
        '[users.ana]\npassword_hash = {a = "SECRET"}\n',
        '[users.ana]\npassword_hash = "SECRET"\npassword_hash_file = "x"\n',
        '[users.ana]\npassword_hash = "SECRET"\nshares = ["none"]\n',
        '[users.ana]\nshares = "SECRET"\n',
        '[users.ana]\npassword_hash = "SECRET\n',
        'password_hash = "SECRET"\n',
        "[users.ana]\npassword_hash = SECRET\n",
        '[users.ana]\npassword_hash = "SECRET" x\n',
        '[status]\ntoken = ["SECRET"]\n',
        '[status]\ntokken = "SECRET"\n',
        'status = "SECRET"\n',
    ],
)
@pytest.mark.parametrize("secret", ["hunter2", HASH], ids=["password", "hash"])
def test_a_possible_secret_in_the_file_is_not_repeated(
    errors: Errors, text: str, secret: str
) -> None:
    assert secret not in "\n".join(errors(text.replace("SECRET", secret)))


def test_a_token_that_is_too_short_is_not_repeated(errors: Errors) -> None:
    (message,) = errors('[status]\ntoken = "hunter2"\n')
    assert message.endswith(": status.token: must be text of 16 to 200 characters")


@pytest.mark.parametrize(
    "name",
    [
        "SFTP_GATEWAY_USERS",
        "SFTP_GATEWAY_USERS__ANA",
        "SFTP_GATEWAY_USERS__ANA__SHARES",
        "SFTP_GATEWAY_USERS__ANA__ALLOW_FROM",
    ],
)
@pytest.mark.parametrize("text", ["hunter2", '"hunter2"', '{"ana": {"password_hash": "hunter2"'])
def test_a_possible_secret_in_the_environment_is_not_repeated(
    errors: Errors, name: str, text: str
) -> None:
    assert "hunter2" not in "\n".join(errors(**{name: text}))


def test_secrets_are_masked_in_shown_settings(load: Load) -> None:
    settings = load(f'[users.ana]\npassword_hash = "{HASH}"\n')
    assert settings.users["ana"].password_hash is not None
    assert settings.users["ana"].password_hash.get_secret_value() == HASH
    for shown in (repr(settings), str(settings), json.dumps(settings.model_dump(mode="json"))):
        assert HASH not in shown
        assert "**********" in shown
