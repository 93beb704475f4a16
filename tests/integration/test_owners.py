"""The user that the gateway runs as: its permissions, and installation as a service."""

from __future__ import annotations

import http.client
import os
import shutil
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.support.gateway import REPOSITORY, Gateway, free_port, wait_for
from tests.support.worker import Worker

pytestmark = pytest.mark.integration

#: An unused UID.
STRANGER = 54321

TOKEN = "0123456789abcdef"


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that every user can enter."""
    with tempfile.TemporaryDirectory(prefix="owners-", dir="/var/tmp") as made:
        Path(made).chmod(0o755)
        yield Path(made)


def page(gateway: Gateway, token: str | None) -> int:
    """The HTTP status of the status page."""
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    url = f"http://127.0.0.1:{gateway.metrics_port}/"
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code
    except http.client.RemoteDisconnected:
        return 0


def test_unusable_optional_files_do_not_stop_the_start(
    make_gateway: Callable[..., Gateway],
) -> None:
    gateway = make_gateway(SFTP_GATEWAY_ACCESS_LOG__FILE="logs/access.log")
    log, history, token = closed = [
        gateway.folder / name
        for name in ("logs/access.log", "state/history.sqlite3", "keys/status_token")
    ]
    for path in closed:
        path.parent.mkdir(exist_ok=True)
        path.touch(0o600)
    token.write_text(TOKEN)
    closed += [log.parent, history.parent]
    for path in closed:
        os.chown(path, STRANGER, STRANGER)
    for folder in (log.parent, history.parent):
        folder.chmod(0o700)
    # Root without capabilities.
    gateway.start(("setpriv", "--bounding-set=-dac_override,-dac_read_search"))
    for message in (
        "warning: SFTP_GATEWAY_ACCESS_LOG__FILE: ", "warning: history.file: ",
        "warning: status: keys/status_token: cannot be read",
    ):  # fmt: skip
        assert message in gateway.stderr
    assert gateway.ssh("echo", "in").stdout == "in\n"
    assert (page(gateway, None), page(gateway, TOKEN)) == (401, 401)
    lost = partial(gateway.metric, "sftp_gateway_access_log_lines_lost_total")
    wait_for(lambda: lost() > 0, "the lost lines to be counted")
    assert (log.stat().st_size, history.stat().st_size) == (0, 0)
    os.chown(token, 0, 0)
    wait_for(lambda: page(gateway, TOKEN) == 200, "the token to be read")
    assert page(gateway, None) == 401
    assert (log.stat().st_size, history.stat().st_size) == (0, 0)
    for path in closed:
        os.chown(path, 0, 0)

    def used() -> bool:
        assert gateway.ssh("echo", "in").stdout == "in\n"
        return log.stat().st_size > 0 < history.stat().st_size

    wait_for(used, "log and history to be written in their places")


@pytest.mark.parametrize("command", ["check", "doctor"])
def test_check_as_root_reports_what_the_gateways_user_sees(
    make_gateway: Callable[..., Gateway], folder: Path, command: str
) -> None:
    gateway = make_gateway(f'[shares.closed]\npath = "{folder}/closed"\n')
    (folder / "closed").mkdir(0o700)
    assert gateway.run("init", "--owner", f"{STRANGER}:{STRANGER}").returncode == 0
    for above in (gateway.folder, *gateway.folder.parents[:3]):
        above.chmod(above.stat().st_mode | 0o055)
    ran = gateway.run(command)
    assert f"Checking as user {STRANGER}, who owns keys/ssh_host_ed25519_key:" in ran.stderr
    assert f"cannot be read by the gateway, which runs as {STRANGER}:{STRANGER}" in ran.stderr
    assert "run as root" not in ran.stderr


def test_the_doctor_reports_a_rejected_configuration_file(
    make_gateway: Callable[..., Gateway],
) -> None:
    gateway = make_gateway(SFTP_GATEWAY_PORT=str(free_port())).start()
    (gateway.folder / "config/sftp-gateway.toml").write_text("prot = 2\n")
    wait_for(lambda: "refused" in gateway.http("/readyz")[1], "the refusal to be shown")
    ran = gateway.run("doctor")
    assert ran.returncode == 1
    first, *others = ran.stderr.splitlines()
    assert first.startswith("error: config/sftp-gateway.toml:1:1: prot: ")
    assert "The running gateway serves the previous configuration." in others
    assert '"configuration": "refused since ' in others[-1]


def clone(folder: Path) -> None:
    """A user's clone with the files that scripts/serve needs."""
    for name in (
        "scripts",
        "sftp_gateway",
        "pyproject.toml",
        "requirements.lock",
        "requirements-build.lock",
    ):
        source = REPOSITORY / name
        (shutil.copytree if source.is_dir() else shutil.copyfile)(source, folder / name)
    (folder / "scripts/serve").chmod(0o755)
    (folder / "scripts/venv").chmod(0o755)
    for path in (folder, *folder.rglob("*")):
        os.chown(path, 1000, 1000)


def test_root_does_not_serve_from_another_users_checkout(folder: Path) -> None:
    clone(folder)
    before = sorted(folder.rglob("*"))
    ran = subprocess.run([folder / "scripts/serve"], capture_output=True, text=True)
    assert ran.returncode == 1
    assert "this folder belongs to " in ran.stderr
    assert "sudo scripts/install. Nothing was changed" in ran.stderr
    assert sorted(folder.rglob("*")) == before


def test_a_read_only_checkout_is_reported_with_a_remedy(folder: Path) -> None:
    clone(folder)
    ran = subprocess.run(
        [
            *("unshare", "--mount", "sh", "-c"),
            'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec setpriv --reuid=1000 '
            '--regid=1000 --clear-groups "$0/scripts/serve"',
            folder,
        ],
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 1
    assert "Errno" not in ran.stderr
    assert "read-only): use a copy that you can write to, or install it" in ran.stderr


def test_a_service_is_installed_updated_reassigned_and_removed(
    folder: Path, tmp_path: Path
) -> None:
    """With the real systemd, on an overlay of this machine's files."""
    root = folder / "root"
    made = subprocess.run(
        [REPOSITORY / "scripts/install"],
        env={**os.environ, "DESTDIR": str(root)},
        capture_output=True,
        text=True,
    )
    assert made.returncode == 0, made.stderr
    unit = root / "etc/systemd/system/sftp-gateway.service"
    machine = Worker(Path("/"), tmp_path / "machine")
    try:
        machine.start()
        for source, names, target in (
            (REPOSITORY, ("scripts", "requirements.lock", "requirements-build.lock",
                          "pyproject.toml", "README.md", "LICENSE", "sftp_gateway"), "/srv/clone"),
            (root, ("opt/sftp-gateway",), "/"),
        ):  # fmt: skip
            packed = subprocess.run(
                ["tar", "-C", source, "-c", *names], stdout=subprocess.PIPE, check=True
            ).stdout
            machine.shell(f"mkdir -p {target}")
            assert machine.run("tar", "-C", target, "-x", stdin=packed).returncode == 0
        checked = machine.run(
            "systemd-analyze", "verify", "/srv/clone/scripts/service/" + unit.name
        )
        assert "sftp-gateway" not in checked.stderr
        machine.shell("useradd --system other && /srv/clone/scripts/install")
        started = machine.shell("systemctl show --value -p ActiveState,MainPID sftp-gateway")
        assert "active" in started
        machine.shell("sftp-gateway doctor && sftp-gateway check >/dev/null")
        machine.shell("cd / && sftp-gateway keys rotate gvpocr 'sftp-gateway worker gvpocr' w7")
        log_in = (
            "ssh -F none -i /etc/sftp-gateway/keys/w7 -o IdentitiesOnly=yes -o BatchMode=yes "
            "-o StrictHostKeyChecking=no -p 2222 gvpocr@127.0.0.1 echo in"
        )
        wait_for(lambda: machine.run(*log_in.split()).stdout == "in\n", "the new key to let in")
        machine.shell("/srv/clone/scripts/install && systemctl reload sftp-gateway")
        assert (
            machine.shell("systemctl show --value -p ActiveState,MainPID sftp-gateway") == started
        )
        machine.put(
            "/etc/systemd/system/sftp-gateway.service.d/user.conf",
            b"[Service]\nUser=other\nGroup=other\n",
        )
        machine.shell("systemctl daemon-reload && systemctl restart sftp-gateway")
        machine.shell(f"sftp-gateway doctor && {log_in}")
        owners = machine.shell(
            "stat -c %U /var/log/sftp-gateway/access.log /var/lib/sftp-gateway/*"
        )
        assert set(owners.split()) == {"other"}
        machine.shell("/srv/clone/scripts/install --uninstall")
        assert machine.run("systemctl", "is-active", "sftp-gateway").returncode != 0
        machine.shell("test ! -e /opt/sftp-gateway && test -e /etc/sftp-gateway/keys/w7")
    finally:
        machine.close()
