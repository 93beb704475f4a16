"""A gateway as its owner runs it, with Docker or without, and its invariants.

`Plain` and `Docker` have the same methods, each of which runs the commands of README.
"""

from __future__ import annotations

import contextlib
import html
import ipaddress
import json
import os
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, TypeAlias

from tests.integration.test_container import GATEWAY, OWNER, Deployment
from tests.support.gateway import Gateway, environment, free_port, wait_for

#: The folders that have what belongs to the owner, and must never be deleted.
_KEPT = ("config", "keys", "logs", "shared", "state")

#: The bystander is always reading, and a stop would wait for that.
_QUICK = {"SFTP_GATEWAY_DRAIN_TIMEOUT": "0.5"}

#: SQLite removes these by itself.
_VOLATILE = ("-journal", "-shm", "-wal")


class Plain(Gateway):
    """Started by its owner in a folder, without a container."""

    first_user = OWNER

    #: An address that nobody else's clients have.
    stranger = "127.0.0.66"

    def __init__(self, folder: Path) -> None:
        port = free_port()
        log = {"SFTP_GATEWAY_ACCESS_LOG__FILE": "logs/access.log"}
        super().__init__(folder, options={"SFTP_GATEWAY_PORT": str(port), **_QUICK, **log})
        self.port = port
        self._user = OWNER
        (folder / "logs").mkdir()
        for path in (folder, *folder.iterdir()):
            os.chown(path, OWNER, OWNER)

    def up(self) -> None:
        """Serve, with the program and the environment as they are now."""
        if self.process is not None and self.process.poll() is None:
            self.down()
        self.start(_as(self._user))

    def down(self) -> None:
        """Stop it gracefully."""
        assert self.stop() == 0

    again = up

    def run_as(self, user: int) -> None:
        """Let it run as another user, whom root lets read what it needs."""
        self.down()
        self._user = user
        _succeeded(self.run("init", "--owner", f"{user}:{user}"))
        self.up()

    def ask(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a read-only command as the serving user."""
        return self._run(self._user, *arguments)

    def change(self, *arguments: str, given: str = "", status: int = 0) -> str:
        """Run a writing command as the owner; returns its output."""
        return _succeeded(self._run(OWNER, *arguments, given=given), status)

    def _run(self, user: int, *arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*_as(user), sys.executable, "-m", "sftp_gateway", *arguments],
            cwd=self.folder,
            env=environment(**self._options),
            input=given,
            capture_output=True,
            text=True,
        )

    def take_release(self, sources: Path, name: str) -> None:
        """Use the program of release `name` from the next start on."""
        self._options["PYTHONPATH"] = str(sources)

    def share(self, name: str, folder: Path) -> None:
        """Serve another folder as one of the default shares."""
        configure(self, f'[shares.{name}]\npath = "{folder}"\n')

    def health(self) -> str:
        """The health as a service manager sees it."""
        assert self.process is not None
        assert self.process.poll() is None, self.stderr
        return "healthy" if self.ask("healthcheck").returncode == 0 else "unhealthy"

    def page(self) -> str:
        """The status page, as text."""
        return html.unescape(self.http("/")[1])

    def files(self) -> set[str]:
        """The owner's files."""
        return _files(*(self.folder / name for name in _KEPT))

    def ssh_from_stranger(self, key: Path, *command: str) -> subprocess.CompletedProcess[str]:
        """Run `ssh` from an address that nothing else uses."""
        return self.ssh(*command, options=self.ssh_options(key=key, BindAddress=self.stranger))


class Docker(Deployment):
    """A clone that docker-compose serves, with its settings in .env."""

    first_user = GATEWAY

    def __init__(self, folder: Path, docker_host: str, image: str) -> None:
        super().__init__(folder, docker_host, {"GATEWAY_IMAGE": image})
        self.set_env(**_QUICK)
        # Only so that `docker ps` tells sooner what is.
        (folder / "docker-compose.override.yml").write_text(
            "services:\n  sftp-gateway:\n    healthcheck:\n      interval: 2s\n"
        )

    def docker(self, *arguments: str) -> str:
        return _succeeded(
            subprocess.run(
                ["docker", *arguments], env=self.environment, capture_output=True, text=True
            )
        )

    def set_env(self, **values: str) -> None:
        """Set these variables in .env."""
        path = self.folder / ".env"
        lines = path.read_text().splitlines() if path.exists() else []
        kept = [line for line in lines if line.partition("=")[0] not in values]
        new = [f"{name}={value}" for name, value in values.items()]
        path.write_text("".join(f"{line}\n" for line in (*kept, *new)))

    def ps(self, column: str) -> str:
        """A column of `docker ps` for the container that serves."""
        return self.docker(
            *("ps", "--all", "--format", f"{{{{.{column}}}}}"),
            *("--filter", f"label=com.docker.compose.project={self.project}"),
            *("--filter", "label=com.docker.compose.service=sftp-gateway"),
            *("--filter", "label=com.docker.compose.oneoff=False"),
        ).strip()

    @property
    def project(self) -> str:
        return self.environment["COMPOSE_PROJECT_NAME"]

    def down(self) -> None:
        self.compose("stop", "sftp-gateway")

    def again(self) -> None:
        self.compose("restart", "sftp-gateway")
        wait_for(self._answers, "the container to serve")

    def run_as(self, user: int) -> None:
        self.set_env(GATEWAY_UID=str(user), GATEWAY_GID=str(user))
        self.up()

    def ask(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["docker", "exec", self.ps("ID"), "sftp-gateway", *arguments],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )

    def change(self, *arguments: str, given: str = "", status: int = 0) -> str:
        run = ["docker-compose", "run", "--rm", "--no-deps", "-T"]
        old = ["-v", f"{self.folder}/old:/srv/sftp-gateway/old:ro"]
        ran = subprocess.run(
            [*run, *(old if (self.folder / "old").exists() else ()), "init", *arguments],
            cwd=self.folder,
            env=self.environment,
            input=given,
            capture_output=True,
            text=True,
        )
        return _succeeded(ran, status)

    def take_release(self, sources: Path, name: str) -> None:
        """`git pull`, and an image of these sources from the next start on."""
        for entry in sources.iterdir():
            if entry.name not in _KEPT:
                subprocess.run(["rm", "-rf", "--", self.folder / entry.name], check=True)
                subprocess.run(["cp", "-r", "--", entry, self.folder], check=True)
        self.environment["GATEWAY_IMAGE"] = f"sftp-gateway-test:{name}"
        self.compose("build", "--quiet", "sftp-gateway")

    def share(self, name: str, folder: Path) -> None:
        self.set_env(**{f"{name.upper()}_DIR": str(folder)})
        self.up()

    def health(self) -> str:
        def known() -> str:
            shown = self.ps("Status")
            assert shown.startswith("Up "), self.compose("logs", "--tail", "50")
            return "" if "starting" in shown else shown

        return wait_for(known, "its first health check").partition("(")[2].rstrip(")")

    def page(self) -> str:
        token = (self.folder / "keys/status_token").read_text().strip()
        asked = urllib.request.Request(
            f"http://127.0.0.1:{self.metrics_port}/", headers={"Authorization": f"Bearer {token}"}
        )
        with urllib.request.urlopen(asked) as answer:  # noqa: S310
            return html.unescape(answer.read().decode())

    def files(self) -> set[str]:
        volumes = [
            self.docker(
                "volume", "inspect", "--format", "{{.Mountpoint}}", f"{self.project}_{name}"
            )
            for name in ("access-log", "state")
        ]
        folders = [self.folder / name for name in _KEPT]
        return _files(*folders, *(Path(volume.strip()) for volume in volumes))

    def events(self, name: str | None = None, **fields: Any) -> list[dict[str, Any]]:
        """The events of the current container."""
        logs = self.docker("logs", self.ps("ID"))
        lines = [line for line in logs.splitlines(keepends=True) if line.startswith('{"time"')]
        (self.folder / "access.log").write_text("".join(lines))
        return Gateway.events(self, name, **fields)

    @property
    def stranger(self) -> str:
        return self._network()[2]

    def _network(self) -> tuple[str, str, str]:
        """The bridge, the container's address on it, and an unused one."""
        (network,) = json.loads(self.docker("network", "inspect", f"{self.project}_default"))
        subnet = ipaddress.ip_network(network["IPAM"]["Config"][0]["Subnet"])
        (container,) = network["Containers"].values()
        address = container["IPv4Address"].partition("/")[0]
        return f"br-{network['Id'][:12]}", address, str(subnet[-2])

    def ssh_from_stranger(self, key: Path, *command: str) -> subprocess.CompletedProcess[str]:
        # What comes through a port that Docker publishes has the bridge's address.
        bridge, container, stranger = self._network()
        subprocess.run(["ip", "addr", "replace", f"{stranger}/32", "dev", bridge], check=True)
        direct = {
            "HostName": container,
            "Port": "2222",
            "HostKeyAlias": f"[127.0.0.1]:{self.port}",
            "BindAddress": stranger,
        }
        return self.ssh(*command, options=self.ssh_options(key=key, **direct))


Place: TypeAlias = Plain | Docker


class Bystander:
    """A user who reads from a mount all the time."""

    def __init__(self, file: Path, content: bytes) -> None:
        self.errors: list[str] = []
        self._rounds = 0
        self._file, self._content = file, content
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work)

    def __enter__(self) -> Bystander:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _work(self) -> None:
        while not self._stop.wait(0.05):
            try:
                listed = os.listdir(self._file.parent)
                read = self._file.read_bytes()
            except OSError as error:
                self.errors.append(str(error))
                continue
            if self._file.name not in listed or read != self._content:
                self.errors.append(f"{len(read)} bytes that are not the file's")
            self._rounds += 1

    def works(self) -> None:
        """Wait until it has read everything again, starting now."""
        seen = self._rounds
        wait_for(lambda: self._rounds >= seen + 2, f"{self._file} to be read: {self.errors[-1:]}")

    def forgive(self) -> None:
        """Forget errors: requests in flight at a stop fail, see docs/operations.md."""
        self.works()
        self.errors.clear()


def _is_ready(place: Place) -> bool:
    status, body = place.http("/readyz")
    return status == 200 and "refused since" not in body


class Week:
    """A gateway and a bystander who has mounted it."""

    def __init__(self, place: Place, bystander: Bystander) -> None:
        self.place, self.bystander = place, bystander

    @contextlib.contextmanager
    def step(
        self, *, reason: str = "", interrupts: bool = False, deletes: Collection[str] = ()
    ) -> Iterator[None]:
        """Something that the owner does, and what has to hold after it, whatever it is.

        `reason` is on the status page if the gateway is not ready; without one, it is.
        `interrupts` says that connections are closed. `deletes`: the files that it is about.
        """
        before = self.place.files()
        yield
        self.holds(reason, interrupts=interrupts)
        assert before - self.place.files() == set(deletes)

    def holds(self, reason: str = "", *, interrupts: bool = False) -> None:
        """Check that it is healthy, and ready or says why not; the bystander is undisturbed."""
        place = self.place
        assert place.health() == "healthy"
        if reason:
            wait_for(lambda: reason in place.page(), f"the page to say: {reason}")
        else:
            wait_for(lambda: _is_ready(place), f"{place.http('/readyz')} to be 200, none refused")
            doctor = place.ask("doctor")
            assert doctor.returncode == 0, doctor.stderr
        if interrupts:
            self.bystander.forgive()
        self.bystander.works()
        assert self.bystander.errors == []

    @contextlib.contextmanager
    def logs(self, event: str) -> Iterator[None]:
        """Wait until the gateway has a new line of this event in its log."""
        before = len(self.place.events(event))
        yield
        wait_for(lambda: len(self.place.events(event)) > before, f"a new {event}")


def _as(user: int) -> list[str]:
    return ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"]


def configuration(place: Place) -> Path:
    return place.folder / "config/sftp-gateway.toml"


def configure(place: Place, tables: str, *, options: str = "") -> None:
    """Append tables to the configuration file, and prepend options."""
    path = configuration(place)
    old = path.read_text() if path.exists() else ""
    new = path.with_suffix(".new")
    new.write_text(options + old + tables)
    os.chown(new, OWNER, OWNER)
    new.replace(path)


def copy_old(server: Path, place: Place) -> None:
    """Bring the old server's keys to the gateway, as docs/migrate-from-openssh.md says."""
    subprocess.run(["cp", "-r", "--", server, place.folder / "old"], check=True)
    subprocess.run(["chown", "-R", str(OWNER), place.folder / "old"], check=True)


def _succeeded(ran: subprocess.CompletedProcess[str], status: int = 0) -> str:
    assert ran.returncode == status, f"{ran.args}:\n{ran.stdout[-4000:]}\n{ran.stderr[-4000:]}"
    return ran.stdout + ran.stderr


def _files(*folders: Path) -> set[str]:
    return {
        str(path)
        for folder in folders
        for path in folder.rglob("*")
        if path.is_file() and not path.name.endswith(_VOLATILE)
    }
