"""All files named in the settings are validated, and each error is one sentence."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from sftp_gateway.auth import generate_ed25519, hash_password
from sftp_gateway.config.bootstrap import set_up
from sftp_gateway.config.snapshot import inspect_config
from sftp_gateway.config.validate import Findings
from sftp_gateway.sandbox import landlock
from sftp_gateway.settings import (
    DEFAULT_CONFIG_FILE,
    AccessLogSettings,
    HistorySettings,
    Settings,
    ShareSettings,
    StatusSettings,
    UserSettings,
)

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become nobody")

REPOSITORY = Path(__file__).resolve().parents[2]
HASH = hash_password("correct horse")
NOBODY = 65534

Inspect = Callable[..., Findings]


@pytest.fixture
def folder(unconfigured: Path) -> Path:
    """The working directory of a gateway after setup."""
    set_up(Settings(), gateway=None, report=lambda line: None)
    return unconfigured


@pytest.fixture
def inspect(folder: Path) -> Inspect:
    """Runs the validation with some options."""

    def run(**options: Any) -> Findings:
        return inspect_config(Settings(**options), DEFAULT_CONFIG_FILE).findings

    return run


def test_the_initial_configuration_is_valid(inspect: Inspect) -> None:
    findings = inspect()
    assert (findings.errors, findings.warnings) == ([], [])
    assert [key.path for key in findings.host_keys] == [Path("keys/ssh_host_ed25519_key")]
    (credentials,) = findings.credentials
    assert (credentials.user, credentials.password_hash) == ("gvpocr", None)
    assert [key.comment for key in credentials.keys.keys] == ["sftp-gateway worker gvpocr"]


def test_all_errors_are_returned_at_once(inspect: Inspect, folder: Path) -> None:
    (folder / "keys/ssh_host_ed25519_key").chmod(0o644)
    (folder / "keys/authorized_keys/gvpocr").chmod(0o666)
    findings = inspect(
        users={"gvpocr": UserSettings(password_hash=SecretStr("hunter2"))},
        shares={"a": ShareSettings(path=folder / "missing")},
        access_log=AccessLogSettings(stdout=False, file=folder / "nowhere/access.log"),
    )
    said_of_all = [*findings.errors, *findings.away]
    assert len(said_of_all) == 5
    for message in said_of_all:
        assert "hunter2" not in message
        assert "\n" not in message


# Host keys


def test_a_host_key_is_required(inspect: Inspect, folder: Path) -> None:
    (folder / "keys/ssh_host_ed25519_key").unlink()
    (message,) = inspect().errors
    assert message.startswith("keys_dir: there is no host key keys/ssh_host_ed25519_key; ")
    assert "sftp-gateway init" in message


@pytest.mark.parametrize("name", ["ssh_host_rsa_key", "ssh_host_ecdsa_key"])
def test_rsa_and_ecdsa_host_keys_are_used(inspect: Inspect, folder: Path, name: str) -> None:
    (folder / "keys" / name).write_bytes(generate_ed25519("old").private_pem)
    (folder / "keys" / name).chmod(0o600)
    both = [Path("keys/ssh_host_ed25519_key"), Path("keys") / name]
    assert [key.path for key in inspect(nist_curves=True).host_keys] == both
    (folder / "keys/ssh_host_ed25519_key").unlink()
    findings = inspect(nist_curves=True)
    assert findings.errors == []
    assert [key.path for key in findings.host_keys] == [Path("keys") / name]


def test_a_nist_curve_host_key_is_ignored_by_default(inspect: Inspect, folder: Path) -> None:
    (folder / "keys/ssh_host_ecdsa_key").write_bytes(generate_ed25519("old").private_pem)
    (folder / "keys/ssh_host_ecdsa_key").chmod(0o600)
    findings = inspect()
    assert [key.path for key in findings.host_keys] == [Path("keys/ssh_host_ed25519_key")]
    (message,) = findings.warnings
    assert message.startswith("keys/ssh_host_ecdsa_key: is on a NIST curve and not used; ")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o777])
def test_a_world_readable_host_key_is_refused(inspect: Inspect, folder: Path, mode: int) -> None:
    (folder / "keys/ssh_host_ed25519_key").chmod(mode)
    (message,) = inspect().errors
    assert f"mode {mode:04o}" in message
    assert "chmod 600" in message


def test_a_folder_in_place_of_a_host_key_is_refused(inspect: Inspect, folder: Path) -> None:
    (folder / "keys/ssh_host_ed25519_key").unlink()
    (folder / "keys/ssh_host_ed25519_key").mkdir()
    (message,) = inspect().errors
    assert "is not a regular file" in message


@pytest.mark.parametrize("name", ["rot13", "aes128-cbc", ""])
def test_an_unknown_cipher_is_an_error_that_lists_the_known(inspect: Inspect, name: str) -> None:
    (message,) = inspect(ciphers=("aes256-ctr", name)).errors
    assert message.startswith(f"ciphers: {name} cannot be offered; choose from ")
    assert "aes128-gcm@openssh.com" in message


# Users


def test_a_user_without_credentials_is_a_warning(inspect: Inspect) -> None:
    findings = inspect(users={"gvpocr": UserSettings(shares="*"), "ana": UserSettings()})
    assert findings.errors == []
    (message,) = findings.warnings
    assert message.startswith("users.ana: nothing lets this user log in; ")
    assert "keys/authorized_keys/ana" in message
    assert "password_hash" in message
    assert [each.user for each in findings.credentials] == ["gvpocr", "ana"]


def test_a_password_is_a_sufficient_credential(inspect: Inspect) -> None:
    findings = inspect(users={"ana": UserSettings(password_hash=SecretStr(f" {HASH}\n"))})
    assert (findings.errors, findings.warnings) == ([], [])
    assert findings.credentials[0].password_hash == HASH


def test_a_password_hash_may_be_in_a_file(inspect: Inspect, folder: Path) -> None:
    (folder / "secret").write_text(f"{HASH}\n")
    findings = inspect(users={"ana": UserSettings(password_hash_file=folder / "secret")})
    assert (findings.errors, findings.warnings) == ([], [])
    assert findings.credentials[0].password_hash == HASH


@pytest.mark.parametrize("text", ["hunter2", "", "$argon2i$v=19$m=8,t=1,p=1$x$y", HASH + "x" * 90])
def test_an_invalid_argon2id_hash_is_an_error_without_the_hash(inspect: Inspect, text: str) -> None:
    findings = inspect(users={"ana": UserSettings(password_hash=SecretStr(text))})
    (message,) = findings.errors
    assert message.startswith("users.ana.password_hash: ")
    assert "sftp-gateway hash-password" in message
    assert not text or text not in message
    assert findings.credentials[0].password_hash is None


@pytest.mark.parametrize("content", [None, b"\xff\xfe"], ids=["missing", "not text"])
def test_an_unreadable_password_file_is_an_error(
    inspect: Inspect, folder: Path, content: bytes | None
) -> None:
    if content is not None:
        (folder / "secret").write_bytes(content)
    findings = inspect(users={"ana": UserSettings(password_hash_file=folder / "secret")})
    (message,) = findings.errors
    assert message.startswith(f"users.ana.password_hash_file: {folder / 'secret'} cannot be read: ")


def user_with_hash(where: str) -> UserSettings:
    if where == "secret":
        return UserSettings(password_hash_file=Path("secret"))
    return UserSettings(password_hash=SecretStr(HASH))


@pytest.mark.parametrize("where", ["secret", "config/sftp-gateway.toml"])
@pytest.mark.parametrize("mode", [0o666, 0o660, 0o644])
def test_a_password_file_writable_by_others_is_an_error(
    inspect: Inspect, folder: Path, where: str, mode: int
) -> None:
    (folder / "config").mkdir()
    (folder / where).write_text(HASH)
    (folder / where).chmod(mode)
    findings = inspect(users={"ana": user_with_hash(where)})
    who = "everybody" if mode == 0o666 else "its group"
    expected = [
        f"{where}: can be written by {who} (mode {mode:04o}), who could let themselves in; "
        f"run: chmod go-w {where}"
    ]
    assert findings.errors == (expected if mode == 0o666 else [])
    assert findings.warnings == (expected if mode == 0o660 else [])


def test_a_world_writable_configuration_is_refused(inspect: Inspect, folder: Path) -> None:
    (folder / "config").mkdir()
    (folder / "config/sftp-gateway.toml").touch()
    (folder / "config/sftp-gateway.toml").chmod(0o664)
    assert (inspect().errors, inspect().warnings) == ([], [])
    (folder / "config/sftp-gateway.toml").chmod(0o666)
    assert len(inspect().errors) == 1


@pytest.mark.parametrize(
    ("cost", "cheap"), [("m=4096,t=3", True), ("m=19456,t=2", False), ("m=65536,t=1", False)]
)
def test_a_weak_password_hash_is_a_warning(inspect: Inspect, cost: str, cheap: bool) -> None:
    made = HASH.replace("m=32768,t=2", cost)
    findings = inspect(users={"ana": UserSettings(password_hash=SecretStr(made))})
    assert findings.errors == []
    assert [message.partition(":")[0] for message in findings.warnings] == (
        ["users.ana.password_hash"] if cheap else []
    )


def test_an_invalid_only_credential_is_one_error(inspect: Inspect, folder: Path) -> None:
    assert inspect(users={"ana": UserSettings(password_hash=SecretStr("x"))}).warnings == []
    (folder / "keys/authorized_keys/gvpocr").chmod(0o666)
    findings = inspect()
    assert (len(findings.errors), findings.warnings) == (1, [])


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o622])
def test_a_key_file_writable_by_others_is_refused(
    inspect: Inspect, folder: Path, mode: int
) -> None:
    (folder / "keys/authorized_keys/gvpocr").chmod(mode)
    findings = inspect()
    (message,) = findings.errors
    assert "chmod go-w" in message
    assert findings.credentials[0].keys.keys == ()


def test_an_invalid_key_line_is_a_warning(inspect: Inspect, folder: Path) -> None:
    path = folder / "keys/authorized_keys/gvpocr"
    path.write_bytes(path.read_bytes() + b"nonsense \xff\n" + path.read_bytes())
    findings = inspect()
    assert findings.errors == []
    (message,) = findings.warnings
    assert "keys/authorized_keys/gvpocr" in message
    assert "2" in message
    assert len(findings.credentials[0].keys.keys) == 2


def test_a_folder_in_place_of_a_key_file_is_an_error(inspect: Inspect, folder: Path) -> None:
    (folder / "keys/authorized_keys/gvpocr").unlink()
    (folder / "keys/authorized_keys/gvpocr").mkdir()
    (message,) = inspect().errors
    assert "is not a regular file" in message


def test_an_implicit_default_user_beside_others_is_a_warning(inspect: Inspect) -> None:
    ana = {"ana": UserSettings(shares=())}
    assert inspect().warnings == []
    (message, _) = sorted(inspect(users={"gvpocr": UserSettings(), **ana}).warnings, reverse=True)
    assert message.startswith("users.gvpocr: this default user may log in beside the others; ")
    (about_ana,) = inspect(users={"gvpocr": UserSettings(shares="*"), **ana}).warnings
    assert about_ana.startswith("users.ana: nothing lets this user log in")


# Shares and the log


def test_a_share_without_a_folder_is_unavailable(inspect: Inspect, folder: Path) -> None:
    (folder / "file").touch()
    findings = inspect(
        shares={
            "a/b": ShareSettings(path=folder / "missing"),
            "c": ShareSettings(path=folder / "file"),
            "d": ShareSettings(path=folder / "file/below"),
            "good": ShareSettings(path=folder / "shared"),
        }
    )
    assert findings.errors == []
    assert [message.split(";")[0] for message in findings.away] == [
        f"shares.a/b.path: there is no folder {folder}/missing",
        f"shares.c.path: there is no folder {folder}/file",
        f"shares.d.path: there is no folder {folder}/file/below",
    ]


@pytest.mark.parametrize(
    ("share", "message"),
    [
        (
            ".",
            "contains keys_dir (keys), the configuration's folder (config), history.file (state)",
        ),
        ("keys", "contains keys_dir (keys)"),
        ("keys/authorized_keys", "is in the gateway's own keys_dir (keys)"),
        ("config", "contains the configuration's folder (config)"),
        ("state/old", "is in the gateway's own history.file (state)"),
        ("logs", "contains access_log.file (logs)"),
        ("logs/old", "is in the gateway's own access_log.file (logs)"),
        ("secrets", "contains status.token_file (secrets/token), users.ana.password_hash_file"),
    ],
)
@pytest.mark.parametrize("way", ["path", "link", pytest.param("bind mount", marks=as_root)])
def test_a_share_overlapping_the_gateways_files_is_an_error(
    inspect: Inspect, folder: Path, share: str, message: str, way: str
) -> None:
    for name in ("config", "state/old", "logs/old", "secrets"):
        (folder / name).mkdir(parents=True)
    (folder / "secrets/token").write_text("x" * 16)
    (folder / "secrets/hash").write_text(HASH)
    named = folder / share
    with contextlib.ExitStack() as stack:
        if way != "path":
            named = folder / "elsewhere"
        if way == "link":
            named.symlink_to(folder / share)
        if way == "bind mount":
            named.mkdir()
            subprocess.run(["mount", "--bind", folder / share, named], check=True)
            stack.callback(subprocess.run, ["umount", named], check=True)
        findings = inspect(
            shares={
                "models": ShareSettings(path=named),
                "other": ShareSettings(path=folder / "ok"),
            },
            users={"ana": UserSettings(password_hash_file=Path("secrets/hash"))},
            access_log=AccessLogSettings(file=Path("logs/log")),
            status=StatusSettings(token_file=Path("secrets/token")),
        )
    mixed, missing = findings.errors[-1], findings.away[0]
    assert mixed.startswith("shares.models.path: ")
    assert message in mixed
    assert "shares.other.path" in missing


def test_a_share_containing_the_env_file_is_an_error(inspect: Inspect, folder: Path) -> None:
    (folder / "shared/.env").touch()
    os.chdir(folder / "shared")
    (message,) = inspect(
        shares={"all": ShareSettings(path=folder / "shared")},
        keys_dir=folder / "keys",
        history=HistorySettings(enabled=False),
    ).errors
    assert message.startswith(
        f"shares.all.path: {folder}/shared contains the configuration's folder"
    )
    assert "the environment's file (.env)" in message


@as_root
def test_a_share_containing_the_keys_by_another_mount_is_an_error(
    inspect: Inspect, folder: Path, tmp_path: Path
) -> None:
    """As with volumes of a container: no parent of the keys belongs to the share."""
    share, keys = tmp_path / "share", tmp_path / "keys"
    with contextlib.ExitStack() as stack:
        for at, source in ((share, folder), (keys, folder / "keys")):
            at.mkdir()
            subprocess.run(["mount", "--bind", source, at], check=True)
            stack.callback(subprocess.run, ["umount", at], check=True)
        os.chdir(tmp_path)
        message = inspect(keys_dir=keys, shares={"all": ShareSettings(path=share)}).errors
    assert any(f"{share} contains keys_dir ({keys})" in each for each in message)


def test_siblings_of_the_gateways_folders_can_be_shared(inspect: Inspect, folder: Path) -> None:
    (folder / "config").mkdir()
    (folder / "keys-of-a-house").mkdir()
    findings = inspect(
        shares={"models": ShareSettings(path=folder / "keys-of-a-house")},
        access_log=AccessLogSettings(file=folder / "shared/log"),
    )
    assert findings.errors == []


@pytest.mark.parametrize(
    ("users", "warned"),
    [
        ({"ana": "*", "ben": "*"}, False),
        ({"ana": ("outer", "inner"), "ben": ("outer", "inner")}, False),
        ({"ana": ("outer",), "ben": ("inner",)}, True),
        ({"ana": "*", "ben": ("inner",)}, True),
        ({"ana": ("apart", "outer"), "ben": ("apart",)}, True),
    ],
)
@pytest.mark.parametrize("same", [False, True])
def test_a_share_nested_in_another_users_share_is_a_warning(
    inspect: Inspect, folder: Path, users: dict[str, Any], warned: bool, same: bool
) -> None:
    for name in ("outer/inner", "apart"):
        (folder / name).mkdir(parents=True)
    (folder / "link").symlink_to("outer" if same else "outer/inner")
    findings = inspect(
        shares={
            "inner": ShareSettings(path=folder / "link"),
            "apart": ShareSettings(path=folder / "apart"),
            "outer": ShareSettings(path=folder / "outer"),
        },
        users={
            name: UserSettings(shares=shares, password_hash=SecretStr(HASH))
            for name, shares in users.items()
        },
    )
    assert findings.errors == []
    assert bool(findings.warnings) == (warned or same)
    if warned:
        (message,) = findings.warnings
        assert ("the same folder as" in message) == same
        for name, shares in users.items():
            assert (name in message) == (shares != ("apart",))


def test_a_folder_shared_under_two_names_is_a_warning(inspect: Inspect, folder: Path) -> None:
    (folder / "link").symlink_to("shared/models")
    paths = {"a": "shared/models", "b": "shared/newsletters", "c": "link"}
    findings = inspect(
        shares={name: ShareSettings(path=Path(path)) for name, path in paths.items()}
    )
    (message,) = findings.warnings
    assert message == (
        f"shares.c.path: is the same folder as shares.a.path, {folder}/shared/models; "
        "choose another, or remove one of them"
    )
    assert findings.errors == []


def test_a_deprecated_value_of_links_is_a_warning(inspect: Inspect, folder: Path) -> None:
    (folder / "share").mkdir()
    shares = {"a": ShareSettings(path=folder / "share", links="inside")}
    (message,) = inspect(shares=shares).warnings
    assert message.startswith('shares.a.links: "inside" is deprecated; write "keep"')
    shares = {"a": ShareSettings(path=folder / "share", links="keep")}
    assert inspect(shares=shares).warnings == []


def test_a_log_file_needs_its_folder(inspect: Inspect, folder: Path) -> None:
    assert inspect(access_log=AccessLogSettings(file=folder / "log")).errors == []
    missing = folder / "no/log"
    (message,) = inspect(access_log=AccessLogSettings(file=missing, stdout=False)).errors
    assert message.startswith(f"access_log.file: there is no folder {folder}/no; ")
    beside_stdout = inspect(access_log=AccessLogSettings(file=missing))
    assert beside_stdout.errors == []
    assert "the log goes to standard output only" in beside_stdout.warnings[0]


def test_a_log_without_outputs_is_a_warning(inspect: Inspect, folder: Path) -> None:
    (folder / "logs").mkdir()
    log = AccessLogSettings(stdout=False, file=folder / "logs/log")
    assert inspect(access_log=log).warnings == []
    (message,) = inspect(access_log=AccessLogSettings(stdout=False)).warnings
    assert "no access will be logged" in message


def test_missing_kernel_confinement_is_a_warning(
    inspect: Inspect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(landlock, "abi", lambda: 3)
    assert [message.partition("forbid ")[2] for message in inspect().warnings] == [
        "TCP connections (Linux 6.7)",
        "signals (Linux 6.12)",
    ]
    assert inspect(landlock="require").errors == []
    assert inspect(landlock="off").warnings == []


def test_missing_landlock_is_an_error_if_required(
    inspect: Inspect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(landlock, "abi", lambda: 0)
    assert [message[:9] for message in inspect().warnings] == ["landlock:"]
    required = inspect(landlock="require")
    assert [message[:9] for message in required.errors] == ["landlock:"]
    assert required.warnings == []


# As an unprivileged user

PROGRAM = """
import json, os
from sftp_gateway.config.snapshot import inspect_config
from sftp_gateway.settings import Settings, UserSettings, ShareSettings, AccessLogSettings
from pathlib import Path
config = Path("config/sftp-gateway.toml")
settings = Settings(
    users={"gvpocr": UserSettings(), "ana": UserSettings(password_hash_file=Path("secret"))},
    shares={"a": ShareSettings(path=Path("closed")), "b": ShareSettings(path=Path("closed/below"))},
    access_log=AccessLogSettings(stdout=False, file=Path("closed/below/log")),
)
inspect_config(settings, config)  # imports all modules
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
findings = inspect_config(settings, config).findings
print(json.dumps(findings.errors + findings.away))
"""


def errors_as_nobody(folder: Path) -> list[str]:
    completed = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        check=True,
    )
    errors: list[str] = json.loads(completed.stdout)
    return errors


@as_root
def test_an_inaccessible_path_is_not_reported_as_missing(
    reachable: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(reachable)
    set_up(Settings(), gateway=None, report=lambda line: None)
    (reachable / "keys/authorized_keys").chmod(0o700)
    (reachable / "closed/below").mkdir(parents=True)
    (reachable / "closed").chmod(0o700)
    (reachable / "secret").write_text(HASH)
    (reachable / "secret").chmod(0o600)
    message = "\n".join(errors_as_nobody(reachable))
    assert "keys/ssh_host_ed25519_key cannot be read by user 65534" in message
    assert "keys/authorized_keys/gvpocr cannot be accessed (Permission denied)" in message
    assert "keys/authorized_keys/ana cannot be accessed (Permission denied)" in message
    assert "users.ana.password_hash_file: secret cannot be read" in message
    closed = f"{reachable}/closed"
    why = "cannot be read by the gateway, which runs as 65534:65534: it belongs to 0:0, mode 0700"
    assert f"shares.a.path: {closed} {why}: chmod o+rx {closed}\n" in f"{message}\n"
    assert f"shares.b.path: {closed} {why}: chmod o+x {closed}\n" in f"{message}\n"
    assert "access_log.file: there is no folder closed/below" in message
    (reachable / "keys").chmod(0o700)
    message = "\n".join(errors_as_nobody(reachable))
    assert "keys/ssh_host_ed25519_key cannot be accessed (Permission denied)" in message
    assert "there is no host key" not in message


UNREADABLE = """
import os, sys
from pathlib import Path
from sftp_gateway.config import shares as share_folders
if sys.argv[2] == "container":
    share_folders._in_our_image = lambda: True
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
print(share_folders.probe_share(Path(sys.argv[1])).problem)
"""


@as_root
@pytest.mark.parametrize(
    ("place", "owner", "mode", "remedies"),
    [
        (
            "container",
            "1000:1000",
            0o700,
            "set GATEWAY_UID=1000 in .env, or chmod o+rx the folder that MODELS_DIR in .env names "
            "(./shared/models by default)",
        ),
        (
            "container",
            "1000:1001",
            0o750,
            "set GATEWAY_GID=1001 in .env, or chmod o+rx the folder that MODELS_DIR in .env names "
            "(./shared/models by default)",
        ),
        ("host", "1000:1000", 0o700, "run the gateway as user 1000, or chmod o+rx {models}"),
        ("host", "0:0", 0o750, "chmod o+rx {models}"),
    ],
)
def test_an_unreadable_share_is_reported_with_remedies(
    reachable: Path, place: str, owner: str, mode: int, remedies: str
) -> None:
    models = reachable / "shared/models"
    models.mkdir(parents=True)
    models.chmod(mode)
    os.chown(models, *map(int, owner.split(":")))
    ran = subprocess.run(
        [sys.executable, "-c", UNREADABLE, models, place],
        cwd=reachable,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    assert ran.stdout.strip() == (
        f"{models} cannot be read by the gateway, which runs as 65534:65534: it belongs to "
        f"{owner}, mode {mode:04o}: {remedies.format(models=models)}"
    )


# The status page and its history


def test_the_token_comes_from_an_option_or_a_file(inspect: Inspect, folder: Path) -> None:
    (folder / "keys/status_token").write_text("from-the-keys-folder\n")
    (folder / "secret").write_text("from-a-file-of-its-own\n")
    options = {
        "from-the-keys-folder": StatusSettings(),
        "from-a-file-of-its-own": StatusSettings(token_file=Path("secret")),
        "from-the-options": StatusSettings(token=SecretStr("from-the-options")),
        None: StatusSettings(enabled=False),
    }
    for token, status in options.items():
        assert inspect(status=status).status_token == token


def test_a_reachable_page_without_a_token_is_a_warning(inspect: Inspect) -> None:
    (warning,) = inspect(metrics_host="0.0.0.0").warnings
    assert "shown to nobody" in warning
    assert "sftp-gateway init" in warning
    assert inspect(metrics_host="0.0.0.0", status=StatusSettings(enabled=False)).warnings == []


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "there is no secret"), ("short\n", "fewer than 16 characters")],
    ids=["missing", "too short"],
)
def test_an_unusable_token_closes_the_page_but_allows_the_start(
    inspect: Inspect, folder: Path, content: str | None, message: str
) -> None:
    if content is not None:
        (folder / "secret").write_text(content)
    status = StatusSettings(token_file=Path("secret"))
    findings = inspect(status=status)
    assert findings.errors == []
    (warning,) = findings.warnings
    assert message in warning
    assert "shown to nobody" in warning
    token = findings.status_token
    assert token is not None  # otherwise local users would need no token
    assert len(token) >= 32
    assert token != (content or "").strip()
    assert inspect(status=status).status_token == token  # a reload finds no change


def test_an_unwritable_history_is_a_warning(inspect: Inspect) -> None:
    below_a_file = Path("keys/ssh_host_ed25519_key/history")
    (warning,) = inspect(history=HistorySettings(file=below_a_file)).warnings
    assert "ssh_host_ed25519_key cannot be written" in warning
