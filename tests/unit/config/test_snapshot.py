"""Which changes of the configuration running workers apply, and which need new workers."""

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


def reread(running: ConfigSnapshot, settings: Settings | None = None) -> ConfigSnapshot:
    return reread_config(lambda: settings or Settings(), CONFIG, running)


def test_an_unchanged_configuration_needs_nothing(running: ConfigSnapshot) -> None:
    found = reread(running)
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
def test_new_keys_are_applied_and_their_files_watched(
    running: ConfigSnapshot, change: Callable[[], None]
) -> None:
    change()
    found = reread(running)
    assert not found.needs_new_workers(running)
    assert found.credentials != running.credentials
    assert found.fingerprints.keys() == running.fingerprints.keys()
    assert found.fingerprints != running.fingerprints
    # As the supervisor sends it.
    assert pickle.loads(pickle.dumps(found.credentials)) == found.credentials  # noqa: S301


@pytest.mark.parametrize(
    "users",
    [
        {"gvpocr": UserSettings(), "ana": UserSettings(shares=("models",))},
        {"ana": UserSettings()},
        {"gvpocr": UserSettings(password_hash=SecretStr(hash_password("secret")))},
    ],
    ids=["added", "another", "password"],
)
def test_new_users_and_passwords_are_applied(
    running: ConfigSnapshot, users: dict[str, UserSettings]
) -> None:
    found = reread(running, Settings(users=users))
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
def test_any_other_change_needs_new_workers(
    running: ConfigSnapshot, settings: Callable[[], Settings]
) -> None:
    assert reread(running, settings()).needs_new_workers(running)


def test_a_share_with_another_folder_needs_new_workers(running: ConfigSnapshot) -> None:
    shutil.move("shared/models", "shared/moved")
    Path("shared/models").mkdir()
    assert reread(running).needs_new_workers(running)


def test_an_unavailable_share_is_a_warning_without_new_workers(
    running: ConfigSnapshot,
) -> None:
    shutil.move("shared/models", "shared/moved")
    add_key()
    found = reread(running)
    assert not found.needs_new_workers(running)
    assert found.credentials != running.credentials
    (warning,) = found.warnings
    models = Path("shared/models").absolute()
    assert reread(found).findings.roots == found.findings.roots
    assert warning.startswith(f"shares.models.path: there is no folder {models}; ")


def test_an_unavailable_new_share_is_a_warning(running: ConfigSnapshot) -> None:
    shares = {**running.settings.shares, "new": ShareSettings(path=Path("missing"))}
    found = reread(running, Settings(shares=shares))
    assert found.needs_new_workers(running)
    (warning,) = found.warnings
    assert warning.startswith("shares.new.path: there is no folder missing; ")


def test_an_unresponsive_share_is_not_accessed(running: ConfigSnapshot) -> None:
    shutil.move("shared/models", "shared/moved")
    found = reread_config(Settings, CONFIG, running, unresponsive=["models"])
    (warning,) = found.warnings
    assert "does not answer" in warning


def test_a_new_share_containing_the_keys_is_rejected(running: ConfigSnapshot) -> None:
    with pytest.raises(ConfigurationError, match="contains keys_dir"):
        reread(running, Settings(shares={"models": ShareSettings(path=Path())}))


def test_a_share_mounted_over_the_keys_does_not_block_key_changes(
    running: ConfigSnapshot,
) -> None:
    shutil.move("shared/models", "shared/moved")
    shutil.copytree("keys", "shared/models/keys")
    shutil.move("keys", "old-keys")
    Path("keys").symlink_to("shared/models/keys")
    (warning,) = reread(running).warnings
    assert "contains keys_dir" in warning


def test_end_sessions_is_applied_without_new_workers(running: ConfigSnapshot) -> None:
    found = reread(running, Settings(end_sessions_of_removed_keys=False))
    assert not found.needs_new_workers(running)
    assert found.credentials.end_sessions is False


def test_a_vanished_revocation_list_is_an_error(running: ConfigSnapshot) -> None:
    revoke()
    revoked = reread(running)
    Path("keys/revoked_keys").unlink()
    with pytest.raises(ConfigurationError, match="is gone"):
        reread(revoked)
    Path("keys/revoked_keys").write_text("")
    assert reread(revoked).credentials == running.credentials


@pytest.mark.parametrize("text", ["cert-authority ", 'cert-authority,principals="gvpocr,ana" '])
def test_a_global_authority_with_options_is_an_error(running: ConfigSnapshot, text: str) -> None:
    Path("keys/user_ca_keys").write_text(text + generate_ed25519("ca").public_line + "\n")
    with pytest.raises(ConfigurationError, match="belong into a user's authorized_keys"):
        reread(running)


@pytest.mark.parametrize("name", ["user_ca_keys", "revoked_keys"])
def test_a_credential_file_writable_by_others_is_an_error(
    running: ConfigSnapshot, name: str
) -> None:
    path = Path("keys") / name
    path.write_text("")
    path.chmod(0o666)
    with pytest.raises(ConfigurationError, match="is writable by others"):
        reread(running)


def test_an_invalid_revocation_list_is_an_error(running: ConfigSnapshot) -> None:
    Path("keys/revoked_keys").write_text("serial: 7\nnonsense\n")
    with pytest.raises(ConfigurationError, match="revoked_keys, line 2"):
        reread(running)


def serve_some(text: str) -> ConfigSnapshot:
    CONFIG.parent.mkdir(exist_ok=True)
    CONFIG.write_text(text)
    return read_config(Settings, CONFIG)


@pytest.mark.parametrize(
    ("lose", "why"),
    [(CONFIG.unlink, "is gone"), (lambda: CONFIG.write_text(""), "is empty"),
     (lambda: CONFIG.write_text(" \n"), "is empty")],
)  # fmt: skip
def test_a_vanished_configuration_file_is_an_error(
    running: ConfigSnapshot, lose: Callable[[], object], why: str
) -> None:
    some = serve_some("workers = 1\n")
    lose()
    with pytest.raises(ConfigurationError, match=f"config/sftp-gateway.toml {why}"):
        reread(some)
    CONFIG.write_text("# the defaults\n")
    assert reread(some).settings == running.settings


def test_a_vanished_empty_configuration_file_is_accepted(running: ConfigSnapshot) -> None:
    some = serve_some("")
    CONFIG.unlink()
    assert reread(some).settings == some.settings
    assert reread(running).settings == some.settings


def test_a_missing_status_token_does_not_open_the_page(running: ConfigSnapshot) -> None:
    token = Path("keys/status_token")
    token.write_text("a-token-that-is-long-enough\n")
    asking = reread(running)
    token.unlink()
    with pytest.raises(ConfigurationError, match="status_token is gone"):
        reread(asking)
    # Without a status page there is nothing to reject.
    assert reread(asking, Settings(status=StatusSettings(enabled=False))).status_token is None


def test_grants_exclude_revoked_keys(
    running: ConfigSnapshot,
) -> None:
    add_key()
    trust_authority()
    found = reread(running, Settings(users={"gvpocr": UserSettings(shares=("models",))}))
    assert found.grants.shares == {"gvpocr": ("models",)}
    made, new = found.grants.keys["gvpocr"].items()
    assert (made[1], new[1]) == ("sftp-gateway worker gvpocr", "new")
    assert list(found.grants.keys["*"].values()) == ["ca"]
    Path("keys/revoked_keys").write_text(f"{new[0]}\n")
    assert dict([made]) == reread(running).grants.keys["gvpocr"]
    hashed = SecretStr(hash_password("secret"))
    withs = reread(running, Settings(users={"gvpocr": UserSettings(password_hash=hashed)}))
    assert "password" in withs.grants.keys["gvpocr"]
