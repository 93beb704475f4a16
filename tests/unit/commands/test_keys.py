"""`sftp-gateway keys` edits files or reports why not."""

from __future__ import annotations

import errno
import io
import os
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from sftp_gateway.auth import generate_ed25519, parse_authorized_keys
from sftp_gateway.commands.main import main
from sftp_gateway.commands.times import parse_expiry_time
from sftp_gateway.config.bootstrap import set_up
from sftp_gateway.observability.access_log.events import LoginAccepted, Session
from sftp_gateway.observability.access_log.json_lines import encode
from sftp_gateway.observability.history.store import Store
from sftp_gateway.server.ssh.host_keys import public_line_of
from sftp_gateway.settings import Settings
from sftp_gateway.system.dirfd import Folder
from tests.support.history import row

FILE = Path("keys/authorized_keys/gvpocr")
#: The label of the initial worker key.
LABEL = "sftp-gateway worker gvpocr"

NOW = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)

Run = Callable[..., str]


@pytest.fixture
def keys(unconfigured: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `keys` and returns its output, or raises ValueError with its error message."""
    set_up(Settings(), gateway=None, report=lambda line: None)

    def run(*arguments: str) -> str:
        status = main(["keys", *arguments])
        printed = capsys.readouterr()
        if status:
            raise ValueError(printed.err)
        return printed.out

    return run


def public(tmp_path: Path, comment: str) -> Path:
    path = tmp_path / "key.pub"
    path.write_text(generate_ed25519(comment).public_line + "\n")
    return path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("now", NOW),
        ("+30m", NOW + timedelta(minutes=30)),
        ("+12h", NOW + timedelta(hours=12)),
        ("+7d", NOW + timedelta(days=7)),
        ("20310506Z", datetime(2031, 5, 6, tzinfo=UTC)),
        ("20310506070809Z", datetime(2031, 5, 6, 7, 8, 9, tzinfo=UTC)),
        ("2031-05-06Z", datetime(2031, 5, 6, tzinfo=UTC)),
        ("2031-05-06T07:08Z", datetime(2031, 5, 6, 7, 8, tzinfo=UTC)),
        ("2031-05-06T07:08:09Z", datetime(2031, 5, 6, 7, 8, 9, tzinfo=UTC)),  # as `list` prints it
    ],
)
def test_an_expiry_is_a_duration_or_a_date(text: str, expected: datetime) -> None:
    assert parse_expiry_time(text, NOW) == expected
    assert parse_expiry_time("2031-05-06", NOW) == parse_expiry_time("20310506", NOW)


@pytest.mark.parametrize("text", ["", "soon", "+7", "-7d", "+7y", "2031-13-01", "+99999999d"])
def test_an_invalid_expiry_is_rejected(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape("write now, +30m, +12h, +7d, 2031-05-06, ")):
        parse_expiry_time(text, NOW)


def test_a_key_is_added_with_its_options(keys: Run, tmp_path: Path) -> None:
    file = public(tmp_path, "seven")
    keys("add", "gvpocr", str(file), "--from", "192.0.2.0/24", "--expires", "2031-05-06")
    _, key = parse_authorized_keys(FILE.read_text(), source="x").keys
    assert key.sources is not None
    assert (key.comment, key.sources.text) == ("seven", "192.0.2.0/24")
    assert key.expires is not None


def test_a_key_is_added_from_standard_input(
    keys: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(public(tmp_path, "eight").read_text()))
    keys("add", "gvpocr")
    assert "eight" in FILE.read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("add", "nobody", "FILE"), "there is no user nobody; the configuration has gvpocr"),
        (("add", "gvpocr", "missing"), "missing: cannot be read"),
        (("add", "gvpocr", "FILE", "--from", 'x" y'), "is not a list of addresses"),
        (("add", "gvpocr", "FILE", "--from", "worker.example"), "host names are not looked up"),
        (("add", "gvpocr", "FILE", "--expires", "soon"), "'soon' is not a valid time; write now, "),
        (
            ("add", "gvpocr", "keys/worker_ed25519"),
            "error: keys/worker_ed25519 is a private key; give the public key: "
            "keys/worker_ed25519.pub",
        ),
        (
            ("add", "gvpocr", "keys/alone"),
            "ssh-keygen -y -f keys/alone > keys/alone.pub",
        ),
        (("add", "gvpocr", "keys/putty.ppk"), "error: keys/putty.ppk is a private key; derive"),
        (("add", "gvpocr", "keys/rfc4716"), "ssh-keygen -i -f keys/rfc4716"),
        (("add", "gvpocr", "keys/binary"), "error: keys/binary: not a public key"),
        (("add", "gvpocr", "keys/text"), "error: keys/text: "),
        (("add", "gvpocr", "keys/worker_ed25519.pub"), "is already in the file"),
        (("remove", "gvpocr", "missing"), "there is no key missing"),
        (("expire", "gvpocr", "missing", "now"), "there is no key missing"),
        (("rotate", "gvpocr", "missing", "new"), "there is no key missing"),
        (("rotate", "gvpocr", LABEL, "missing/new"), "error: missing: No such file"),
        (("rotate", "gvpocr", LABEL, "ssh_host_rsa_key"), "keys/ssh_host_rsa_key is reserved"),
        (("rotate", "gvpocr", LABEL, "revoked_keys.pub"), "is reserved; choose another name"),
        (("rotate-host", "promote"), "run the step prepare first"),
        (("rotate-host", "finish"), "nothing to finish"),
    ],
)
def test_an_invalid_key_command_changes_nothing(
    keys: Run, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    def all_files() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}

    Path("keys/alone").write_bytes(generate_ed25519("x").private_pem)
    Path("keys/putty.ppk").write_text("PuTTY-User-Key-File-3: ssh-ed25519\n")
    Path("keys/rfc4716").write_text("---- BEGIN SSH2 PUBLIC KEY ----\n")
    Path("keys/binary").write_bytes(b"\xff\xfe")
    Path("keys/text").write_text("ssh-ed25519 nonsense\n")
    file = str(public(tmp_path, "seven"))
    before = all_files()
    with pytest.raises(ValueError, match=message):
        keys(*(file if word == "FILE" else word for word in arguments))
    assert all_files() == before


def test_rotating_a_key_keeps_options_and_expires_the_old_one(keys: Run) -> None:
    FILE.write_text(f'from="192.0.2.0/24" {FILE.read_text()}')
    keys("rotate", "gvpocr", LABEL, "new", "--expires", "+2d")
    old, new = parse_authorized_keys(FILE.read_text(), source="x").keys
    assert old.expires is not None
    assert timedelta(days=1) < old.expires - datetime.now(UTC) < timedelta(days=3)
    assert (new.expires, new.sources) == (None, old.sources)
    assert new.comment == old.comment == LABEL
    assert Path("keys/new").stat().st_mode & 0o777 == 0o600
    assert not Path("new").exists()
    assert new.fingerprint in {
        key.fingerprint
        for key in parse_authorized_keys(Path("keys/new.pub").read_text(), source="x").keys
    }
    with pytest.raises(ValueError, match="cannot be created: File exists"):
        keys("rotate", "gvpocr", new.fingerprint, "new")
    with pytest.raises(ValueError, match="matches more than one key; give a fingerprint: ") as e:
        keys("rotate", "gvpocr", LABEL, "other")
    assert f"{new.fingerprint} (does not expire)" in str(e.value)
    assert f"{old.fingerprint} (until " in str(e.value)
    assert not Path("keys/other").exists()
    keys("expire", "gvpocr", old.fingerprint, "20200101Z")
    keys("rotate", "gvpocr", LABEL, "./other")  # the one that has not expired
    assert Path("other").exists()


def test_a_rotated_key_is_labelled_with_user_and_date_by_default(keys: Run) -> None:
    FILE.write_text(" ".join(FILE.read_text().split()[:2]) + "\n")
    (key,) = parse_authorized_keys(FILE.read_text(), source="x").keys
    keys("rotate", "gvpocr", key.fingerprint, "new")
    _, new = parse_authorized_keys(FILE.read_text(), source="x").keys
    assert new.comment == f"gvpocr {datetime.now(UTC):%Y-%m-%d}"


def test_a_new_key_on_standard_output_is_not_written_to_disk(keys: Run) -> None:
    before = sorted(Path().rglob("*"))
    private = keys("rotate", "gvpocr", LABEL, "-")
    assert sorted(Path().rglob("*")) == before
    assert public_line_of(private.encode()).split()[1] in FILE.read_text().splitlines()[1]


def test_a_failed_rotation_leaves_no_new_key(keys: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(FILE))

    monkeypatch.setattr(Folder, "rename", fail)
    before = sorted(Path().rglob("*"))
    with pytest.raises(ValueError, match="docker-compose run --rm --no-deps init keys"):
        keys("rotate", "gvpocr", LABEL, "new")
    assert sorted(Path().rglob("*")) == before


def test_the_list_marks_revoked_keys(keys: Run, tmp_path: Path) -> None:
    keys("add", "gvpocr", str(public(tmp_path, "seven")))
    one, two = parse_authorized_keys(FILE.read_text(), source="x").keys
    Path("keys/revoked_keys").write_text(f"{two.fingerprint} lost\n")
    first, second = keys("list").splitlines()[1:3]
    assert (one.fingerprint in first, "(revoked)" in first) == (True, False)
    assert (two.fingerprint in second, "never (revoked)  " in second) == (True, True)


def test_the_list_shows_user_expiry_and_last_use(
    keys: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys("add", "gvpocr", str(public(tmp_path, "seven\u202eneves")), "--from", "192.0.2.1")
    keys("expire", "gvpocr", "sftp-gateway worker gvpocr", "20200101Z")
    (one, two) = parse_authorized_keys(FILE.read_text(), source="x").keys
    Path("keys/user_ca_keys").write_text(generate_ed25519("ca").public_line + "\n")
    keys("rotate-host", "prepare")
    session = Session(
        session="0", client_ip="192.0.2.7", client_port=1, user="gvpocr", key=two.fingerprint
    )
    Path("access.log").write_bytes(encode(LoginAccepted(time=0, session=session)))
    rows = keys("list", "--log", "access.log").splitlines()
    assert rows[0].split() == ["USER", "FINGERPRINT", "TYPE", "EXPIRES", "LAST", "USED", "OPTIONS", "COMMENT"]  # noqa: E501  # fmt: skip
    first, second, authority, current, following = rows[1:]
    assert one.fingerprint in first
    assert "2020-01-01T00:00:00Z (expired)  -  " in first
    assert two.fingerprint in second
    assert "never" in second
    assert "1970-01-01T00:00:00Z" in second
    assert "from=192.0.2.1" in second
    assert second.endswith("seven\\u202eneves")
    assert authority.startswith("(authority)")
    assert current.startswith("(host, current)")
    assert following.startswith("(host, next)")
    # Without log and history, the last use is unknown, not "never".
    assert "  ?  " in keys("list").splitlines()[1]
    Path("state").mkdir()
    store = Store(Path("state/history.sqlite3"), max_age=1e9, max_size=1 << 30)
    store.add([row(encode(LoginAccepted(time=60, session=session)))], {})
    store.close()
    assert "1970-01-01T00:01:00Z" in keys("list")
    Path("state/history.sqlite3").write_bytes(b"broken" * 1000)
    with pytest.raises(ValueError, match="cannot be read: file is not a database"):
        keys("list")
    monkeypatch.setenv("SFTP_GATEWAY_ACCESS_LOG__FILE", "access.log")
    assert "1970-01-01T00:00:00Z" in keys("list")


def test_the_list_includes_keys_of_disabled_users(
    keys: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SFTP_GATEWAY_USERS__GVPOCR", "false")
    Path("keys/authorized_keys/.gvpocr.swp").write_text("an editor's\n")
    _, gvpocr, host = keys("list").splitlines()
    assert gvpocr.startswith("gvpocr (switched off)  SHA256:")
    assert host.startswith("(host, current)")
