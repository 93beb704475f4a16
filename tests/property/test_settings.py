"""Any values of options give settings, or errors with positions."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sftp_gateway.errors import ConfigurationError
from sftp_gateway.settings import Settings, load_settings, variable
from sftp_gateway.settings.expected import below, options_of

TABLES = ("access_log", "history", "penalties", "status", "users.ana", "shares.a")
OPTIONS = [
    *Settings.model_fields,
    *TABLES,
    *(
        f"{table}.{name}"
        for table in TABLES
        for name in options_of(
            below(below(Settings, table.partition(".")[0]), "ana")
            if "." in table
            else below(Settings, table)
        )
    ),
    "unknown",
    "users.ana.unknown",
    "shares.a.unknown.more",
]

VALUES = st.one_of(
    st.sampled_from(["1", "true", "nan", "-inf", "2026-01-31", "07:32:00", "9" * 30, "0.5", "{}"]),
    st.sampled_from(["", "5m", "1G", "*", "models", "::1", "10.0.0.1/8", "1:2:3", "a\0b"]).map(
        json.dumps
    ),
)
ANY = st.recursive(
    VALUES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: f"[{', '.join(items)}]"),
        st.dictionaries(st.sampled_from(["a", "path", "b c"]), inner, max_size=2).map(
            lambda pairs: "{" + ", ".join(f"{json.dumps(k)} = {v}" for k, v in pairs.items()) + "}"
        ),
    ),
    max_leaves=4,
)
#: pydantic messages that the project replaces.
RAW = re.compile(r"Input should|Field required|validation error|Extra inputs|pydantic")


@pytest.fixture(autouse=True)
def without_env_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def reported(file: Path, environ: dict[str, str]) -> tuple[str, ...]:
    try:
        load_settings(file, environ)
    except ConfigurationError as error:
        return error.errors
    return ()


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(given_options=st.dictionaries(st.sampled_from(OPTIONS), ANY, min_size=1, max_size=4))
def test_any_file_gives_settings_or_errors_with_positions(
    tmp_path: Path, given_options: dict[str, Any]
) -> None:
    file = tmp_path / "a.toml"
    file.write_text("".join(f"{name} = {value}\n" for name, value in given_options.items()))
    for message in reported(file, {}):
        assert re.match(rf"{re.escape(str(file))}:[1-4]:\d+: ", message), message
        assert not RAW.search(message), message


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(option=st.sampled_from(OPTIONS), text=ANY.map(lambda value: value.replace(" = ", ": ")))
def test_any_variable_gives_a_setting_or_an_error_naming_it(
    tmp_path: Path, option: str, text: str
) -> None:
    file = tmp_path / "empty.toml"
    file.touch()
    for message in reported(file, {variable(option): text}):
        assert message.startswith(f"{variable(option)}: "), message
        assert not RAW.search(message), message
