"""The first start creates missing files with the right owner and touches nothing else."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from sftp_gateway.auth import parse_authorized_keys
from sftp_gateway.config.bootstrap import set_up
from sftp_gateway.settings import (
    AccessLogSettings,
    Settings,
    ShareSettings,
    StatusSettings,
    UserSettings,
)
from sftp_gateway.system.dirfd import Owner

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")

#: Ids without users.
GATEWAY = Owner(54321, 54322)
HOST = Owner(54331, 54332)

#: The files that an unconfigured first start creates, with their modes.
MADE = {
    "keys": 0o755,
    "keys/ssh_host_ed25519_key": 0o600,
    "keys/ssh_host_ed25519_key.pub": 0o644,
    "keys/worker_ed25519": 0o600,
    "keys/worker_ed25519.pub": 0o644,
    "keys/authorized_keys": 0o755,
    "keys/authorized_keys/gvpocr": 0o644,
    "shared": 0o755,
    "shared/Bhushanji": 0o755,
    "shared/Bhushanji/README.txt": 0o644,
    "shared/huggingface": 0o755,
    "shared/huggingface/hub": 0o755,
    "shared/models": 0o755,
    "shared/models/README.txt": 0o644,
    "shared/newsletters": 0o755,
    "shared/newsletters/README.txt": 0o644,
}

SetUp = Callable[..., list[str]]


@pytest.fixture
def folder(unconfigured: Path) -> Path:
    """The working directory of a gateway before its first start."""
    return unconfigured


@pytest.fixture
def start(folder: Path) -> SetUp:
    """Runs the setup and returns its output."""

    def run(*, gateway: Owner | None = None, **options: Any) -> list[str]:
        output: list[str] = []
        set_up(Settings(**options), gateway=gateway, report=output.append)
        return output

    return run


@pytest.fixture(params=[0o000, 0o022, 0o077, 0o777], ids="umask {:03o}".format)
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


def modes(folder: Path) -> dict[str, int]:
    return {
        str(path.relative_to(folder)): stat.S_IMODE(path.lstat().st_mode)
        for path in sorted(folder.rglob("*"))
    }


def contents(folder: Path) -> dict[str, tuple[bytes, int, int]]:
    """The bytes, inode and ctime of each file."""
    return {
        str(path.relative_to(folder)): (
            path.read_bytes() if path.is_file() else b"",
            path.lstat().st_ino,
            path.lstat().st_ctime_ns,
        )
        for path in folder.rglob("*")
    }


def owner(path: Path) -> Owner:
    status = path.lstat()
    return Owner(status.st_uid, status.st_gid)


def public_of(private: Path) -> list[str]:
    """The type and blob of a private key's public key, from ssh-keygen."""
    ran = subprocess.run(["ssh-keygen", "-y", "-f", str(private)], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.split()[:2]


# Created files


@pytest.mark.usefixtures("umask")
def test_everything_is_created_with_its_mode_under_any_umask(start: SetUp, folder: Path) -> None:
    start()
    assert modes(folder) == MADE


def test_the_created_key_pairs_are_valid(start: SetUp, folder: Path) -> None:
    output = start()
    keys = folder / "keys"
    for name in ("ssh_host_ed25519_key", "worker_ed25519"):
        line = (keys / f"{name}.pub").read_text()
        assert line.endswith("\n")
        assert line.split()[:2] == public_of(keys / name)
    listed = (keys / "authorized_keys/gvpocr").read_text()
    assert listed == (keys / "worker_ed25519.pub").read_text()
    parsed = parse_authorized_keys(listed, source="file")
    assert (len(parsed.keys), parsed.errors) == (1, ())
    for name in ("ssh_host_ed25519_key", "worker_ed25519", "gvpocr", "Bhushanji", "models"):
        assert any(name in line for line in output)
    private = (keys / "worker_ed25519").read_text()
    assert not any(line in private for line in output if line)


def test_the_readme_names_its_share(start: SetUp, folder: Path) -> None:
    start()
    assert '"newsletters"' in (folder / "shared/newsletters/README.txt").read_text()


def test_the_hugging_face_cache_gets_no_readme(start: SetUp, folder: Path) -> None:
    start()
    assert list((folder / "shared/huggingface/hub").iterdir()) == []


def test_the_first_user_gets_the_workers_key(start: SetUp, folder: Path) -> None:
    start(users={"ana": UserSettings(), "ben": UserSettings()})
    assert [path.name for path in (folder / "keys/authorized_keys").iterdir()] == ["ana"]


def test_a_keys_folder_elsewhere_is_created_with_its_parents(start: SetUp, folder: Path) -> None:
    start(keys_dir=folder / "a/b/keys")
    assert (folder / "a/b/keys/ssh_host_ed25519_key").exists()
    assert not (folder / "keys").exists()


# Untouched files


def test_a_second_start_changes_and_prints_nothing(start: SetUp, folder: Path) -> None:
    start()
    before = contents(folder)
    assert start() == []
    assert contents(folder) == before


def test_existing_files_are_never_overwritten(start: SetUp, folder: Path) -> None:
    for path in ("keys/authorized_keys", "shared/models"):
        (folder / path).mkdir(parents=True)
    there = {
        "keys/ssh_host_ed25519_key": b"an old server's",
        "keys/authorized_keys/gvpocr": b"somebody's",
        "shared/models/README.txt": b"mine",
    }
    for name, content in there.items():
        (folder / name).write_bytes(content)
        (folder / name).chmod(0o640)
    start()
    for name, content in there.items():
        assert (folder / name).read_bytes() == content
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o640
    assert not (folder / "keys/ssh_host_ed25519_key.pub").exists()
    assert not (folder / "keys/worker_ed25519").exists()


@pytest.mark.parametrize(
    "user",
    [
        UserSettings(password_hash="$argon2id$x"),  # type: ignore[arg-type]
        UserSettings(password_hash_file=Path("/run/secrets/x")),
    ],
    ids=["hash", "file"],
)
def test_no_key_is_created_if_a_user_can_log_in(
    start: SetUp, folder: Path, user: UserSettings
) -> None:
    start(users={"ana": user, "ben": UserSettings()})
    assert not (folder / "keys/worker_ed25519").exists()
    assert not (folder / "keys/authorized_keys").exists()


def test_no_key_is_created_beside_any_users_key_file(start: SetUp, folder: Path) -> None:
    (folder / "keys/authorized_keys").mkdir(parents=True)
    (folder / "keys/authorized_keys/ben").touch()
    start(users={"ana": UserSettings(), "ben": UserSettings()})
    assert not (folder / "keys/worker_ed25519").exists()


def test_no_key_is_created_without_a_user(start: SetUp, folder: Path) -> None:
    start(users={})
    assert not (folder / "keys/worker_ed25519").exists()


def test_configured_shares_are_not_created(start: SetUp, folder: Path) -> None:
    start(
        shares={
            "data": ShareSettings(path=folder / "data"),
            "models": ShareSettings(path=folder / "elsewhere"),
        }
    )
    assert not (folder / "data").exists()
    assert not (folder / "elsewhere").exists()
    assert not (folder / "shared").exists()


def test_an_explicitly_configured_default_share_is_created(start: SetUp, folder: Path) -> None:
    start(shares={"models": ShareSettings(path=Path("shared/models"))})
    assert os.listdir(folder / "shared") == ["models"]


def test_an_empty_share_gets_a_readme_at_the_first_start_only(start: SetUp, folder: Path) -> None:
    (folder / "shared/models").mkdir(parents=True)
    start()
    text = folder / "shared/models/README.txt"
    assert text.exists()
    text.unlink()
    start()
    assert not text.exists()


def test_a_non_empty_share_gets_no_readme(start: SetUp, folder: Path) -> None:
    (folder / "shared/models").mkdir(parents=True)
    (folder / "shared/models/.hidden").touch()
    start()
    assert os.listdir(folder / "shared/models") == [".hidden"]


def test_a_deleted_default_share_is_recreated(start: SetUp, folder: Path) -> None:
    start()
    (folder / "shared/models/README.txt").unlink()
    (folder / "shared/models").rmdir()
    (output,) = start()
    assert "shared/models" in output
    assert (folder / "shared/models/README.txt").exists()


# Incomplete pairs and links


@pytest.mark.parametrize("name", ["ssh_host_ed25519_key", "worker_ed25519"])
def test_a_public_key_without_its_private_key_is_replaced(
    start: SetUp, folder: Path, name: str
) -> None:
    (folder / "keys").mkdir()
    (folder / f"keys/{name}.pub").write_text("ssh-ed25519 half " + "x" * 1000)
    start()
    line = (folder / f"keys/{name}.pub").read_text()
    assert line.split()[:2] == public_of(folder / "keys" / name)


@pytest.mark.parametrize(
    "name",
    [
        "ssh_host_ed25519_key",
        "ssh_host_ed25519_key.pub",
        "worker_ed25519",
        "worker_ed25519.pub",
        "authorized_keys/gvpocr",
    ],
)
@pytest.mark.parametrize("there", [True, False], ids=["to a file", "dangling"])
def test_a_link_in_place_of_a_key_is_never_written_through(
    start: SetUp, folder: Path, tmp_path: Path, name: str, there: bool
) -> None:
    target = tmp_path / "target"
    if there:
        target.write_bytes(b"precious")
    link = folder / "keys" / name
    link.parent.mkdir(parents=True)
    link.symlink_to(target)
    with contextlib.suppress(OSError):
        start()
    assert link.is_symlink()
    assert (target.read_bytes() == b"precious") if there else (not target.exists())


def test_a_failure_to_create_a_file_names_its_path(start: SetUp, folder: Path) -> None:
    (folder / "keys").write_bytes(b"a file")
    with pytest.raises(OSError, match="keys"):
        start()


# Owners


@as_root
def test_another_users_gateway_owns_only_the_host_key(start: SetUp, folder: Path) -> None:
    os.chown(folder, HOST.uid, HOST.gid)
    start(gateway=GATEWAY)
    owners = {name: owner(folder / name) for name in MADE}
    assert owners.pop("keys/ssh_host_ed25519_key") == GATEWAY
    assert set(owners.values()) == {HOST}


@as_root
def test_the_same_users_gateway_owns_the_host_key(start: SetUp, folder: Path) -> None:
    os.chown(folder, HOST.uid, HOST.gid)
    start()
    assert owner(folder / "keys/ssh_host_ed25519_key") == Owner(os.geteuid(), os.getegid())
    assert owner(folder / "keys/worker_ed25519") == HOST


@as_root
def test_a_readme_belongs_to_the_shares_owner(start: SetUp, folder: Path) -> None:
    (folder / "shared/models").mkdir(parents=True)
    os.chown(folder / "shared/models", HOST.uid, HOST.gid)
    start(gateway=GATEWAY)
    assert owner(folder / "shared/models/README.txt") == HOST


@as_root
def test_a_second_start_for_the_same_user_changes_nothing(start: SetUp, folder: Path) -> None:
    start(gateway=GATEWAY)
    before = contents(folder)
    assert start(gateway=GATEWAY) == []
    assert contents(folder) == before


def can_read(path: Path, owner: Owner) -> bool:
    """Whether a process of this user can read the file."""
    ran = subprocess.run(
        ["cat", str(path)],
        user=owner.uid,
        group=owner.gid,
        extra_groups=[],
        capture_output=True,
    )
    return ran.returncode == 0


@as_root
def test_the_gateways_user_can_read_files_made_under_a_strict_umask(
    reachable: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(reachable)
    before = os.umask(0o077)
    try:
        for name in ("keys/authorized_keys", "config"):
            (reachable / name).mkdir(parents=True)
        for name in (
            "keys/ssh_host_rsa_key", "keys/authorized_keys/gvpocr", "config/sftp-gateway.toml",
            "config/hash", "config/other",
        ):  # fmt: skip
            (reachable / name).write_bytes(b"content")
        for path in (reachable / "keys", *(reachable / "keys").rglob("*")):
            os.chown(path, HOST.uid, HOST.gid)
        settings = Settings(users={"gvpocr": UserSettings(password_hash_file=Path("config/hash"))})
        set_up(settings, gateway=GATEWAY, report=lambda line: None)
    finally:
        os.umask(before)
    for name in (
        "keys/ssh_host_ed25519_key", "keys/ssh_host_rsa_key", "keys/authorized_keys/gvpocr",
        "config/sftp-gateway.toml", "config/hash",
    ):  # fmt: skip
        assert can_read(reachable / name, GATEWAY), name
        assert not can_read(reachable / name, Owner(54399, 54399)), name
    assert not can_read(reachable / "config/other", GATEWAY)
    assert modes(reachable)["keys/ssh_host_rsa_key"] == 0o600


# Links in place of files


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A file of another user, in its own folder."""
    file = tmp_path / "victim/gvpocr"
    file.parent.mkdir()
    file.write_bytes(b"precious")
    file.chmod(0o640)
    file.parent.chmod(0o750)
    return file


def assert_untouched(victim: Path) -> None:
    assert [owner(path) for path in (victim, victim.parent)] == [Owner(0, 0)] * 2
    assert modes(victim.parents[1])["victim"] == 0o750
    assert modes(victim.parent) == {"gvpocr": 0o640}
    assert victim.read_bytes() == b"precious"


@as_root
@pytest.mark.parametrize("name", ["keys", "keys/authorized_keys", "config"])
def test_a_linked_folder_is_refused_and_its_target_unchanged(
    start: SetUp, folder: Path, victim: Path, name: str
) -> None:
    if name != "keys":
        (folder / "keys").mkdir()
    (folder / name).symlink_to(victim.parent)
    with pytest.raises(OSError, match="symbolic link") as raised:
        start(gateway=GATEWAY)
    assert raised.value.filename == name
    assert_untouched(victim)


@as_root
@pytest.mark.parametrize(
    "name", ["authorized_keys/ben", "ssh_host_rsa_key", "user_ca_keys", "hash"]
)
def test_a_linked_file_is_refused_and_its_target_unchanged(
    start: SetUp, folder: Path, victim: Path, name: str
) -> None:
    (folder / "keys/authorized_keys").mkdir(parents=True)
    (folder / "keys" / name).symlink_to(victim)
    users = {"gvpocr": UserSettings(password_hash_file=Path("keys/hash"))}
    with pytest.raises(OSError, match="symbolic link") as raised:
        start(gateway=GATEWAY, users=users)
    assert raised.value.filename == f"keys/{name}"
    assert_untouched(victim)


@as_root
@pytest.mark.parametrize("name", ["authorized_keys/ben", "ssh_host_rsa_key"])
def test_a_hard_linked_file_is_refused(start: SetUp, folder: Path, victim: Path, name: str) -> None:
    (folder / "keys/authorized_keys").mkdir(parents=True)
    os.link(victim, folder / "keys" / name)
    with pytest.raises(OSError, match="has 2 names") as raised:
        start(gateway=GATEWAY)
    assert raised.value.filename == f"keys/{name}"
    assert_untouched(victim)


@as_root
def test_a_public_key_is_not_written_through_a_hard_link(
    start: SetUp, folder: Path, victim: Path
) -> None:
    (folder / "keys").mkdir()
    os.link(victim, folder / "keys/ssh_host_ed25519_key.pub")
    start()
    assert_untouched(victim)


@as_root
@pytest.mark.parametrize("name", ["gvpocr", "."], ids=["file", "folder"])
def test_a_path_swapped_for_a_link_leaves_its_target_unchanged(
    start: SetUp, folder: Path, victim: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    authorized = folder / "keys/authorized_keys"
    authorized.mkdir(parents=True)
    (authorized / "gvpocr").touch()
    (authorized / "gvpocr").chmod(0o640)
    authorized.chmod(0o750)
    place = authorized / name if name != "." else authorized
    target = victim if name != "." else victim.parent
    looked_at = os.stat(place)
    real, swapped = (os.stat, os.fstat), []

    def swap(found: os.stat_result) -> os.stat_result:
        if os.path.samestat(found, looked_at) and not swapped:
            swapped.append(place.rename(place.with_name("aside")))
            place.symlink_to(target)
        return found

    monkeypatch.setattr(os, "stat", lambda *a, **more: swap(real[0](*a, **more)))
    monkeypatch.setattr(os, "fstat", lambda descriptor: swap(real[1](descriptor)))
    with contextlib.suppress(OSError):
        start(gateway=GATEWAY)
    monkeypatch.undo()
    assert swapped
    assert_untouched(victim)


@as_root
def test_an_intermediate_link_of_another_user_is_not_followed(
    start: SetUp, folder: Path, victim: Path
) -> None:
    (folder / "way").symlink_to(victim.parent)
    os.lchown(folder / "way", HOST.uid, HOST.gid)
    with pytest.raises(OSError, match="others than user 0 can change"):
        start(keys_dir=Path("way/keys"))
    assert_untouched(victim)


@as_root
def test_an_intermediate_link_of_root_is_followed(
    start: SetUp, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (folder / "way").symlink_to(tmp_path / "elsewhere")
    start(keys_dir=Path("way/keys"), gateway=GATEWAY)
    assert owner(tmp_path / "elsewhere/keys/ssh_host_ed25519_key") == GATEWAY


def test_a_linked_share_gets_no_readme(start: SetUp, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (folder / "shared").mkdir()
    (folder / "shared/models").symlink_to(tmp_path / "elsewhere")
    start()
    assert os.listdir(tmp_path / "elsewhere") == []


@as_root
def test_a_group_readable_secret_is_not_opened_to_others(start: SetUp, folder: Path) -> None:
    secret = folder / "hash"
    secret.write_bytes(b"secret")
    secret.chmod(0o640)
    start(gateway=GATEWAY, users={"ana": UserSettings(password_hash_file=secret)})
    assert stat.S_IMODE(secret.stat().st_mode) == 0o640
    assert owner(secret) == Owner(0, 0)


# The status page's token


def test_a_token_is_created_for_a_reachable_status_page(folder: Path, start: SetUp) -> None:
    output = start(metrics_host="0.0.0.0")
    file = folder / "keys/status_token"
    token = file.read_text().strip()
    assert "generated status page token keys/status_token" in output
    assert len(token) >= 32
    assert token not in "".join(output)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    start(metrics_host="0.0.0.0")
    assert file.read_text().strip() == token


@pytest.mark.parametrize(
    "options",
    [
        {"metrics_host": "127.0.0.1"},
        {"metrics_host": "::1"},
        {"metrics_host": "localhost"},
        {"metrics_host": "0.0.0.0", "status": StatusSettings(enabled=False)},
        {"metrics_host": "0.0.0.0", "status": StatusSettings(token=SecretStr("x" * 16))},
        {"metrics_host": "0.0.0.0", "status": StatusSettings(token_file=Path("secret"))},
    ],
)
def test_no_token_is_created_for_an_unreachable_status_page(
    folder: Path, start: SetUp, options: dict[str, Any]
) -> None:
    start(**options)
    assert not (folder / "keys/status_token").exists()


@as_root
def test_the_token_is_readable_by_the_gateway_and_the_keys_owner(
    folder: Path, start: SetUp
) -> None:
    (folder / "keys").mkdir()
    os.chown(folder / "keys", HOST.uid, HOST.gid)
    start(gateway=GATEWAY, metrics_host="0.0.0.0")
    status = (folder / "keys/status_token").stat()
    assert (status.st_uid, status.st_gid) == (HOST.uid, GATEWAY.gid)
    assert stat.S_IMODE(status.st_mode) == 0o640


# A new gateway user

OTHER = Owner(54341, 54342)


@pytest.fixture
def deployed(reachable: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder owned by HOST with all files of a gateway, most of them private."""
    monkeypatch.chdir(reachable)
    for name in ("config", "logs", "state", "keys"):
        (reachable / name).mkdir()
    (reachable / "keys").chmod(0o700)
    for name in ("config/sftp-gateway.toml", "config/hash"):
        (reachable / name).write_text("secret")
        (reachable / name).chmod(0o600)
    for path in (reachable, *reachable.rglob("*")):
        os.chown(path, HOST.uid, HOST.gid)
    return reachable


READ = (
    "keys/ssh_host_ed25519_key", "keys/ssh_host_ed25519_key.next", "keys/status_token",
    "keys/authorized_keys/gvpocr", "keys/revoked_keys", "config/sftp-gateway.toml", "config/hash",
)  # fmt: skip
WRITTEN = (
    "logs/access.log", "logs/access.log.1", "logs/access.log.2.gz", "state/history.sqlite3",
    "state/history.sqlite3-wal", "state/history.sqlite3-shm",
)  # fmt: skip


def serve_as(gateway: Owner) -> list[str]:
    """Run the setup as a container's init and then as its gateway; returns the output."""
    output: list[str] = []
    settings = Settings(
        metrics_host="0.0.0.0",
        access_log=AccessLogSettings(file=Path("logs/access.log")),
        users={"gvpocr": UserSettings(password_hash_file=Path("config/hash"))},
    )
    Path("keys/authorized_keys").mkdir(exist_ok=True)
    for name in ("authorized_keys/gvpocr", "revoked_keys", "ssh_host_ed25519_key.next"):
        (Path("keys") / name).touch(0o640)
    set_up(settings, gateway=gateway, report=output.append)
    for name in WRITTEN:
        if not Path(name).exists():
            Path(name).touch(0o640)
            os.chown(name, gateway.uid, gateway.gid)
    return output


def can_append(path: Path, owner: Owner) -> bool:
    """Whether a process of this user can append to the file and create another beside it."""
    ran = subprocess.run(
        ["sh", "-c", 'echo >>"$1" && mv "$1" "$1.old" && mv "$1.old" "$1"', "sh", str(path)],
        user=owner.uid, group=owner.gid, extra_groups=[], capture_output=True,
    )  # fmt: skip
    return ran.returncode == 0


@as_root
def test_a_new_gateway_user_is_given_all_files_it_uses(deployed: Path) -> None:
    for gateway, former in ((GATEWAY, OTHER), (OTHER, GATEWAY), (GATEWAY, OTHER)):
        output = serve_as(gateway)
        assert not [line for line in output if line.startswith("warning")]
        for name in (*READ, *WRITTEN):
            assert can_read(deployed / name, gateway), name
            assert not can_read(deployed / name, former), name
            assert not can_read(deployed / name, Owner(54399, 54399)), name
        for name in WRITTEN:
            assert can_append(deployed / name, gateway), name
        assert owner(deployed / "config/sftp-gateway.toml").uid == HOST.uid
        assert serve_as(gateway) == []


@as_root
def test_a_new_gateway_user_is_given_files_in_a_world_writable_folder(deployed: Path) -> None:
    (deployed / "logs").chmod(0o1777)
    os.chown(deployed / "logs", 0, 0)
    serve_as(GATEWAY)
    serve_as(OTHER)
    assert owner(deployed / "logs") == Owner(0, 0)
    assert can_append(deployed / "logs/access.log.1", OTHER)


@as_root
def test_a_folder_with_foreign_files_is_not_given_away(deployed: Path) -> None:
    (deployed / "logs/syslog").touch(0o600)
    os.chown(deployed / "logs/syslog", HOST.uid, HOST.gid)
    output = serve_as(GATEWAY)
    assert owner(deployed / "logs") == owner(deployed / "logs/syslog") == HOST
    (warning,) = [line for line in output if line.startswith("warning")]
    assert "cannot write to logs, which has other files in it" in warning


@as_root
@pytest.mark.parametrize("name", ["logs/access.log", "state/history.sqlite3", "keys/status_token"])
@pytest.mark.parametrize("link", [os.symlink, os.link], ids=["symbolic", "hard"])
def test_a_link_among_written_files_is_left_alone(
    deployed: Path, name: str, link: Callable[[Path, Path], None]
) -> None:
    serve_as(GATEWAY)
    precious = deployed / "precious"
    precious.write_bytes(b"precious")
    precious.chmod(0o600)
    (deployed / name).unlink()
    link(precious, deployed / name)
    output = serve_as(OTHER)
    assert any(line.startswith(f"warning: {name}: ") for line in output)
    assert owner(precious) == Owner(0, 0)
    assert stat.S_IMODE(precious.stat().st_mode) == 0o600
    assert can_read(deployed / "keys/ssh_host_ed25519_key", OTHER)


@as_root
def test_a_former_gateways_socket_is_removed(deployed: Path) -> None:
    serve_as(GATEWAY)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(deployed / "state/control"))
    os.chown(deployed / "state/control", GATEWAY.uid, GATEWAY.gid)
    serve_as(GATEWAY)
    assert (deployed / "state/control").exists()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(deployed / "state/strangers"))
    os.chown(deployed / "state/strangers", HOST.uid, HOST.gid)
    serve_as(OTHER)
    assert not (deployed / "state/control").exists()
    assert (deployed / "state/strangers").exists()


@as_root
def test_folders_written_by_the_gateway_are_created_for_it(deployed: Path) -> None:
    (deployed / "state").rmdir()
    set_up(Settings(), gateway=GATEWAY, report=lambda line: None)
    assert owner(deployed / "state") == GATEWAY
