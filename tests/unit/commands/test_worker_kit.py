"""`sftp-gateway worker-kit`: the files it writes and its error messages."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import sftp_gateway
from sftp_gateway.commands import main as cli
from sftp_gateway.worker_kit.contents import Kit

PACKAGE = Path(sftp_gateway.__file__).parent
PUBLIC = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKq0000000000000000000000000000000000000000"


@pytest.fixture
def installation(unconfigured: Path) -> Path:
    """A folder after `sftp-gateway init`."""
    assert cli.main(["init"]) == 0
    return unconfigured


def errors(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert cli.main(["worker-kit", *arguments]) == 2
    return capsys.readouterr().err


def test_the_kit_folder_has_every_file(installation: Path) -> None:
    assert cli.main(["worker-kit", "--server", "main.example.org"]) == 0
    names = {path.name for path in (installation / "worker-kit").iterdir()}
    assert names >= {
        "worker-kit.sh", "setup-sshfs-remote-worker.sh", "sshfs-main-server",
        "sshfs-main-server.service", "sshfs-main-server.openrc", "config", "known_hosts",
        "fstab.sshfs", "docker-compose.sshfs-override.yml", ".env.sshfs.example", "README.md",
    }  # fmt: skip
    assert "worker_key" not in names
    for path in (installation / "worker-kit").iterdir():
        left = re.findall(rb"@[A-Z_]+@", path.read_bytes())
        assert left == [], path.name


def test_the_kits_doctor_runs_standalone(installation: Path) -> None:
    assert cli.main(["worker-kit", "--server", "main.example.org"]) == 0
    doctor = installation / "worker-kit/sshfs-doctor"
    assert doctor.stat().st_mode & 0o777 == 0o755
    ran = subprocess.run([doctor, "--server", "a", "--port", "x"], capture_output=True, text=True)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.endswith("sshfs-doctor: error: --port: 'x' is not a valid port\n")


def test_host_keys_are_pinned_with_or_without_public_files(
    installation: Path,
) -> None:
    kind, blob, _ = (installation / "keys/ssh_host_ed25519_key.pub").read_text().split(maxsplit=2)
    for _ in range(2):
        assert cli.main(["worker-kit", "--server", "main.example.org"]) == 0
        known = (installation / "worker-kit/known_hosts").read_text()
        assert known == f"sftp-gateway {kind} {blob}\n"
        (installation / "keys/ssh_host_ed25519_key.pub").unlink(missing_ok=True)


def test_an_announced_host_key_is_pinned(installation: Path) -> None:
    assert cli.main(["keys", "rotate-host", "prepare"]) == 0
    assert cli.main(["worker-kit", "--server", "main.example.org"]) == 0
    assert (installation / "worker-kit/known_hosts").read_text().count("sftp-gateway ") == 2


def test_the_kits_configuration_follows_arguments_and_settings(
    installation: Path,
) -> None:
    arguments = ["--server", "2001:db8::1", "--port", "22022", "--remote", "/home/gvpocr/models"]
    assert cli.main(["worker-kit", *arguments, "--mount", "/srv/models/"]) == 0
    config = (installation / "worker-kit/config").read_text().splitlines()
    assert config[:5] == [
        "SERVER='2001:db8::1'", "PORT='22022'", "LOGIN='gvpocr'",
        "REMOTE='/home/gvpocr/models'", "MOUNT='/srv/models'",
    ]  # fmt: skip
    fstab = (installation / "worker-kit/fstab.sshfs").read_text()
    assert "gvpocr@[2001:db8::1]:/home/gvpocr/models /srv/models fuse.sshfs " in fstab


@pytest.mark.parametrize(
    ("container", "typed", "command"),
    [
        ("", "/srv/gateway/.venv/bin/sftp-gateway", "/srv/gateway/.venv/bin/sftp-gateway keys add"),
        ("", "/a b/sftp-gateway", ".venv/bin/sftp-gateway keys add"),
        ("docker", "sftp-gateway", "docker-compose run --rm --no-deps -T init keys add"),
    ],
)
def test_the_kit_names_the_command_that_authorizes_its_key(
    installation: Path,
    monkeypatch: pytest.MonkeyPatch,
    container: str,
    typed: str,
    command: str,
) -> None:
    monkeypatch.setenv("container", container)
    monkeypatch.setattr(sys, "argv", [typed])
    assert cli.main(["worker-kit", "--server", "main.example.org"]) == 0
    config = (installation / "worker-kit/config").read_text().splitlines()
    assert f"KEYS_ADD='{command}'" in config


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "error: --server HOST is missing"),
        (("--server", "a b"), "error: --server: 'a b' is not a name or address"),
        (("--server", "-x"), "expected one argument"),
        (("--server", "a", "--port", "70000"), "error: --port: 70000 is not a port"),
        (
            ("--server", "a", "--user", "x"),
            "error: --user: 'x' is not a user of the configuration:",
        ),
        (("--server", "a", "--mount", "mnt"), "error: --mount: 'mnt' is not an absolute path"),
        (("--server", "a", "--remote", "/a'b"), 'error: --remote: "/a\'b" is not an absolute path'),
        (("--server", "a", "--key", "nothing"), "error: --key: nothing: cannot be read: No such"),
        (("--server", "a", "--key", "README"), "error: --key: README is not a private key"),
        (("--server", "a", "--hosts", "nothing"), "error: --hosts: nothing: cannot be read"),
        (("--server", "a", "--out", "README"), "error: README: cannot be written: File exists"),
    ],
)
def test_an_invalid_argument_writes_nothing(
    installation: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    message: str,
) -> None:
    (installation / "README").write_text("no key\n")
    if message == "expected one argument":
        with pytest.raises(SystemExit):
            cli.main(["worker-kit", *arguments])
        assert message in capsys.readouterr().err
    else:
        assert message in errors(capsys, *arguments)
    assert not (installation / "worker-kit").exists()


def test_a_missing_host_key_is_an_error(
    unconfigured: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = errors(capsys, "--server", "main.example.org")
    assert "to pin on workers; run this where the gateway runs" in message


def test_a_missing_program_is_named(
    installation: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(installation))
    (installation / "hosts").write_text("worker1\n")
    message = errors(capsys, "--server", "main.example.org", "--hosts", "hosts")
    assert "error: --hosts needs ssh, which is not installed here" in message


def test_the_kits_script_is_reproducible_and_quoted() -> None:
    kit = Kit(
        server="a", port=1, user="u", remote="/r", mount="/m/x", host_keys=[PUBLIC], key=b"secret"
    )
    assert kit.script() == kit.script()
    assert b"main -P 'it'\"'\"'s' \"$@\"" in kit.script(["-P", "it's"])
    assert "secret" not in repr(kit)


# "Nothing that serves starts a program"

_STARTING = re.compile(
    r"subprocess|create_subprocess|os\.(system|popen|exec|spawn|posix_spawn)|\bpty\."
)


def test_only_fleet_and_doctor_start_programs() -> None:
    found = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute | ast.Import | ast.ImportFrom)
        and _STARTING.search(ast.unparse(node))
    }
    assert found == {"worker_kit/doctor.py", "worker_kit/fleet.py"}


def test_serving_imports_no_module_that_starts_programs() -> None:
    program = (
        "import sys, sftp_gateway.commands.main\n"
        "starting = {f'sftp_gateway.worker_kit.{name}' for name in ('fleet', 'doctor')}\n"
        "print(starting & sys.modules.keys())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "set()\n"
