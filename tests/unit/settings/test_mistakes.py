"""Every mistake is told by name, and what may be a secret is never repeated."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from sftp_gateway.auth import hash_password
from sftp_gateway.errors import ConfigurationError
from sftp_gateway.settings import load_settings, variable
from tests.unit.conftest import Load, Mistakes


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
def test_a_mistake_has_the_options_name_and_its_variables(
    mistakes: Mistakes, option: str, text: str
) -> None:
    for said in mistakes(**{variable(option): text}):
        assert said.startswith(f"{option} (environment: {variable(option)}): ")


def test_a_mistake_says_what_would_be_right_and_what_is_there(mistakes: Mistakes) -> None:
    (said,) = mistakes('[access_log]\nlevel = "everything"\n')
    assert "'files' or 'requests'" in said
    assert said.endswith("(it is 'everything')")
    (said,) = mistakes("max_handles = 1000000\n")
    assert "less than or equal to 65536" in said
    assert said.endswith("(it is 1000000)")


def test_all_mistakes_are_told_at_once(mistakes: Mistakes) -> None:
    said = mistakes(
        'port = "x"\nunknown = 1\n[shares.a]\nlinks = "no"\n[users."a b"]\n',
        SFTP_GATEWAY_MAX_HANDLES="1",
        SFTP_GATEWAY_NONSENSE="1",
    )
    told = [each.split(":")[0].split(" (")[0] for each in said]
    assert sorted(told) == sorted(
        [
            "SFTP_GATEWAY_NONSENSE",
            "port",
            "unknown",
            "shares.a.path",
            "shares.a.links",
            "users.a b",
            "max_handles",
        ]
    )


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
def test_an_unknown_option_of_the_file_is_told(mistakes: Mistakes, text: str, option: str) -> None:
    assert mistakes(text) == (f"{option}: there is no such option; see docs/configuration.md",)


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
def test_an_unknown_variable_is_told(mistakes: Mistakes, name: str) -> None:
    assert mistakes(**{name: "1"}) == (
        f"{name}: there is no such option; see docs/configuration.md",
    )


def test_an_unknown_part_of_a_variable_is_told(mistakes: Mistakes) -> None:
    (said,) = mistakes(SFTP_GATEWAY_ACCESS_LOG__LEVL="requests")
    assert said.startswith("access_log.levl: there is no such option")


def test_other_variables_are_nobodys_business(load: Load) -> None:
    load(SFTP_GATEWAYPORT="x", SFTP="y", MY_SFTP_GATEWAY_PROT="z")


@pytest.mark.parametrize("name", ["missing.toml", "."])
def test_a_file_that_was_named_has_to_be_there(mistakes: Mistakes, name: str) -> None:
    (said,) = mistakes(SFTP_GATEWAY_CONFIG=name)
    assert said.startswith(f"{Path(name)}: ")
    assert said.endswith("there is no such configuration file")


@pytest.mark.parametrize(
    ("text", "option", "meant"),
    [
        ("users.gvpcor = false\n", "users.gvpcor", "gvpocr"),
        ("shares.bhushanji = false\n", "shares.bhushanji", "Bhushanji"),
    ],
)
def test_a_misspelt_name_switches_nothing_off(
    mistakes: Mistakes, text: str, option: str, meant: str
) -> None:
    (said,) = mistakes(text)
    assert said.startswith(f"{option}: false switches off nothing: ")
    assert said.endswith(f"did you mean {meant}?")


@pytest.mark.parametrize(
    "content", [b"port = \n", b"port = 1\nport = 2\n", b"[users\n", b"host = '\xff'\n"]
)
def test_a_file_that_is_not_toml_is_told(unconfigured: Path, content: bytes) -> None:
    (unconfigured / "bad.toml").write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"bad\.toml: (not valid TOML|cannot be read)"):
        load_settings(unconfigured / "bad.toml", os.environ)


def test_a_variable_that_should_hold_json_and_does_not_is_told(mistakes: Mistakes) -> None:
    (said,) = mistakes(SFTP_GATEWAY_SHARES="a=/srv/a")
    assert said.startswith("environment: ")
    assert '"shares"' in said


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
    ],
)
@pytest.mark.parametrize("secret", ["hunter2", HASH], ids=["password", "hash"])
def test_what_may_be_a_secret_is_in_no_message(mistakes: Mistakes, text: str, secret: str) -> None:
    assert secret not in "\n".join(mistakes(text.replace("SECRET", secret)))


@pytest.mark.parametrize(
    "name", ["SFTP_GATEWAY_USERS", "SFTP_GATEWAY_USERS__ANA", "SFTP_GATEWAY_USERS__ANA__SHARES"]
)
@pytest.mark.parametrize("text", ["hunter2", '"hunter2"', '{"ana": {"password_hash": "hunter2"'])
def test_what_may_be_a_secret_in_the_environment_is_in_no_message(
    mistakes: Mistakes, name: str, text: str
) -> None:
    assert "hunter2" not in "\n".join(mistakes(**{name: text}))


def test_a_secret_is_masked_wherever_settings_are_shown(load: Load) -> None:
    settings = load(f'[users.ana]\npassword_hash = "{HASH}"\n')
    assert settings.users["ana"].password_hash is not None
    assert settings.users["ana"].password_hash.get_secret_value() == HASH
    for shown in (repr(settings), str(settings), json.dumps(settings.model_dump(mode="json"))):
        assert HASH not in shown
        assert "**********" in shown
