"""The commands: exit statuses, output, and no secrets in it."""

from __future__ import annotations

import getpass
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sftp_gateway import __version__
from sftp_gateway.auth import PasswordVerifier, check_hash, hash_password
from sftp_gateway.commands import gateway_client, serve
from sftp_gateway.settings import Settings
from tests.support.commands import Ran, Run, runs
from tests.support.gateway import environment, free_port
from tests.support.keys import make_key, public_line


@pytest.fixture
def folder(unconfigured: Path) -> Path:
    """An empty working directory without configuration."""
    return unconfigured


@pytest.fixture
def run(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command in this process, without a running gateway."""

    def nobody(settings: Settings, path: str, token: str | None = None) -> tuple[int, str]:
        raise ConnectionRefusedError

    monkeypatch.setattr(gateway_client, "get", nobody)
    return runs(capsys)


COMMANDS = (
    "serve",
    "check",
    "healthcheck",
    "doctor",
    "init",
    "hash-password",
    "import-authorized-keys",
    "import-host-key",
    "keys",
    "logs",
    "bans",
    "worker-kit",
)


# Help and usage


def test_version_prints_the_version(run: Run) -> None:
    assert run("--version") == Ran(0, f"sftp-gateway {__version__}\n", "")


def test_help_lists_every_command(run: Run) -> None:
    ran = run("--help")
    assert (ran.status, ran.err) == (0, "")
    assert all(command in ran.out for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(run: Run, command: str) -> None:
    ran = run(command, "--help")
    assert (ran.status, ran.err) == (0, "")
    assert ran.out.startswith(f"usage: sftp-gateway {command} ")


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("nonsense",),
        ("serve", "--nonsense"),
        ("hash-password", "hunter22"),
        ("init", "--owner", "nobody-of-this-name"),
        ("init", "--owner", "10001"),
        ("init", "--owner", "10001:"),
        ("init", "--owner", "-1:-1"),
        ("init", "--owner", "1:2:3"),
    ],
)
def test_an_unknown_command_is_a_usage_error(
    run: Run, folder: Path, arguments: tuple[str, ...]
) -> None:
    ran = run(*arguments)
    assert (ran.status, ran.out) == (2, "")
    assert ran.err.startswith("usage: ")
    assert list(folder.iterdir()) == []


def program(*arguments: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "sftp_gateway", *arguments],
        cwd=cwd,
        env=environment(**variables),
        capture_output=True,
        text=True,
    )


def test_the_module_runs_as_a_program(folder: Path) -> None:
    ran = program("--version", cwd=folder)
    assert (ran.returncode, ran.stdout) == (0, f"sftp-gateway {__version__}\n")


# check and init


@pytest.mark.parametrize("command", ["serve", "check", "init"])
def test_errors_are_printed_and_nothing_is_done(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    (folder / "bad.toml").write_text('port = "x"\nprot = 1\n')
    ran = run(command, "--config", "bad.toml")
    assert (ran.status, ran.out) == (2, "")
    message = ran.err.splitlines()
    assert len(message) == 2
    assert all(line.startswith("error: ") for line in message)
    assert os.listdir(folder) == ["bad.toml"]


def test_init_creates_and_reports_missing_files_once(run: Run, folder: Path) -> None:
    first = run("init")
    assert (first.status, first.out) == (0, "")
    assert "keys/ssh_host_ed25519_key" in first.err
    assert (folder / "keys/worker_ed25519").exists()
    assert run("init") == Ran(0, "", "")


def test_init_names_what_it_cannot_create(run: Run, folder: Path) -> None:
    (folder / "keys").touch()
    ran = run("init")
    assert ran.status == 2
    assert ran.err.startswith("error: keys")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_init_gives_the_host_key_to_its_owner(run: Run, folder: Path) -> None:
    assert run("init", "--owner", "54321:54322").status == 0
    status = (folder / "keys/ssh_host_ed25519_key").stat()
    assert (status.st_uid, status.st_gid) == (54321, 54322)


def test_check_prints_the_effective_settings_and_succeeds(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("init")
    monkeypatch.setenv("SFTP_GATEWAY_PORT", "2022")
    ran = run("check")
    assert ran.status == 0
    assert ran.err == (
        "No running gateway to compare with.\n"
        "Landlock: version 7 confines the workers.\nThe configuration is valid.\n"
    )
    assert json.loads(ran.out) == {"port": 2022}
    result = json.loads(run("check", "--all").out)
    assert result["port"] == 2022
    assert result["shares"]["models"] == {
        "path": "shared/models",
        "links": "auto",
        "read_errors": "disconnect",
    }


def test_check_shows_only_options_that_are_set(run: Run, folder: Path) -> None:
    (folder / "some.toml").write_text(
        'port = 2222\nhost = "::1"\n[penalties]\nmaximum = 5.0\nminimum = 5\ntrust = 86400\n'
        '[shares.letters]\npath = "l"\nlinks = "auto"\n[users.ana]\nshares = ["letters"]\n'
    )
    assert json.loads(run("check", "--config", "some.toml").out) == {
        "host": "::1",
        "users": {"ana": {"shares": ["letters"]}},
        "shares": {"letters": {"path": "l"}},
        "penalties": {"minimum": 5.0, "maximum": 5.0},
    }


def test_check_reports_that_only_defaults_apply(run: Run) -> None:
    run("init")
    ran = run("check")
    assert json.loads(ran.out) == {}
    assert "All options have their defaults; `check --all` prints them.\n" in ran.err


def test_check_reports_settings_without_effect(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("init")
    (folder / "some.toml").write_text("host = '::1'\nport = 2022\n")
    monkeypatch.setenv("SFTP_GATEWAY_PORT", "2222")
    ran = run("check", "--config", "some.toml")
    assert ran.status == 0
    assert ran.err.splitlines()[0] == (
        "warning: some.toml:2:1: port: has no effect, because SFTP_GATEWAY_PORT overrides it"
    )


def test_check_accepts_a_linked_share_as_serve_does(run: Run, folder: Path) -> None:
    run("init")
    (folder / "shared/models").rename(folder / "elsewhere")
    (folder / "shared/models").symlink_to("../elsewhere")
    ran = run("check")
    assert (ran.status, ran.err.splitlines()[-1]) == (0, "The configuration is valid.")


def test_check_prints_warnings_and_every_error(run: Run, folder: Path) -> None:
    (folder / "good.toml").write_text('defaults = false\n[users.ana]\n[shares.a]\npath = "none"\n')
    ran = run("check", "--config", "good.toml")
    assert ran.status == 2
    assert json.loads(ran.out)["users"] == {"gvpocr": False, "ana": {}}
    warning, *errors = ran.err.splitlines()
    assert warning.startswith("warning: good.toml:2:8: users.ana: nothing lets this user log in")
    assert [line.partition(": there")[0] for line in errors] == [
        "error: keys_dir",
        "error: good.toml:4:1: shares.a.path",
    ]
    assert os.listdir(folder) == ["good.toml"]


def test_check_prints_no_secret(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run("init")
    secret = hash_password("correct horse")
    monkeypatch.setenv("SFTP_GATEWAY_USERS__GVPOCR__PASSWORD_HASH", secret)
    ran = run("check")
    assert ran.status == 0
    assert secret not in ran.out + ran.err
    assert '"password_hash": "**********"' in ran.out


def test_serve_reports_why_it_does_not_start(run: Run, folder: Path) -> None:
    (folder / "config.toml").write_text(
        'auto_setup = false\ndefaults = false\n[shares.a]\npath = "none"\n'
    )
    ran = run("serve", "--config", "config.toml")
    assert (ran.status, ran.out) == (2, "")
    assert [line.partition(": there")[0] for line in ran.err.splitlines()] == [
        "error: keys_dir",
        "error: config.toml:4:1: shares.a.path",
    ]


def test_serve_reports_what_it_cannot_set_up(run: Run, folder: Path) -> None:
    (folder / "keys").touch()
    ran = run("serve")
    assert ran.status == 2
    assert "auto_setup = false" in ran.err


# hash-password


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets standard input: text from a pipe, or lines typed at a terminal."""

    def give(*lines: str, terminal: bool = False) -> None:
        class Input(io.StringIO):
            def isatty(self) -> bool:
                return terminal

        monkeypatch.setattr(sys, "stdin", Input("".join(lines)))
        answers = iter(lines)
        monkeypatch.setattr(getpass, "getpass", lambda prompt: next(answers))

    return give


@pytest.mark.parametrize("lines", [("hunter22\n",), ("hunter22",), ("hunter22\n", "more\n")])
def test_a_password_from_a_pipe_is_hashed(
    run: Run, typed: Callable[..., None], lines: tuple[str, ...]
) -> None:
    typed(*lines)
    ran = run("hash-password")
    assert (ran.status, ran.err) == (0, "")
    text = ran.out.removesuffix("\n")
    check_hash(text)
    assert PasswordVerifier([text]).verify(text, "hunter22")
    assert "hunter22" not in ran.out


def test_spaces_are_part_of_a_password(run: Run, typed: Callable[..., None]) -> None:
    typed(" a b c d \n")
    text = run("hash-password").out.strip()
    assert PasswordVerifier([text]).verify(text, " a b c d ")


def test_a_confirmed_password_is_hashed(run: Run, typed: Callable[..., None]) -> None:
    typed("hunter22", "hunter22", terminal=True)
    text = run("hash-password").out.strip()
    assert PasswordVerifier([text]).verify(text, "hunter22")


SHORT = (
    "error: the password has 7 characters; use 8 or more (`openssl rand -base64 18` prints a "
    "strong one)\n"
)


@pytest.mark.parametrize(
    ("lines", "terminal", "message"),
    [
        (("hunter22", "hunter33"), True, "error: the passwords do not match\n"),
        (("", ""), True, "error: the password is empty\n"),
        ((), False, "error: the password is empty\n"),
        (("\n",), False, "error: the password is empty\n"),
        (("1234567\n",), False, SHORT),
        (("1234567", "1234567"), True, SHORT),
        (("x" * 1025 + "\n",), False, "error: a password must have 1 to 1024 bytes\n"),
    ],
)
def test_an_invalid_password_is_rejected(
    run: Run, typed: Callable[..., None], lines: tuple[str, ...], terminal: bool, message: str
) -> None:
    typed(*lines, terminal=terminal)
    assert run("hash-password") == Ran(1, "", message)


# Environment


def test_every_command_reads_the_env_file(folder: Path) -> None:
    (folder / ".env").write_text(
        "# docker-compose's\nSFTP_PORT=2200\n#SFTP_GATEWAY_PORT=1\n"
        "export SFTP_GATEWAY_PORT=2201 # the port\nSFTP_GATEWAY_PUBLIC_HOST='main.example'\n"
        'SFTP_GATEWAY_METRICS_PORT="9"\nSFTP_GATEWAY_ACCESS_LOG__FILE=\n'
    )
    checked = program("check", "--all", cwd=folder, SFTP_GATEWAY_METRICS_PORT="9223")
    effective = json.loads(checked.stdout)
    assert effective["port"] == 2201
    assert effective["public_host"] == "main.example"
    assert effective["metrics_port"] == 9223  # the environment overrides the file
    assert effective["access_log"]["file"] is None


def test_an_error_in_the_env_file_is_reported(folder: Path) -> None:
    (folder / ".env").write_text("SFTP_GATEWAY_PROT=2201\n")
    refused = program("healthcheck", cwd=folder)
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: .env:1: SFTP_GATEWAY_PROT: unknown option")


def test_an_unreadable_env_file_is_reported(run: Run, folder: Path) -> None:
    (folder / ".env").mkdir()
    assert run("check") == Ran(2, "", "error: .env: cannot be read: Is a directory\n")


def test_a_closed_pipe_after_check_is_not_an_error(folder: Path) -> None:
    done = subprocess.run(
        ["bash", "-c", '"$0" -m sftp_gateway check | :; echo "${PIPESTATUS[0]}"', sys.executable],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert "Traceback" not in done.stderr
    assert "error: " in done.stderr  # there are no keys: the errors are reported all the same
    assert done.stdout == "2\n"


def test_names_in_messages_are_escaped(run: Run, folder: Path) -> None:
    name = "a\u202eb\n\tc\x1b[2J.log"
    shown = "a\\u202eb\\u000a\\u0009c\\u001b[2J.log"
    ran = run("logs", name)
    assert ran == Ran(2, "", f"error: {shown}: cannot be read: No such file or directory\n")
    assert run("init").status == 0
    key = make_key(folder / "key", "ed25519")
    public = folder / "key.pub"
    public.write_text(f"{' '.join(public_line(key).split()[:2])} a\u202eb\tc\u2066d\n")
    ran = run("keys", "add", "gvpocr", str(public))
    assert "(a\\u202eb\\u0009c\\u2066d) can log in" in ran.err
    assert "a\\u202eb\\u0009c\\u2066d" in run("keys", "list").out
    old = folder / "old"
    old.write_text(public.read_text())
    ran = run("import-authorized-keys", "--user", "gvpocr", str(old))
    assert "a\\u202eb\\u0009c\\u2066d" in ran.out
    assert "\u202e" not in ran.out + ran.err


# healthcheck and doctor


def test_healthcheck_fails_without_a_gateway(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    monkeypatch.setenv("SFTP_GATEWAY_PORT", str(port))
    ran = run("healthcheck")
    assert (ran.status, ran.out) == (1, "")
    assert ran.err.startswith(f"error: 127.0.0.1 port {port}: connection refused: ")


def test_doctor_reports_that_no_gateway_runs(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("init").status == 0
    for option in ("PORT", "METRICS_PORT"):
        monkeypatch.setenv(f"SFTP_GATEWAY_{option}", str(free_port()))
    ran = run("doctor")
    assert (ran.status, ran.out) == (1, "")
    message = [line for line in ran.err.splitlines() if line.startswith("error: ")]
    assert len(message) == 2
    assert all("the gateway does not run" in line for line in message)


def test_check_prints_its_result_as_json(run: Run, folder: Path) -> None:
    run("init")
    good = run("check", "--json")
    assert good.status == 0
    result = json.loads(good.out)
    assert (result["ok"], result["options"], result["errors"]) == (True, {}, [])
    (folder / "bad.toml").write_text("prot = 1\n")
    bad = run("check", "--json", "--config", "bad.toml")
    assert (bad.status, bad.err) == (2, "")
    (error,) = json.loads(bad.out)["errors"]
    assert error.startswith("bad.toml:1:1: prot: ")


def test_doctor_prints_its_result_as_json(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("init")
    monkeypatch.setenv("SFTP_GATEWAY_PORT", str(free_port()))
    ran = run("doctor", "--json")
    result = json.loads(ran.out)
    assert (ran.status, ran.err, result["ok"]) == (1, "", False)
    assert "connection refused" in result["handshake"]


def test_keys_are_listed_as_json(run: Run) -> None:
    run("init")
    user, host = map(json.loads, run("keys", "list", "--json").out.splitlines())
    assert (user["user"], user["role"], user["expires"]) == ("gvpocr", "user", None)
    assert user["fingerprint"].startswith("SHA256:")
    assert (host["user"], host["role"]) == (None, "host, current")


def test_a_key_of_a_disabled_user_can_be_removed(run: Run, folder: Path) -> None:
    run("init")
    (folder / "keys/authorized_keys/gvpocr").rename(folder / "keys/authorized_keys/ana")
    assert run("keys", "remove", "ana", "sftp-gateway worker gvpocr").status == 0
    assert (folder / "keys/authorized_keys/ana").read_text().strip() == ""
    assert run("keys", "remove", "../ana", "x").status == 2


def test_an_interrupt_ends_the_command(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(load: object, **collaborators: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(serve, "serve", interrupted)
    assert run("serve") == Ran(130, "", "")
