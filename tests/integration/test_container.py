"""`docker-compose up sftp-gateway` in a fresh clone, up to a mount, as README describes."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import socket
import stat
import subprocess
import tempfile
import urllib.request
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support.gateway import REPOSITORY, Gateway, fill, free_port, wait_for
from tests.support.keys import make_key, public_line

# The first run creates the base image and downloads the build dependencies.
pytestmark = [pytest.mark.container, pytest.mark.timeout(900)]

#: The clone's owner, and the image's user.
OWNER, GATEWAY = 1000, 10001

#: Keeps the image's layers between runs.
CACHE_IMAGE = "sftp-gateway-test:cache"


def _run(
    *command: str,
    env: Mapping[str, str],
    cwd: Path = REPOSITORY,
    stdin: str = "",
    errors: bool = False,
) -> str:
    """Its output, with standard error if `errors`."""
    done = subprocess.run(command, cwd=cwd, env=env, input=stdin, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}:\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout + (done.stderr if errors else "")


def _bare_environment(**more: str) -> dict[str, str]:
    """The environment without settings for the gateway or for Compose."""
    kept = ("PATH", "HOME", "DOCKER_HOST", "PIP_INDEX_URL")
    return {name: os.environ[name] for name in kept if name in os.environ} | more


def _clone(folder: Path, *, umask: int = 0o022) -> None:
    """The files of a clone, with an ordinary user's owner and modes."""
    listed = _run(
        *("git", "-c", "safe.directory=*", "ls-files", "-z"),
        *("--cached", "--others", "--exclude-standard"),
        env=_bare_environment(),
    )
    for name in filter(None, listed.split("\0")):
        source, copy = REPOSITORY / name, folder / name
        if source.is_file():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, copy)
            copy.chmod((0o777 if os.access(source, os.X_OK) else 0o666) & ~umask)
    for path in (folder, *folder.rglob("*")):
        os.chown(path, OWNER, OWNER)
        if path.is_dir():
            path.chmod(0o777 & ~umask)


class Deployment(Gateway):
    """A clone that docker-compose serves, with `options` set in .env."""

    def __init__(self, folder: Path, docker_host: str, options: Mapping[str, str]) -> None:
        super().__init__(folder)
        self.port = free_port()
        self.environment = _bare_environment(
            DOCKER_HOST=docker_host,
            COMPOSE_PROJECT_NAME=f"sftp-gateway-test-{uuid.uuid4().hex[:8]}",
            SFTP_PORT=str(self.port),
            METRICS_PORT=str(self.metrics_port),
            **options,
        )

    def compose(self, *arguments: str) -> str:
        return _run("docker-compose", *arguments, env=self.environment, cwd=self.folder)

    def gateway(self, *arguments: str, errors: bool = False) -> str:
        """The output of another command, run in the serving container."""
        command = ("exec", "-T", "sftp-gateway", "sftp-gateway", *arguments)
        return _run(
            *("docker-compose", *command), env=self.environment, cwd=self.folder, errors=errors
        )

    def keeper(
        self, *arguments: str, volume: Path | None = None, stdin: str = "", errors: bool = False
    ) -> str:
        """The same in a container that may write to keys/; `volume` is mounted at /old."""
        more = [] if volume is None else ["-v", f"{volume}:/old:ro"]
        command = ("run", "--rm", "--no-deps", "-T", *more, "init", *arguments)
        return _run(
            *("docker-compose", *command),
            env=self.environment, cwd=self.folder, stdin=stdin, errors=errors,
        )  # fmt: skip

    def inspect(self) -> dict[str, Any]:
        """`docker inspect` of the serving container."""
        container = self.compose("ps", "--all", "-q", "sftp-gateway").strip()
        found: list[dict[str, Any]] = json.loads(
            _run("docker", "inspect", container, env=self.environment)
        )
        return found[0]

    def up(self, *options: str) -> None:
        self.compose("up", "-d", *options, "sftp-gateway")
        try:
            wait_for(self._answers, "the container to serve")
        except AssertionError as error:
            raise AssertionError(self.compose("logs", "--tail", "50")) from error

    def _answers(self) -> bool:
        # Docker's proxy accepts connections before the gateway does, and closes them.
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", self.port)) as ssh,
        ):
            return ssh.recv(4) == b"SSH-"
        return False

    def wait_until_healthy(self) -> None:
        def healthy() -> bool:
            health = self.inspect()["State"]["Health"]
            assert health["Status"] != "unhealthy", health["Log"]
            return bool(health["Status"] == "healthy")

        wait_for(healthy, "the container to be healthy", timeout=120)

    def events(self, name: str | None = None, **fields: Any) -> list[dict[str, Any]]:
        logs = self.compose("logs", "--no-color", "--no-log-prefix", "sftp-gateway")
        # Compose v2 prefixes each line with a terminal control sequence.
        lines = [line[line.index("{") :] for line in logs.splitlines() if '{"time"' in line]
        (self.folder / "access.log").write_text("".join(f"{line}\n" for line in lines))
        return super().events(name, **fields)


@pytest.fixture(scope="module")
def docker_host() -> Iterator[str]:
    address = _run("scripts/docker-engine", "start", env=_bare_environment()).strip()
    environment = _bare_environment(DOCKER_HOST=address)
    try:
        _run("scripts/base-image", env=environment)
        yield address
    finally:
        _run("scripts/docker-engine", "stop", env=_bare_environment())


@pytest.fixture(scope="module")
def image(docker_host: str) -> Iterator[str]:
    """An unused image name, so that `up` builds it."""
    name = f"sftp-gateway-test:{uuid.uuid4().hex[:8]}"
    environment = _bare_environment(DOCKER_HOST=docker_host)
    yield name
    _run("docker", "tag", name, CACHE_IMAGE, env=environment)
    _run("docker", "image", "rm", name, env=environment)
    # The previous run left its image untagged.
    ours = "label=org.opencontainers.image.title=sftp-gateway"
    _run("docker", "image", "prune", "--force", "--filter", ours, env=environment)


@pytest.fixture(scope="module")
def deployed(docker_host: str, image: str) -> Iterator[Deployment]:
    # Not pytest's tmp_path, which ordinary users cannot enter.
    temporary = tempfile.TemporaryDirectory(prefix="clone-", dir="/var/tmp")
    folder = Path(temporary.name)
    _clone(folder)
    (folder / ".env").write_text(
        "SFTP_GATEWAY_MAX_HANDLES=1000\nGRAFANA_ADMIN_PASSWORD=never-for-the-gateway\n"
    )
    deployment = Deployment(folder, docker_host, {"GATEWAY_IMAGE": image})
    with temporary:
        try:
            deployment.up()
            yield deployment
        finally:
            deployment.compose("down", "-v")


def _owner_and_mode(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_uid, stat.S_IMODE(status.st_mode)


def test_the_first_start_gives_all_but_the_host_key_to_the_clones_owner(
    deployed: Deployment,
) -> None:
    keys, shared = deployed.folder / "keys", deployed.folder / "shared"
    assert _owner_and_mode(keys / "ssh_host_ed25519_key") == (GATEWAY, 0o600)
    assert _owner_and_mode(keys / "worker_ed25519") == (OWNER, 0o600)
    assert _owner_and_mode(keys / "authorized_keys/gvpocr") == (OWNER, 0o644)
    for name in ("Bhushanji", "newsletters", "models", "huggingface", "huggingface/hub"):
        assert _owner_and_mode(shared / name) == (OWNER, 0o755)


def test_the_container_becomes_healthy_and_ready(deployed: Deployment) -> None:
    deployed.wait_until_healthy()
    assert deployed.http("/readyz")[0] == 200


def test_the_container_has_no_unneeded_privileges(deployed: Deployment) -> None:
    facts = deployed.inspect()
    host = facts["HostConfig"]
    assert facts["Config"]["User"] == f"{GATEWAY}:{GATEWAY}"
    assert host["ReadonlyRootfs"]
    assert host["CapDrop"] == ["ALL"]
    assert not host["CapAdd"]
    assert "no-new-privileges:true" in host["SecurityOpt"]
    writable = [mount["Destination"] for mount in facts["Mounts"] if mount["RW"]]
    assert sorted(writable) == ["/srv/sftp-gateway/logs", "/srv/sftp-gateway/state"]
    metrics = facts["NetworkSettings"]["Ports"]["9222/tcp"]
    assert [binding["HostIp"] for binding in metrics] == ["127.0.0.1"]


def test_the_container_has_only_its_own_options(deployed: Deployment) -> None:
    printed = deployed.compose("exec", "-T", "sftp-gateway", "env")
    given = dict(each.split("=", 1) for each in printed.splitlines())
    assert given["SFTP_GATEWAY_MAX_HANDLES"] == "1000"
    assert "SFTP_GATEWAY_LANDLOCK" not in given  # what is not set is not empty either
    assert "never-for-the-gateway" not in given.values()


def test_a_mount_shows_identical_shares_and_every_access_is_logged(
    deployed: Deployment, tmp_path: Path
) -> None:
    noise = random.Random(2222)
    files = {
        "Bhushanji/एक पत्र.pdf": noise.randbytes(1_000_003),
        "newsletters/2024/a b.txt": b"",
        "models/deep/er/weights.bin": noise.randbytes(9_000_000),
        "huggingface/hub/version.txt": b"1",
    }
    fill(deployed.folder / "shared", files)
    with deployed.mounted(tmp_path / "mnt") as mount:
        for name, content in files.items():
            served = name.replace("huggingface", ".cache/huggingface")
            assert (mount / served).read_bytes() == content
            event = deployed.wait_event("file_closed", path=f"/home/gvpocr/{served}")
            assert event["bytes"] == len(content)
        with pytest.raises(PermissionError):
            (mount / "models/new").touch()
    assert deployed.wait_event("denied", path="/home/gvpocr/models/new")["user"] == "gvpocr"


def test_the_status_page_requires_the_generated_token(deployed: Deployment) -> None:
    token = (deployed.folder / "keys/status_token").read_text().strip()
    assert deployed.http("/")[0] == 401
    asked = urllib.request.Request(
        f"http://127.0.0.1:{deployed.metrics_port}/", headers={"Authorization": f"Bearer {token}"}
    )
    with urllib.request.urlopen(asked) as answer:  # noqa: S310
        page = answer.read().decode()
    assert "Live sessions" in page
    assert token not in page


def test_the_history_and_the_log_record_what_the_mount_read(deployed: Deployment) -> None:
    def recorded() -> bool:
        shown = deployed.gateway("logs", "--path", "weights.bin", "--csv")
        return "/home/gvpocr/models/deep/er/weights.bin" in shown

    wait_for(recorded, "the history to have the file")
    log = deployed.compose("exec", "-T", "sftp-gateway", "cat", "logs/access.log")
    assert "/home/gvpocr/models/deep/er/weights.bin" in log


def test_the_doctor_finds_no_problems(deployed: Deployment) -> None:
    deployed.gateway("doctor")  # or its exit status is not 0


def test_the_documented_command_makes_a_kit_with_this_host_key(
    deployed: Deployment, tmp_path: Path
) -> None:
    with open(deployed.folder / "keys/worker_ed25519", "rb") as key:
        made = subprocess.run(
            [
                *("docker-compose", "exec", "-T", "sftp-gateway", "sftp-gateway", "worker-kit"),
                *("--server", "127.0.0.1", "--stdout", "--key", "-"),
            ],
            cwd=deployed.folder,
            env=deployed.environment,
            stdin=key,
            capture_output=True,
        )
    assert made.returncode == 0, made.stderr
    (tmp_path / "kit.sh").write_bytes(made.stdout)
    _run("sh", "kit.sh", "--extract", "kit", env=_bare_environment(), cwd=tmp_path)
    public = (deployed.folder / "keys/ssh_host_ed25519_key.pub").read_text().split()[1]
    assert public in (tmp_path / "kit/known_hosts").read_text()
    assert (tmp_path / "kit/worker_key").read_bytes() == deployed.key.read_bytes()
    assert f"{deployed.port}" in (tmp_path / "kit/config").read_text()
    assert "--mount" in _run(str(tmp_path / "kit/sshfs-doctor"), "--help", env=_bare_environment())


def test_a_process_in_the_container_cannot_write_to_a_share(deployed: Deployment) -> None:
    attempt = "touch shared/models/new 2>&1 || true; touch keys/new 2>&1 || true"
    answer = deployed.compose("exec", "-T", "sftp-gateway", "sh", "-c", attempt)
    assert answer.count("Read-only file system") == 2


def test_a_rebuilt_container_keeps_its_host_key(deployed: Deployment) -> None:
    options = deployed.ssh_options()  # pin the host key of now
    container = deployed.inspect()["Id"]
    deployed.up("--build", "--force-recreate")
    assert deployed.inspect()["Id"] != container
    echo = deployed.ssh("echo", "SSH connection successful", options=options)
    assert (echo.returncode, echo.stdout) == (0, "SSH connection successful\n")


def test_stopping_the_container_exits_with_status_0(deployed: Deployment) -> None:
    deployed.compose("stop")
    state = deployed.inspect()["State"]
    assert (state["Status"], state["ExitCode"]) == ("exited", 0)
    assert deployed.events("server_stopped")
    deployed.up()


def test_the_container_stays_healthy_with_the_host_keys_of_another_server(
    deployed: Deployment,
) -> None:
    """sshd's three host keys, imported as docs/migrate-from-openssh.md describes."""
    old = deployed.folder / "old"
    old.mkdir()
    for kind in ("rsa", "ecdsa", "ed25519"):
        make_key(old / f"ssh_host_{kind}_key", kind)
    before = len(deployed.events("configuration_reloaded"))
    with pytest.raises(AssertionError, match="not used unless nist_curves = true"):
        deployed.keeper("import-host-key", "--replace", "/old", volume=old)
    wait_for(lambda: deployed.events("configuration_reloaded")[before:], "the keys to be taken")
    assert "ok\n" in deployed.gateway("doctor", errors=True)
    deployed.gateway("healthcheck")


def test_the_documented_command_rotates_a_key(deployed: Deployment, tmp_path: Path) -> None:
    def reloads() -> int:
        log = deployed.compose("exec", "-T", "sftp-gateway", "cat", "logs/access.log")
        return log.count('"event":"configuration_reloaded"')

    def change(*command: str, **options: Any) -> str:
        # A login before the keys are loaded would be refused and count towards a ban.
        before = reloads()
        output = deployed.keeper("keys", *command, **options)
        wait_for(lambda: reloads() > before, "the keys to be taken")
        return output

    private = make_key(tmp_path / "worker7", "ed25519")  # with this comment
    change("add", "gvpocr", stdin=public_line(private))
    with pytest.raises(AssertionError, match="docker-compose run --rm --no-deps init keys"):
        deployed.gateway("keys", "rotate", "gvpocr", "worker7", "worker7_new")
    output = change("rotate", "gvpocr", "worker7", "worker7_new", errors=True)
    new = deployed.folder / "keys/worker7_new"
    assert "created keys/worker7_new, which can log in as gvpocr" in output
    assert _owner_and_mode(new) == (OWNER, 0o600)
    assert public_line(new).split(maxsplit=2)[2] == "worker7"
    listed = [line for line in deployed.gateway("keys", "list").splitlines() if "worker7" in line]
    assert len(listed) == 2

    def lets_in(key: Path) -> bool:
        options = deployed.ssh_options(key=key)
        return deployed.ssh("echo", "in", options=options).stdout == "in\n"

    assert lets_in(new)
    fingerprint = next(line.split()[1] for line in listed if "never" in line)
    other = tmp_path / "from-stdout"
    other.touch(0o600)
    other.write_text(change("rotate", "gvpocr", fingerprint, "-"))
    assert lets_in(other)


def test_changing_the_gateways_user_and_back_hands_over_all_files(
    deployed: Deployment,
) -> None:
    def logged(path: str) -> bool:
        written = deployed.compose("exec", "-T", "sftp-gateway", "cat", "logs/access.log")
        return path in written and path in deployed.gateway("logs", "--path", path, "--csv")

    def read(path: str) -> None:
        assert deployed.sftp(f"get {path} {os.devnull}").returncode == 0
        wait_for(lambda: logged(path), f"log and history to have {path}")

    read("Bhushanji/README.txt")
    for uid, path in (("12345", "models/README.txt"), (str(GATEWAY), "newsletters/README.txt")):
        deployed.environment |= {"GATEWAY_UID": uid, "GATEWAY_GID": uid}
        deployed.up()
        assert deployed.inspect()["Config"]["User"] == f"{uid}:{uid}"
        read(path)
        assert logged("Bhushanji/README.txt")  # nothing is lost
        assert "warning" not in deployed.compose("logs", "init")
        assert "shown to nobody" not in deployed.gateway("doctor", errors=True)


def test_docker_and_scripts_serve_cannot_share_a_folder(
    deployed: Deployment,
) -> None:
    def owners() -> dict[str, tuple[int, int]]:
        return {
            str(path): _owner_and_mode(path)
            for folder in ("config", "keys", "shared")
            for path in (deployed.folder / folder).rglob("*")
        }

    before = owners()
    beside = Gateway(deployed.folder)
    refused = beside.run("serve")
    assert refused.returncode == 2
    assert "a gateway with Docker serves from this folder" in refused.stderr
    assert "docker-compose stop" in refused.stderr
    assert owners() == before
    deployed.compose("stop")
    as_owner = ("setpriv", f"--reuid={OWNER}", f"--regid={OWNER}", "--clear-groups")
    with pytest.raises(AssertionError, match=f"sftp-gateway init --owner {OWNER}:{OWNER}"):
        beside.start(as_owner)
    assert beside.run("init", "--owner", f"{OWNER}:{OWNER}").returncode == 0
    try:
        beside.start(as_owner)
        before = owners()
        with pytest.raises(AssertionError):
            deployed.compose("up", "-d", "sftp-gateway")
        assert "a gateway without Docker serves from this folder" in deployed.compose(
            "logs", "init"
        )
        assert owners() == before
        assert beside.ssh("echo", "in").stdout == "in\n"
    finally:
        beside.close()
    deployed.up()
    deployed.gateway("healthcheck")


def test_a_private_clone_can_be_served_as_any_configured_user(
    deployed: Deployment, docker_host: str, image: str, tmp_path: Path
) -> None:
    _clone(tmp_path / "clone", umask=0o077)
    options = {"GATEWAY_IMAGE": image, "GATEWAY_UID": "12345", "GATEWAY_GID": "12345"}
    private = Deployment(tmp_path / "clone", docker_host, options)
    try:
        private.up()
        private.gateway("healthcheck")
        assert private.inspect()["Config"]["User"] == "12345:12345"
        assert private.ssh("echo", "hello").stdout == "hello\n"
    finally:
        private.compose("down", "-v")


def test_a_copy_of_the_example_env_file_sets_options(tmp_path: Path) -> None:
    _clone(tmp_path / "clone")
    clone = Deployment(tmp_path / "clone", "unix:///nowhere", {})
    example = (clone.folder / ".env.example").read_text()
    assert "SFTP_GATEWAY_ACCESS_LOG__LEVEL: requests" not in clone.compose("config")
    (clone.folder / ".env").write_text(f"{example}\nSFTP_GATEWAY_ACCESS_LOG__LEVEL=requests\n")
    assert "SFTP_GATEWAY_ACCESS_LOG__LEVEL: requests" in clone.compose("config")
