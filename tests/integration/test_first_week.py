"""The first week of a gateway, with Docker and without, step by step.

The steps run in sequence on one gateway. `Week.step` checks after each that the gateway is healthy,
is ready or explains on its page why not, that a bystander's mount works, and that nothing was
deleted.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.test_container import _clone, docker_host, image  # noqa: F401 - fixtures
from tests.integration.test_moving_over import mounted as mounted_by_old_script
from tests.support.first_week import (
    Bystander,
    Docker,
    Place,
    Plain,
    Week,
    configuration,
    configure,
    copy_old,
)
from tests.support.gateway import REPOSITORY, fill, wait_for
from tests.support.keys import make_key, public_line
from tests.support.old_server import OldServer

pytestmark = pytest.mark.integration

#: Whose folder the gateway's user cannot read.
ARCHIVIST = 65_534

#: The release to upgrade from if no tag exists: a number of commits ago.
OLDER = "HEAD~60"

CONTENT = os.urandom(300_000)

MakePlace = Callable[[str], contextlib.AbstractContextManager[Place]]


@pytest.fixture(
    scope="module",
    params=[
        "plain",
        pytest.param("docker", marks=[pytest.mark.container, pytest.mark.timeout(900)]),
    ],
)
def make_place(request: pytest.FixtureRequest, data: Path) -> MakePlace:
    """Creates gateways in their own folders, not yet started."""

    @contextlib.contextmanager
    def make(name: str) -> Iterator[Place]:
        folder = data / f"{name}-{request.param}"
        folder.mkdir()
        if request.param == "docker":
            _clone(folder)
            engine, built = (request.getfixturevalue(name) for name in ("docker_host", "image"))
            deployment = Docker(folder, engine, built)
            # Here, because docker-compose 1.29 builds without the cache for `run`.
            deployment.compose("build", "--quiet", "init")
            try:
                yield deployment
            finally:
                deployment.compose("down", "-v")
        else:
            plain = Plain(folder)
            try:
                yield plain
            finally:
                plain.close()

    return make


@pytest.fixture(scope="module")
def data() -> Iterator[Path]:
    """A folder that every user can enter, unlike pytest's."""
    with tempfile.TemporaryDirectory(prefix="first-week-", dir="/var/tmp") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture(scope="module")
def week(make_place: MakePlace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Week]:
    """A gateway started in an empty folder, and a mount with its generated key."""
    with make_place("gateway") as place:
        place.up()
        fill(place.folder / "shared/models", {"weights.bin": CONTENT})
        with watched(place, tmp_path_factory.mktemp("mnt")) as week:
            yield week


@contextlib.contextmanager
def watched(place: Place, at: Path) -> Iterator[Week]:
    """A gateway and a bystander with its generated key."""
    with (
        place.mounted(at, "/home/gvpocr", "reconnect", "direct_io") as mount,
        Bystander(mount / "models/weights.bin", CONTENT) as bystander,
    ):
        yield Week(place, bystander)


@pytest.fixture(scope="module")
def ana(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The key of a second user, ana."""
    return make_key(tmp_path_factory.mktemp("ana") / "ana_laptop", "ed25519")


@pytest.fixture(scope="module")
def archive(make_place: MakePlace, data: Path) -> Path:
    """A folder that only its owner may enter."""
    folder = data / "archive"
    fill(folder, {"1985.pdf": b"letter"})
    for path in (folder, folder / "1985.pdf"):
        os.chown(path, ARCHIVIST, ARCHIVIST)
    folder.chmod(0o700)
    return folder


def lets_in(place: Place, user: str, key: Path) -> bool:
    ran = place.ssh("echo in", user=user, options=place.ssh_options(key=key))
    return ran.stdout == "in\n"


def reads(place: Place, file: str) -> bool:
    return place.sftp(f"get {file} /dev/null").returncode == 0


# Migration and upgrades


def test_workers_migrate_from_an_old_server_and_back(make_place: MakePlace, tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    key = make_key(tmp_path / "worker", "ed25519")
    (tmp_path / "old/authorized_keys").write_text(f"{public_line(key)}\n")
    with make_place("successor") as place, contextlib.ExitStack() as stack:
        shares = place.folder / "shared"
        fill(shares, {"models/weights.bin": CONTENT, "Bhushanji/a.txt": b"a"})
        for share in ("newsletters", "huggingface/hub"):
            (shares / share).mkdir(parents=True, exist_ok=True)
        old = OldServer(tmp_path / "old", shares, place.port).start()
        stack.callback(old.stop)
        mount = stack.enter_context(
            mounted_by_old_script(old, tmp_path / "mnt", key, tmp_path / "known_hosts")
        )
        bystander = stack.enter_context(Bystander(mount / "models/weights.bin", CONTENT))
        copy_old(old.folder, place)
        place.change("import-authorized-keys", "--user", "gvpocr", "old/authorized_keys")
        place.change("import-host-key", "old/etc/ssh", status=1)  # the ECDSA key is not used
        with Week(place, bystander).step(interrupts=True):
            old.stop()
            place.up()
        place.down()
        old.start()
        bystander.works()
        old.stop()


@pytest.fixture(scope="module")
def older(data: Path) -> Path:
    """The sources of the last release."""
    folder = data / "older"
    folder.mkdir(exist_ok=True)
    git = ["git", "-c", "safe.directory=*", "-C", str(REPOSITORY)]
    tagged = subprocess.run(
        [*git, "describe", "--tags", "--abbrev=0"], capture_output=True, text=True
    )
    release = tagged.stdout.strip() or OLDER
    archived = subprocess.run([*git, "archive", release], capture_output=True)
    assert archived.returncode == 0, archived.stderr
    subprocess.run(["tar", "-x", "-C", folder], input=archived.stdout, check=True)
    return folder


def test_upgrade_and_downgrade_keep_mounts_and_files(
    make_place: MakePlace, older: Path, data: Path, tmp_path: Path
) -> None:
    newer = data / "newer"
    _clone(newer)
    with make_place("upgraded") as place:
        place.take_release(older, "older")
        configure(place, '[users.gvpocr]\n[users.ana]\nshares = ["models"]\n')
        place.up()
        fill(place.folder / "shared/models", {"weights.bin": CONTENT})
        with watched(place, tmp_path / "mnt") as week:
            week.holds()
            for sources, name in ((newer, "newer"), (older, "older")):
                with week.step(interrupts=True):
                    place.take_release(sources, name)
                    place.up()
                assert "file_closed" in place.ask("logs", "--json").stdout


# The week


def test_it_starts_in_an_empty_folder(week: Week) -> None:
    week.holds()
    assert "Live sessions" in week.place.page()


def test_a_second_user_can_be_added(week: Week, ana: Path) -> None:
    place = week.place
    with week.step():
        configure(place, '[users.ana]\nshares = ["models"]\n')
        place.change("keys", "add", "ana", given=public_line(ana))
        wait_for(lambda: lets_in(place, "ana", ana), "the second user to be let in")
    assert lets_in(place, "gvpocr", place.key)
    listed = place.sftp("ls -1", user="ana", options=place.ssh_options(key=ana)).stdout
    assert listed.split()[-1:] == [b"models"]
    assert place.ask("check").returncode == 0
    keys = place.ask("keys", "list").stdout
    assert "sftp-gateway worker gvpocr" in keys
    assert "ana_laptop" in keys


def test_an_unreadable_folder_is_explained_on_the_page(week: Week, archive: Path) -> None:
    place = week.place
    with week.step(reason=f"belongs to {ARCHIVIST}", interrupts=True):
        place.share("newsletters", archive)
        wait_for(lambda: place.http("/readyz")[0] == 503, "the share to be missed")
    assert not reads(place, "newsletters/1985.pdf")


def test_a_gateway_running_as_the_folders_owner_serves_it(week: Week) -> None:
    with week.step(interrupts=True):
        week.place.run_as(ARCHIVIST)
    assert reads(week.place, "newsletters/1985.pdf")


def test_the_first_user_serves_the_folder_once_it_is_readable(week: Week, archive: Path) -> None:
    place = week.place
    with week.step(reason=f"belongs to {ARCHIVIST}", interrupts=True):
        place.run_as(place.first_user)
    with week.step():
        archive.chmod(0o755)
    assert reads(place, "newsletters/1985.pdf")


def test_a_ban_is_lifted(week: Week, tmp_path: Path) -> None:
    place = week.place
    wrong = make_key(tmp_path / "wrong", "ed25519")

    def is_banned() -> bool:
        place.ssh_from_stranger(wrong, "echo in")
        return bool(place.events("source_banned", source=place.stranger))

    with week.step():
        wait_for(is_banned, "wrong keys to be a ban")
        wait_for(lambda: place.stranger in place.page(), "the page to show the ban")
        assert place.ssh_from_stranger(place.key, "echo in").returncode == 255
        assert place.stranger in place.ask("bans", "list").stdout
        assert place.ask("bans", "lift", place.stranger).returncode == 0
    assert place.ssh_from_stranger(place.key, "echo in").stdout == "in\n"
    assert place.stranger not in place.ask("bans", "list").stdout


def test_a_key_is_rotated(week: Week, ana: Path) -> None:
    place, new = week.place, week.place.folder / "keys/ana_new"
    with week.step():
        with week.logs("configuration_reloaded"):
            place.change("keys", "rotate", "ana", "ana_laptop", "keys/ana_new")
        wait_for(lambda: lets_in(place, "ana", new), "the new key to be let in")
        assert lets_in(place, "ana", ana)


def test_revoking_a_key_ends_only_its_own_mount(week: Week, ana: Path, tmp_path: Path) -> None:
    place = week.place
    with (
        place.mounted(tmp_path / "mnt", "/home/ana", "direct_io", user="ana", key=ana) as mount,
        week.step(),
        week.logs("credentials_removed"),
    ):
        assert (mount / "models/weights.bin").read_bytes() == CONTENT
        revoked = place.folder / "keys/revoked_keys"
        revoked.write_text(f"{public_line(ana)}\n")
    assert not lets_in(place, "ana", ana)
    assert lets_in(place, "ana", place.folder / "keys/ana_new")


def test_an_invalid_configuration_is_rejected_and_explained_on_the_page(week: Week) -> None:
    place = week.place
    good = configuration(place).read_text()
    with week.step(reason="max_conections"), week.logs("configuration_refused"):
        configure(place, "", options="max_conections = 3\n")
    assert place.metric("sftp_gateway_config_last_reload_successful") == 0
    assert lets_in(place, "gvpocr", place.key)
    with week.step(), week.logs("configuration_reloaded"):
        configuration(place).write_text(good)
    assert place.metric("sftp_gateway_config_last_reload_successful") == 1
    assert "max_conections" not in place.page()


def test_a_missing_configuration_changes_nothing_and_is_reported(week: Week) -> None:
    place = week.place
    here = configuration(place)
    aside = here.with_suffix(".aside")
    with (
        week.step(reason="sftp-gateway.toml", deletes=[str(here)]),
        week.logs("configuration_refused"),
    ):
        here.rename(aside)
    assert lets_in(place, "ana", place.folder / "keys/ana_new")
    with week.step(deletes=[str(aside)]), week.logs("configuration_reloaded"):
        aside.rename(here)


def test_a_restart_keeps_everything(week: Week, ana: Path) -> None:
    place = week.place
    with week.step(interrupts=True):
        place.again()
    assert lets_in(place, "gvpocr", place.key)
    assert lets_in(place, "ana", place.folder / "keys/ana_new")
    assert not lets_in(place, "ana", ana)
    assert reads(place, "newsletters/1985.pdf")
    logins = place.ask("logs", "--event", "login_accepted", "--user", "ana", "--csv").stdout
    assert len(logins.splitlines()) > 3, "the history covers the week"
