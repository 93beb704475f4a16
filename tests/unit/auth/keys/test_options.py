from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from sftp_gateway.auth.keys.options import KeyOptions, parse_expiry, parse_options, split_field


@pytest.fixture
def central_europe(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.parametrize(
    "field",
    [
        "restrict",
        "no-pty,no-port-forwarding,no-agent-forwarding,no-X11-forwarding,no-user-rc",
        "restrict,pty,port-forwarding,agent-forwarding,X11-forwarding,user-rc",
        "RESTRICT,No-Pty,NO-x11-FORWARDING",
        'environment="A=b c",permitopen="host:1",permitopen="host:2",tunnel="0"',
        'permitlisten="localhost:8080"',
        'command="internal-sftp"',
        'COMMAND="internal-sftp -R -d /home/gvpocr -f AUTHPRIV"',
        "restrict,",
        ",,restrict,,pty",
        "",
    ],
)
def test_options_about_unsupported_features_have_no_effect(field: str) -> None:
    assert parse_options(field) == KeyOptions()


@pytest.mark.parametrize(
    ("field", "right"),
    [
        ('command="/bin/date"', 'write command="internal-sftp"'),
        ('command="internal-sftpd"', 'write command="internal-sftp"'),
        ('command=""', 'write command="internal-sftp"'),
        ('command="internal-sftp -P read"', "remove them"),
        ('command="internal-sftp -R -p open,read"', "remove them"),
        (r'command="internal-sftp \"-P\" read"', "remove them"),
        ('command="internal-sftp",command="internal-sftp"', "remove one"),
        ('cert-authority="x"', "takes no value"),
        ("principals", "needs a value"),
        ('principals="a"', "requires cert-authority; add it"),
        ('cert-authority,principals="a,,b"', "has an empty name"),
        ('cert-authority,principals="a",principals="b"', "duplicate"),
        ("verify-required", "remove the option or key"),
        ("No-Touch-Required", "remove the option"),
        ("no-restrict", "unknown option no-restrict"),
        ("no-ptty", "unknown option no-ptty"),
        ('no-command="x"', "unknown option"),
        ('restrict="x"', "write restrict alone"),
        ("from", 'write from="VALUE"'),
        ("command", 'write command="VALUE"'),
        ("tunnel", 'write tunnel="VALUE"'),
        ("from=192.0.2.1", 'option 1 is not NAME or NAME="VALUE"'),
        ('restrict,from="192.0.2.1', "option 2 is not"),
        ('from="192.0.2.1"pty', "separate options with commas"),
        ('pty;from="192.0.2.1"', "separate options with commas"),
        ('from="192.0.2.1",from="*"', "write one with the whole list"),
        ('from=""', "from=: '' is not an IP address"),
        ('from="worker.example"', "host names are not looked up"),
        ('expiry-time="tomorrow"', "write YYYYMMDD"),
    ],
)
def test_an_unsupported_option_is_an_error_with_a_remedy(field: str, right: str) -> None:
    with pytest.raises(ValueError, match=right):
        parse_options(field)


def test_an_unknown_option_that_resembles_a_key_is_not_repeated() -> None:
    with pytest.raises(ValueError, match="unknown option"):
        parse_options("AAAAC3NzaC1lZDI1NTE5AAAAI")


def test_from_limits_the_addresses() -> None:
    sources = parse_options('from="192.0.2.0/24,!192.0.2.7"').sources
    assert sources is not None
    assert sources.text == "192.0.2.0/24,!192.0.2.7"
    assert sources.matches("192.0.2.6")
    assert not sources.matches("192.0.2.7")


def test_the_earliest_of_several_expiry_times_applies_as_in_sshd() -> None:
    options = parse_options('expiry-time="20990101Z",expiry-time="20300101Z"')
    assert options.expires == datetime(2030, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("20300102Z", datetime(2030, 1, 2, tzinfo=UTC)),
        ("203001021530z", datetime(2030, 1, 2, 15, 30, tzinfo=UTC)),
        ("20300102153045UTC", datetime(2030, 1, 2, 15, 30, 45, tzinfo=UTC)),
        ("99991231235959Z", datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)),
    ],
)
def test_a_time_with_z_is_utc(text: str, expected: datetime) -> None:
    assert parse_expiry(text) == expected


@pytest.mark.usefixtures("central_europe")
@pytest.mark.parametrize(
    ("text", "hour"), [("203001021200", 11), ("203007021200", 10), ("20300702120000Z", 12)]
)
def test_a_time_without_z_is_local_time(text: str, hour: int) -> None:
    moment = parse_expiry(text)
    assert moment.tzinfo is UTC
    assert moment.hour == hour


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Z",
        "2030",
        "2030010",
        "2030010212",
        "20301302",
        "20300230Z",
        "203001022460Z",
        "20300102123060Z",
        "203001021230451Z",
        "2030-01-02",
        "20300102ZZ",
        "20300102 ",
        "19691231Z",
        "00010101",
        "00000101Z",
        "\u0662\u0660\u0663\u0660\u0660\u0661\u0660\u0661",
    ],
)
def test_an_invalid_or_pre_1970_time_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="write YYYYMMDD"):
        parse_expiry(text)


@pytest.mark.parametrize(
    ("line", "field", "rest"),
    [
        ("a b", "a", "b"),
        ("a", "a", ""),
        ("a \t b c", "a", "b c"),
        ('x="a b",y c', 'x="a b",y', "c"),
        (r'x="a \" b" c', r'x="a \" b"', "c"),
        (r"x\"y z", r"x\"y", "z"),
        (r'x="a\\" b" c', r'x="a\\" b"', "c"),
    ],
)
def test_blanks_end_a_field_unless_they_are_quoted(line: str, field: str, rest: str) -> None:
    assert split_field(line) == (field, rest)


@pytest.mark.parametrize("line", ['x="a b', r'x="a\"', '"', r'x="a""b', r'from="a\" ssh-rsa'])
def test_an_unterminated_quote_is_an_error(line: str) -> None:
    with pytest.raises(ValueError, match="quote is not closed"):
        split_field(line)


def test_an_escaped_quote_is_part_of_the_value() -> None:
    with pytest.raises(ValueError, match="host names are not looked up") as raised:
        parse_options(r'from="a\",b"')
    assert "'a\"'" in str(raised.value)
