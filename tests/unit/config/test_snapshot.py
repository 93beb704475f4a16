"""What running workers can take over of a new configuration, and what takes new ones."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import SecretStr

from sftp_gateway.auth import generate_ed25519, hash_password
from sftp_gateway.config.bootstrap import set_up
from sftp_gateway.config.snapshot import ConfigSnapshot, read_config, reread_config
from sftp_gateway.errors import ConfigurationError
from sftp_gateway.settings import Settings, ShareSettings, StatusSettings, UserSettings

CONFIG = Path("config/sftp-gateway.toml")


@pytest.fixture
def running(unconfigured: Path) -> ConfigSnapshot:
    set_up(Settings(), gateway=None, report=lambda line: None)
    return read_config(Settings, CONFIG)


def again(running: ConfigSnapshot, settings: Settings | None = None) -> ConfigSnapshot:
    return reread_config(lambda: settings or Settings(), CONFIG, running)


def test_the_same_again_is_nothing_new(running: ConfigSnapshot) -> None:
    found = again(running)
    assert not found.needs_new_workers(running)
    assert found.credentials == running.credentials
    assert found.fingerprints == running.fingerprints


def add_key() -> None:
    with Path("keys/authorized_keys/gvpocr").open("a") as file:
        file.write(generate_ed25519("new").public_line + "\n")


def trust_authority() -> None:
    Path("keys/user_ca_keys").write_text(generate_ed25519("ca").public_line + "\n")


def revoke() -> None:
    Path("keys/revoked_keys").write_text("serial: 7\n")


def next_host_key() -> None:
    path = Path("keys/ssh_host_ed25519_key.next")
    path.write_bytes(generate_ed25519("next").private_pem)
    path.chmod(0o600)


@pytest.mark.parametrize("change", [add_key, trust_authority, revoke, next_host_key])
def test_keys_are_taken_over_and_their_files_are_watched(
    running: ConfigSnapshot, change: Callable[[], None]
) -> None:
    change()
    found = again(running)
    assert not found.needs_new_workers(running)
    assert found.credentials != running.credentials
    assert found.fingerprints.keys() == running.fingerprints.keys()
    assert found.fingerprints != running.fingerprints
    # As the supervisor hands it over.
    assert pickle.loads(pickle.dumps(found.credentials)) == found.credentials  # noqa: S301 - our own


@pytest.mark.parametrize(
    "users",
    [
        {"gvpocr": UserSettings(), "ana": UserSettings(shares=("models",))},
        {"ana": UserSettings()},
        {"gvpocr": UserSettings(password_hash=SecretStr(hash_password("secret")))},
    ],
    ids=["added", "another", "password"],
)
def test_users_and_passwords_are_taken_over(
    running: ConfigSnapshot, users: dict[str, UserSettings]
) -> None:
    found = again(running, Settings(users=users))
    assert not found.needs_new_workers(running)
    assert found.credentials != running.credentials


@pytest.mark.parametrize(
    "settings",
    [
        lambda: Settings(max_handles=99),
        lambda: Settings(auto_reload=False),
        lambda: Settings(users={"gvpocr": UserSettings(shares=("models",))}),
        lambda: Settings(shares={"models": ShareSettings(path=Path("shared/models"))}),
    ],
)
def test_anything_else_takes_new_workers(
    running: ConfigSnapshot, settings: Callable[[], Settings]
) -> None:
    assert again(running, settings()).needs_new_workers(running)


def test_a_share_whose_folder_is_another_one_takes_new_workers(running: ConfigSnapshot) -> None:
    shutil.move("shared/models", "shared/moved")
    Path("shared/models").mkdir()
    assert again(running).needs_new_workers(running)


def test_a_share_that_is_away_is_a_warning_and_takes_no_new_workers(
    running: ConfigSnapshot,
) -> None:
    shutil.move("shared/models", "shared/moved")
    add_key()
    found = again(running)
    assert not found.needs_new_workers(running)
    assert found.credentials != running.credentials
    (warning,) = found.warnings
    models = Path("shared/models").absolute()
    assert again(found).findings.roots == found.findings.roots
    assert warning.startswith(f"shares.models.path: there is no folder {models}; ")


def test_a_new_share_that_is_away_is_a_warning(running: ConfigSnapshot) -> None:
    shares = {**running.settings.shares, "new": ShareSettings(path=Path("missing"))}
    found = again(running, Settings(shares=shares))
    assert found.needs_new_workers(running)
    (warning,) = found.warnings
    assert warning.startswith("shares.new.path: there is no folder missing; ")


def test_a_share_that_hangs_is_not_looked_at(running: ConfigSnapshot) -> None:
    shutil.move("shared/models", "shared/moved")
    found = reread_config(Settings, CONFIG, running, unresponsive=["models"])
    (warning,) = found.warnings
    assert "does not answer" in warning


def test_a_new_share_with_the_keys_is_refused(running: ConfigSnapshot) -> None:
    with pytest.raises(ConfigurationError, match="contains keys_dir"):
        again(running, Settings(shares={"models": ShareSettings(path=Path())}))


def test_a_share_that_is_mounted_over_the_keys_does_not_stop_changes_of_these(
    running: ConfigSnapshot,
) -> None:
    shutil.move("shared/models", "shared/moved")
    shutil.copytree("keys", "shared/models/keys")
    shutil.move("keys", "old-keys")
    Path("keys").symlink_to("shared/models/keys")
    (warning,) = again(running).warnings
    assert "contains keys_dir" in warning


def test_whether_sessions_end_is_taken_over(running: ConfigSnapshot) -> None:
    found = again(running, Settings(end_sessions_of_removed_keys=False))
    assert not found.needs_new_workers(running)
    assert found.credentials.end_sessions is False


def test_a_list_of_what_is_revoked_must_not_go_away(running: ConfigSnapshot) -> None:
    revoke()
    revoked = again(running)
    Path("keys/revoked_keys").unlink()
    with pytest.raises(ConfigurationError, match="is gone"):
        again(revoked)
    Path("keys/revoked_keys").write_text("")
    assert again(revoked).credentials == running.credentials


@pytest.mark.parametrize("text", ["cert-authority ", 'cert-authority,principals="gvpocr,ana" '])
def test_authorities_for_all_do_not_say_for_whom(running: ConfigSnapshot, text: str) -> None:
    Path("keys/user_ca_keys").write_text(text + generate_ed25519("ca").public_line + "\n")
    with pytest.raises(ConfigurationError, match="belong into a user's authorized_keys"):
        again(running)


@pytest.mark.parametrize("name", ["user_ca_keys", "revoked_keys"])
def test_what_others_can_write_is_not_trusted(running: ConfigSnapshot, name: str) -> None:
    path = Path("keys") / name
    path.write_text("")
    path.chmod(0o666)
    with pytest.raises(ConfigurationError, match="is writable by others"):
        again(running)


def test_a_revocation_that_is_not_understood_stops_everything(running: ConfigSnapshot) -> None:
    Path("keys/revoked_keys").write_text("serial: 7\nnonsense\n")
    with pytest.raises(ConfigurationError, match="revoked_keys, line 2"):
        again(running)


def serve_some(text: str) -> ConfigSnapshot:
    CONFIG.parent.mkdir(exist_ok=True)
    CONFIG.write_text(text)
    return read_config(Settings, CONFIG)


@pytest.mark.parametrize(
    ("lose", "why"),
    [(CONFIG.unlink, "is gone"), (lambda: CONFIG.write_text(""), "is empty"),
     (lambda: CONFIG.write_text(" \n"), "is empty")],
)  # fmt: skip
def test_a_configuration_file_that_had_something_must_not_go_away(
    running: ConfigSnapshot, lose: Callable[[], object], why: str
) -> None:
    some = serve_some("workers = 1\n")
    lose()
    with pytest.raises(ConfigurationError, match=f"config/sftp-gateway.toml {why}"):
        again(some)
    CONFIG.write_text("# the defaults\n")
    assert again(some).settings == running.settings


def test_a_configuration_file_that_had_nothing_may_go_away(running: ConfigSnapshot) -> None:
    some = serve_some("")
    CONFIG.unlink()
    assert again(some).settings == some.settings
    assert again(running).settings == some.settings


def test_a_missing_status_token_does_not_open_the_page(running: ConfigSnapshot) -> None:
    token = Path("keys/status_token")
    token.write_text("a-token-that-is-long-enough\n")
    asking = again(running)
    token.unlink()
    with pytest.raises(ConfigurationError, match="status_token is gone"):
        again(asking)
    # Where there is no page, there is nothing to refuse.
    assert again(asking, Settings(status=StatusSettings(enabled=False))).status_token is None


def test_who_is_served_by_which_keys_is_known_without_what_is_revoked(
    running: ConfigSnapshot,
) -> None:
    add_key()
    trust_authority()
    found = again(running, Settings(users={"gvpocr": UserSettings(shares=("models",))}))
    assert found.grants.shares == {"gvpocr": ("models",)}
    made, new = found.grants.keys["gvpocr"].items()
    assert (made[1], new[1]) == ("sftp-gateway worker gvpocr", "new")
    assert list(found.grants.keys["*"].values()) == ["ca"]
    Path("keys/revoked_keys").write_text(f"{new[0]}\n")
    assert dict([made]) == again(running).grants.keys["gvpocr"]
    hashed = SecretStr(hash_password("secret"))
    withs = again(running, Settings(users={"gvpocr": UserSettings(password_hash=hashed)}))
    assert "password" in withs.grants.keys["gvpocr"]
