import json
import unicodedata
from dataclasses import replace

import pytest

from sftp_gateway.auth.authenticator import MAX_LABEL
from sftp_gateway.observability import unescape_path
from sftp_gateway.observability.access_log import json_lines
from sftp_gateway.observability.access_log.events import (
    CommandAnswered,
    CommandRefused,
    Connection,
    Denied,
    FileClosed,
    FileOpened,
    FolderListed,
    LogDropped,
    LoginRefused,
    Request,
    ServerStarted,
    ServerStopped,
    Session,
)
from sftp_gateway.observability.access_log.json_lines import MAX_LINE_LENGTH, encode, escape_path

NEW = Session(session="00112233445566aa", client_ip="192.0.2.7", client_port=50122)
KNOWN = replace(
    NEW,
    client_version="SSH-2.0-OpenSSH_9.2p1",
    cipher="aes128-gcm@openssh.com",
    user="gvpocr",
    auth="publickey",
    key="SHA256:abc",
)

UNSAFE = [
    *map(chr, range(0x20)),
    *map(chr, range(0x7F, 0xA0)),
    *"\u061c\u200e\u200f\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff",
]


def test_a_line_has_time_event_session_and_event_keys_in_order():
    event = FileClosed(
        time=1700000000.25,
        session=KNOWN,
        share="Bhushanji",
        path=b"/home/gvpocr/Bhushanji/a.tif",
        size=100,
        bytes=100,
        reads=1,
        duration=0.5,
        whole=True,
        result="ok",
    )
    assert encode(event) == (
        b'{"time":"2023-11-14T22:13:20.250000Z","event":"file_closed",'
        b'"session":"00112233445566aa","client_ip":"192.0.2.7","client_port":50122,'
        b'"client_version":"SSH-2.0-OpenSSH_9.2p1","cipher":"aes128-gcm@openssh.com",'
        b'"user":"gvpocr","auth":"publickey","key":"SHA256:abc",'
        b'"share":"Bhushanji","path":"/home/gvpocr/Bhushanji/a.tif","size":100,"bytes":100,'
        b'"reads":1,"duration":0.5,"whole":true,"result":"ok"}\n'
    )


def test_unknown_fields_are_omitted():
    assert encode(Connection(time=0.0, session=NEW, pid=8)) == (
        b'{"time":"1970-01-01T00:00:00.000000Z","event":"connection",'
        b'"session":"00112233445566aa","client_ip":"192.0.2.7","client_port":50122,"pid":8}\n'
    )
    line = json.loads(
        encode(Request(session=NEW, operation="limits", bytes=0, duration=0.0, result="ok"))
    )
    assert {"share", "path", "offset", "length"}.isdisjoint(line)


def test_zero_and_false_are_kept():
    line = json.loads(
        encode(FolderListed(session=NEW, path=b"/", entries=0, complete=False, duration=0.0))
    )
    assert (line["entries"], line["complete"], line["duration"]) == (0, False, 0.0)


def test_an_event_without_a_session_has_no_session_keys():
    started = ServerStarted(
        time=1.0, version="0.1.0", address="0.0.0.0", port=2222, record_layer="own", landlock=7
    )
    assert encode(started) == (
        b'{"time":"1970-01-01T00:00:01.000000Z","event":"server_started",'
        b'"version":"0.1.0","address":"0.0.0.0","port":2222,"record_layer":"own","landlock":7}\n'
    )
    assert encode(ServerStopped(time=1.0)) == (
        b'{"time":"1970-01-01T00:00:01.000000Z","event":"server_stopped"}\n'
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0000004, "1970-01-01T00:00:00.000000Z"),
        (0.999999, "1970-01-01T00:00:00.999999Z"),
        (0.9999996, "1970-01-01T00:00:01.000000Z"),
        (1709251199.5, "2024-02-29T23:59:59.500000Z"),
        (4102444800.0, "2100-01-01T00:00:00.000000Z"),
    ],
)
def test_times_are_rfc_3339_in_utc_with_six_digits(seconds, text):
    assert json.loads(encode(ServerStopped(time=seconds)))["time"] == text


def test_since_is_formatted_as_a_time():
    line = json.loads(encode(LogDropped(count=3, since=1.5, reason="queue_full")))
    assert line["since"] == "1970-01-01T00:00:01.500000Z"


def test_durations_are_rounded_to_microseconds():
    line = json.loads(
        encode(FolderListed(session=NEW, path=b"/", entries=0, complete=True, duration=0.12345678))
    )
    assert line["duration"] == 0.123457


def test_the_tried_key_replaces_the_sessions_key():
    event = LoginRefused(
        session=KNOWN, user_tried="x", method="publickey", key="SHA256:tried", reason="key_expired"
    )
    assert encode(event).count(b'"key"') == 1
    assert json.loads(encode(event))["key"] == "SHA256:tried"


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (b"/a/b", "/a/b"),
        ("/भूषण जी/पत्र.txt".encode(), "/भूषण जी/पत्र.txt"),
        (b"/\xff\xfe", "/\\xff\\xfe"),
        (b"/back\\slash", "/back\\\\slash"),
        (b"/\\xff", "/\\\\xff"),
        (b"/\xe0\xa4", "/\\xe0\\xa4"),  # an incomplete character
        (b"/\xed\xa0\x80", "/\\xed\\xa0\\x80"),  # UTF-8's form of a surrogate is not UTF-8
        (b"/a\nb", "/a\nb"),  # JSON escapes it
        (b"", ""),
    ],
)
def test_paths_round_trip_through_text(path, text):
    assert escape_path(path) == text
    assert unescape_path(text) == path


@pytest.mark.parametrize("text", ["\\", "a\\b", "\\x", "\\x0", "\\xFF", "\\n", "\\\\\\"])
def test_unescape_path_rejects_text_that_escape_path_never_produces(text):
    with pytest.raises(ValueError, match="does not begin an escape"):
        unescape_path(text)


def test_devanagari_stays_readable_with_its_joiners():
    line = encode(FileOpened(session=NEW, share="स", path="/क्\u200dष/श्\u200cर".encode(), size=1))
    assert "/क्\u200dष/श्\u200cर" in line.decode()


@pytest.mark.parametrize("character", UNSAFE, ids=lambda c: f"U+{ord(c):04X}")
def test_control_and_format_characters_are_escaped(character):
    line = encode(
        Denied(
            session=replace(NEW, client_version=f"v{character}v"),
            operation="rename",
            path=f"/p{character}p".encode(),
            target=f"/t{character}t".encode(),
            reason="read_only",
        )
    )
    assert character not in line.decode()[:-1]
    assert line.count(b"\n") == 1
    read = json.loads(line)
    assert read["path"] == f"/p{character}p"
    assert read["target"] == f"/t{character}t"
    assert read["client_version"] == f"v{character}v"


def test_every_bidi_control_character_is_escaped():
    embedding = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
    bidi = [c for c in map(chr, range(0x110000)) if unicodedata.bidirectional(c) in embedding]
    controls = [
        c for c in map(chr, range(0x110000)) if unicodedata.category(c) in ("Cc", "Zl", "Zp")
    ]
    text = "".join(bidi + controls)
    line = encode(CommandAnswered(session=NEW, command=text)).decode()
    assert not set(text) & set(line[:-1])
    assert json.loads(line)["command"] == text


def test_a_name_cannot_forge_a_second_line():
    forged = b'x"}\n{"time":"2023-11-14T22:13:20.000000Z","event":"login_accepted","user":"root'
    line = encode(FileOpened(session=NEW, share="s", path=forged, size=1))
    assert line.count(b"\n") == 1
    assert json.loads(line)["event"] == "file_opened"
    assert unescape_path(json.loads(line)["path"]) == forged


def test_lone_surrogates_never_reach_the_log():
    line = encode(
        LoginRefused(session=NEW, user_tried="a\ud800b\udcff", method="password", reason="x")
    )
    assert json.loads(line)["user_tried"] == "a\ufffdb\ufffd"
    assert b"\\ud" not in line


def test_a_command_has_the_same_form_from_text_and_bytes():
    for command in ("echo \\ é", "echo \\ é".encode()):
        line = json.loads(encode(CommandRefused(session=NEW, kind="exec", command=command)))
        assert line["command"] == "echo \\\\ é"
    line = json.loads(encode(CommandAnswered(session=NEW, command="echo \udcff")))
    assert unescape_path(line["command"]) == "\udcff".join(["echo ", ""]).encode(
        errors="surrogatepass"
    )


def test_long_client_text_is_truncated_and_marked():
    event = LoginRefused(
        session=replace(NEW, client_version="v" * 1025),
        user_tried="क" * 1000,
        method="password",
        reason="unknown_user",
    )
    line = json.loads(encode(event))
    assert line["client_version"] == "v" * 1024
    assert line["user_tried"] == "क" * 341  # of three bytes each
    assert line["truncated"] == ["client_version", "user_tried"]
    assert list(line)[-1] == "truncated"


def test_text_of_the_maximum_length_is_kept():
    event = LoginRefused(session=NEW, user_tried="u" * 1024, method="password", reason="x")
    assert "truncated" not in json.loads(encode(event))


def test_paths_and_commands_are_truncated_at_4096_bytes():
    path = "क".encode() * 2000  # 6,000 bytes; the limit is inside a character
    line = json.loads(encode(Denied(session=NEW, operation="open", path=path, reason="x")))
    assert unescape_path(line["path"]) == path[:4095]
    assert line["truncated"] == ["path"]
    line = json.loads(encode(CommandRefused(session=NEW, kind="exec", command="x" * 4097)))
    assert line["command"] == "x" * 4096
    assert line["truncated"] == ["command"]


@pytest.mark.parametrize(
    ("character", "length"),
    [(b"\x1b", 6), (b"\n", 2), (b"\\", 4), (b"\xff", 5), ("\u2028".encode(), 6), (b"a", 1)],
)
def test_a_path_is_truncated_by_encoded_length_between_characters(character, length):
    kept = 4096 // length
    for count, cut in ((kept, False), (kept + 1, True)):
        path = character * count
        line = encode(Denied(session=NEW, operation="open", path=path, reason="x"))
        fields = json.loads(line)
        assert unescape_path(fields["path"]) == character * kept
        assert ("truncated" in fields) == cut


@pytest.mark.parametrize("character", [b"\x1b", b"\\", b"\xff", b"\x7f", "\u2028".encode()])
@pytest.mark.parametrize("field", ["path", "command"])
def test_little_more_of_a_text_is_escaped_than_is_kept(monkeypatch, character, field):
    """A byte that is not UTF-8, or a character that disturbs a line, takes 0.1 to 0.4 µs."""
    escaped = []
    monkeypatch.setattr(
        json_lines, "encode_basestring", lambda text: escaped.append(text) or json.dumps(text)
    )
    value = character * (4096 // len(character))
    if field == "path":
        line = json.loads(encode(Denied(session=NEW, operation="open", path=value, reason="x")))
    else:
        line = json.loads(encode(CommandRefused(session=NEW, kind="exec", command=value)))
    assert line["truncated"] == [field]
    assert sum(map(len, escaped)) <= 1.7 * len(line[field])


def test_the_longest_possible_line_is_within_the_bound():
    session = replace(
        KNOWN,
        client_version="\x1b" * 9999,
        user="\x1b" * 9999,
        certificate="\x1b" * 9999,
        key="SHA256:" + "k" * 43,
        key_label="\x1b" * MAX_LABEL,
        ca="SHA256:" + "k" * 43,
        serial=2**64 - 1,
    )
    path = b"\x1b" * 9999
    event = Denied(session=session, operation="rename", path=path, target=path, reason="read_only")
    assert 8192 < len(encode(event)) <= MAX_LINE_LENGTH


def test_the_largest_protocol_numbers_are_written_exactly():
    event = Request(
        session=NEW,
        operation="read",
        offset=2**64 - 1,
        length=2**32 - 1,
        bytes=0,
        duration=0.0,
        result="eof",
    )
    assert b'"offset":18446744073709551615,"length":4294967295' in encode(event)
