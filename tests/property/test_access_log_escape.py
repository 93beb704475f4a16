import json
import re

from hypothesis import given
from hypothesis import strategies as st

from sftp_gateway.observability import unescape_path
from sftp_gateway.observability.access_log.events import (
    CommandRefused,
    Denied,
    LoginRefused,
    Session,
)
from sftp_gateway.observability.access_log.json_lines import encode, escape_path

# Backslashes, escapes and broken UTF-8 are what can go wrong, so they come often.
PIECES = st.sampled_from(
    [
        b"\\",
        b"\\\\",
        b"\\x",
        b"\\xff",
        b"\xff",
        b"\n",
        b'"',
        b"/",
        "क".encode(),
        b"\xe0",
        b"\xa4",
        b"a",
    ]
)
PATHS = st.binary(max_size=200) | st.lists(PIECES, max_size=20).map(b"".join)
SURROGATE = re.compile("[\ud800-\udfff]")
# All of Unicode, lone surrogates too.
TEXT = st.text(st.characters(exclude_categories=()), max_size=100)


@given(PATHS)
def test_escaping_a_path_round_trips(path):
    assert unescape_path(escape_path(path)) == path


@given(PATHS, PATHS)
def test_different_paths_escape_differently(one, other):
    assert (escape_path(one) == escape_path(other)) == (one == other)


@given(TEXT)
def test_unescaping_any_text_succeeds_or_raises_value_error(text):
    try:
        path = unescape_path(text)
    except ValueError:
        return
    assert unescape_path(escape_path(path)) == path


@given(path=PATHS, target=PATHS, version=TEXT, user=TEXT)
def test_every_event_is_one_json_line_with_recoverable_paths(path, target, version, user):
    session = Session(
        session="0" * 16, client_ip="192.0.2.1", client_port=1, client_version=version, user=user
    )
    line = encode(
        Denied(session=session, operation="rename", path=path, target=target, reason="read_only")
    )
    assert line.endswith(b"}\n")
    assert len(line.decode().splitlines()) == 1
    read = json.loads(line)
    assert unescape_path(read["path"]) == path
    assert unescape_path(read["target"]) == target
    assert read["user"] == SURROGATE.sub("\ufffd", user)


@given(command=TEXT | PATHS, user=TEXT)
def test_no_command_or_user_name_breaks_a_line(command, user):
    session = Session(session="0" * 16, client_ip="192.0.2.1", client_port=1)
    lines = encode(CommandRefused(session=session, kind="exec", command=command)) + encode(
        LoginRefused(session=session, user_tried=user, method="password", reason="unknown_user")
    )
    refused, login = lines.decode().splitlines()
    raw = command if isinstance(command, bytes) else command.encode("utf-8", "surrogatepass")
    assert unescape_path(json.loads(refused)["command"]) == raw
    assert json.loads(login)["user_tried"] == SURROGATE.sub("\ufffd", user)
