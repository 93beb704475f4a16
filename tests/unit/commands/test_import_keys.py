"""`import-authorized-keys` and `import-host-key` import keys or report why not."""

from __future__ import annotations

import io
import stat
from pathlib import Path

import pytest

from sftp_gateway.auth import generate_ed25519, parse_authorized_keys
from sftp_gateway.config.bootstrap import set_up
from sftp_gateway.settings import Settings
from tests.support.commands import Run, runs
from tests.support.keys import make_key, public_line

OURS = Path("keys/authorized_keys/gvpocr")
ONE = generate_ed25519("one").public_line
TWO = generate_ed25519("two").public_line


@pytest.fixture
def run(unconfigured: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    return runs(capsys)


@pytest.fixture
def keys(run: Run) -> Run:
    return lambda *arguments: run("import-authorized-keys", *arguments)


@pytest.fixture
def host(run: Run) -> Run:
    return lambda *arguments: run("import-host-key", *arguments)


def write(path: str | Path, text: str) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def two_users() -> None:
    write("config/sftp-gateway.toml", "[users.gvpocr]\n[users.ana]\n")


def authorized(user: str = "gvpocr") -> list[str]:
    text = Path(f"keys/authorized_keys/{user}").read_text()
    return [key.comment for key in parse_authorized_keys(text, source="x").keys]


# authorized_keys


def test_an_import_before_the_first_start_replaces_the_workers_key(
    keys: Run, tmp_path: Path
) -> None:
    ran = keys(write(tmp_path / "authorized_keys", f"{ONE}\n{TWO}\n"))
    assert ran.status == 0
    assert ran.err == f"{OURS}: 2 added, 0 there already, 0 refused\n"
    assert [line.partition(": added: SHA256:")[0] for line in ran.out.splitlines()] == [
        f"{tmp_path}/authorized_keys, line 1",
        f"{tmp_path}/authorized_keys, line 2",
    ]
    assert stat.S_IMODE(OURS.stat().st_mode) == 0o644
    set_up(Settings(), gateway=None, report=lambda line: None)
    assert not Path("keys/worker_ed25519").exists()
    assert authorized() == ["one", "two"]


def test_importing_is_idempotent(keys: Run, tmp_path: Path) -> None:
    old = write(tmp_path / "old", ONE)
    keys(old)
    before = OURS.stat()
    ran = keys(old)
    assert (ran.status, ran.err) == (0, f"{OURS}: 0 added, 1 there already, 0 refused\n")
    assert OURS.stat().st_mtime_ns == before.st_mtime_ns


def test_a_dry_run_prints_the_same_and_writes_nothing(keys: Run, tmp_path: Path) -> None:
    old = write(tmp_path / "old", f"{ONE}\nnonsense\n")
    dry = keys("--dry-run", old)
    assert not Path("keys").exists()
    wet = keys(old)
    assert (dry.status, dry.out) == (1, wet.out) == (wet.status, wet.out)
    assert (
        dry.err == f"{OURS}: 1 added, 0 there already, 1 refused (a dry run: nothing was written)\n"
    )


def test_refused_lines_are_reported_with_a_remedy(keys: Run, tmp_path: Path) -> None:
    rsa = public_line(make_key(tmp_path / "weak", "rsa", 1024))
    ran = keys(write(tmp_path / "old", f"{rsa}\n{ONE}\n"))
    assert ran.status == 1
    refused, added = ran.out.splitlines()
    assert "line 1: refused: the RSA key has 1024 bits and is too weak" in refused
    assert refused.endswith("use one with at least 2048 bits, or better an ssh-ed25519 key")
    assert ": added: SHA256:" in added
    assert authorized() == ["one"]


@pytest.mark.parametrize(("curves", "status"), [("false", 1), ("true", 0)])
def test_an_imported_nist_curve_key_gets_a_warning(
    keys: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, curves: str, status: int
) -> None:
    monkeypatch.setenv("SFTP_GATEWAY_NIST_CURVES", curves)
    key = make_key(tmp_path / "curve", "ecdsa")
    ran = keys(f"{key}.pub")
    assert ran.status == status
    assert ("not accepted unless nist_curves = true" in ran.out) == bool(status)
    assert authorized() == ["curve"]


def test_an_imported_expired_key_gets_a_warning(keys: Run, tmp_path: Path) -> None:
    ran = keys(write(tmp_path / "old", f'expiry-time="20200101Z" {ONE}'))
    assert ran.status == 1
    assert ran.out.endswith("its expiry-time= has passed\n")


def test_standard_input_is_imported_for_the_only_user(
    keys: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(ONE.encode() + b" \xff")))
    ran = keys("-")
    assert ran.status == 0
    assert ran.out.startswith("standard input, line 1: added: ")
    assert authorized() == ["one \ufffd"]


@pytest.mark.parametrize("what", ["home/ana/.ssh/authorized_keys", "home/ana/.ssh", "home/ana"])
def test_the_home_folders_name_is_the_user(keys: Run, tmp_path: Path, what: str) -> None:
    two_users()
    write(tmp_path / "home/ana/.ssh/authorized_keys", ONE)
    write(
        tmp_path / "home/ana/.ssh/id_ed25519.pub", TWO
    )  # ana's own client key, which is not imported
    assert keys(tmp_path / what).status == 0
    assert authorized("ana") == ["one"]


def test_a_folder_of_homes_is_imported_for_known_users(keys: Run, tmp_path: Path) -> None:
    two_users()
    write(tmp_path / "home/ana/.ssh/authorized_keys", ONE)
    write(tmp_path / "home/gvpocr/.ssh/authorized_keys2", TWO)
    write(tmp_path / "home/ubuntu/.ssh/authorized_keys", TWO)
    ran = keys(tmp_path / "home")
    assert ran.status == 1
    assert "home/ubuntu/.ssh/authorized_keys is skipped: there is no user ubuntu" in ran.err
    assert (authorized("ana"), authorized("gvpocr")) == (["one"], ["two"])


def test_a_folder_of_keys_or_per_user_files_is_imported(keys: Run, tmp_path: Path) -> None:
    two_users()
    write(tmp_path / "keys/b.pub", ONE)
    write(tmp_path / "keys/authorized_keys", TWO)
    write(tmp_path / "other/authorized_keys/ana", ONE)
    assert keys("--user", "gvpocr", tmp_path / "keys").status == 0
    assert sorted(authorized()) == ["one", "two"]
    assert keys(tmp_path / "other").status == 0
    assert authorized("ana") == ["one"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("missing",), "missing: cannot be read: No such file or directory"),
        (("--user", "nobody", "old"), "there is no user nobody; the configuration has gvpocr, ana"),
        (("old",), "old: whose keys? Give --user with one of gvpocr, ana"),
        (("--user", "ana", "empty"), "empty: contains no authorized_keys or .pub files"),
        (("--user", "ana", "private"), "private is a private key; give the public key"),
    ],
)
def test_an_invalid_import_writes_nothing(
    keys: Run, arguments: tuple[str, ...], message: str
) -> None:
    two_users()
    write("old", ONE)
    Path("empty").mkdir()
    write("private", generate_ed25519("x").private_pem.decode())
    ran = keys(*arguments)
    assert (ran.status, ran.out) == (2, "")
    assert message in ran.err
    assert not Path("keys").exists()


# Host keys


@pytest.mark.parametrize(
    ("kind", "name"), [("ed25519", "ssh_host_ed25519_key"), ("rsa", "ssh_host_rsa_key")]
)
def test_a_host_key_is_imported_unchanged(host: Run, tmp_path: Path, kind: str, name: str) -> None:
    old = make_key(tmp_path / "old", kind)
    assert host(old).status == 0
    new = Path("keys") / name
    assert new.read_bytes() == old.read_bytes()
    assert stat.S_IMODE(new.stat().st_mode) == 0o600
    assert public_line(new) == public_line(old)
    ran = host(old)
    assert (ran.status, ran.out) == (0, f"{old}: there already as keys/{name}\n")
    set_up(Settings(), gateway=None, report=lambda line: None)
    assert new.read_bytes() == old.read_bytes()


def test_a_folder_of_host_keys_is_imported(
    host: Run, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind in ("ed25519", "rsa", "ecdsa"):
        make_key(tmp_path / f"ssh_host_{kind}_key", kind)
    ran = host("--dry-run", tmp_path)
    assert not Path("keys").exists()
    ran = host(tmp_path)
    assert ran.status == 1  # one of them is not used
    assert ran.out.count(" now") == 3
    assert "ecdsa_key now; is on a NIST curve: not used unless nist_curves = true" in ran.out
    monkeypatch.setenv("SFTP_GATEWAY_NIST_CURVES", "true")
    assert host(tmp_path).status == 0
    run("init")
    assert run("check").status == 0


@pytest.mark.parametrize("old_format", ["PEM", "PKCS8"])
def test_older_host_key_formats_are_imported(
    host: Run, run: Run, tmp_path: Path, old_format: str
) -> None:
    old = make_key(tmp_path / "old", "rsa", 2048, "-m", old_format)
    assert host(old).status == 0
    run("init")
    assert run("check").status == 0


def test_an_existing_host_key_is_replaced_only_on_request(host: Run, tmp_path: Path) -> None:
    set_up(Settings(), gateway=None, report=lambda line: None)
    place = Path("keys/ssh_host_ed25519_key")
    first = public_line(place)
    old = make_key(tmp_path / "old", "ed25519")
    ran = host(old)
    assert ran.status == 2
    assert ran.out == (
        f"{old}: refused: {place} is another key. If workers know only the old server's, give "
        "--replace\n"
    )
    assert public_line(place) == first
    assert host("--replace", old).status == 0
    assert public_line(place) == public_line(old)
    assert public_line(Path(f"{place}.previous")) == first
    another = make_key(tmp_path / "another", "ed25519")
    assert "finish that rotation first" in host("--replace", another).out
    assert public_line(place) == public_line(old)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("encrypted", "is encrypted with a passphrase"),
        ("public", "is the public key; give "),
        ("nonsense", "is not a readable private key"),
    ],
)
def test_an_invalid_host_key_is_refused_with_a_remedy(
    host: Run, tmp_path: Path, content: str, message: str
) -> None:
    make_key(tmp_path / "key", "ed25519", None, *(["-N", "x"] if content == "encrypted" else []))
    write(tmp_path / "nonsense", "nonsense")
    file = {"encrypted": "key", "public": "key.pub", "nonsense": "nonsense"}[content]
    ran = host(tmp_path / file)
    assert ran.status == 2
    assert f"refused: {message}" in ran.out
    assert not Path("keys").exists()
