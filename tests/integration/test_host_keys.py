"""Host keys are announced before use, and stock clients learn them automatically."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.test_key_rotation import lets_in, reading, reloaded
from tests.integration.test_workers import content, workers
from tests.support.gateway import TIMEOUT, Gateway, fill, free_port, wait_for
from tests.support.keys import make_key, public_line

pytestmark = pytest.mark.integration


def learn(gateway: Gateway, known_hosts: Path) -> set[str]:
    """The keys that a stock client knows after connecting with `UpdateHostKeys yes`."""
    options = gateway.ssh_options(
        UserKnownHostsFile=str(known_hosts), UpdateHostKeys="yes", HashKnownHosts="no"
    )
    # The client verifies the keys after login, and waits for the proof before it exits.
    client = subprocess.Popen(
        ["ssh", *options, "-p", str(gateway.port), "gvpocr@127.0.0.1", "-N"],
        stdin=subprocess.DEVNULL,
    )
    before = known(known_hosts)
    try:
        wait_for(lambda: known(known_hosts) != before, "known_hosts to change")
        return known(known_hosts)
    finally:
        client.terminate()
        client.wait(TIMEOUT)


def known(known_hosts: Path) -> set[str]:
    return {line.split()[2] for line in known_hosts.read_text().splitlines()}


def key_of(path: Path) -> str:
    return public_line(path).split()[1]


def remember(gateway: Gateway, known_hosts: Path) -> None:
    known_hosts.write_text(gateway.known_hosts.read_text())


@pytest.mark.parametrize("suffix", ["ssh_host_ed25519_key.next", "ssh_host_rsa_key"])
def test_a_stock_client_learns_the_next_host_key(
    gateway: Gateway, tmp_path: Path, suffix: str
) -> None:
    current = gateway.folder / "keys/ssh_host_ed25519_key"
    known_hosts = tmp_path / "known"
    remember(gateway, known_hosts)
    assert known(known_hosts) == {key_of(current)}
    kind = "rsa" if "rsa" in suffix else "ed25519"
    following = make_key(gateway.folder / "keys" / suffix, kind)
    reloaded(gateway, changed="credentials")
    assert learn(gateway, known_hosts) == {key_of(current), key_of(following)}


def test_a_host_key_is_rotated_under_a_reading_mount(gateway: Gateway, tmp_path: Path) -> None:
    fill(gateway.folder / "shared/models", {"0.bin": content(0)})
    before = workers(gateway)
    known_hosts = tmp_path / "known"
    remember(gateway, known_hosts)
    old = key_of(gateway.folder / "keys/ssh_host_ed25519_key")

    def pinned() -> bool:
        return lets_in(gateway, gateway.key, UserKnownHostsFile=str(known_hosts))

    with reading(gateway, tmp_path / "mnt") as reader:
        assert gateway.run("keys", "rotate-host", "prepare").returncode == 0
        new = key_of(gateway.folder / "keys/ssh_host_ed25519_key.next")
        reloaded(gateway, 1)
        assert learn(gateway, known_hosts) == {old, new}
        assert gateway.run("keys", "rotate-host", "promote").returncode == 0
        reloaded(gateway, 2)
        assert key_of(gateway.folder / "keys/ssh_host_ed25519_key") == new
        # Clients with the new key connect; clients with only the old one refuse it.
        only = tmp_path / "only"
        only.write_text(f"[127.0.0.1]:{gateway.port} ssh-ed25519 {new}\n")
        assert lets_in(gateway, gateway.key, UserKnownHostsFile=str(only))
        only.write_text(f"[127.0.0.1]:{gateway.port} ssh-ed25519 {old}\n")
        assert not lets_in(gateway, gateway.key, UserKnownHostsFile=str(only))
        assert pinned()
        assert known(known_hosts) == {old, new}  # the old one is still announced
        assert gateway.run("keys", "rotate-host", "finish").returncode == 0
        reloaded(gateway, 3)
        assert learn(gateway, known_hosts) == {new}
        assert pinned()
        reader.read_more()
        assert (reader.errors, reader.wrong) == ([], 0)
    assert workers(gateway) == before


def test_a_next_host_key_of_another_type_is_rejected(
    make_gateway: Callable[..., Gateway],
) -> None:
    gateway = make_gateway().start()
    make_key(gateway.folder / "keys/ssh_host_ed25519_key.next", "rsa")
    refused = gateway.wait_event("configuration_refused")
    assert "is of type" in refused["mistakes"]
    assert lets_in(gateway, gateway.key)


@pytest.mark.parametrize("kind", ["rsa", "ecdsa"])
def test_the_health_check_accepts_host_keys_added_at_runtime(
    make_gateway: Callable[..., Gateway], kind: str
) -> None:
    gateway = make_gateway(
        SFTP_GATEWAY_PORT=str(free_port()), SFTP_GATEWAY_NIST_CURVES="true"
    ).start()
    make_key(gateway.folder / f"keys/ssh_host_{kind}_key", kind)
    reloaded(gateway, changed="credentials")
    for command in ("healthcheck", "doctor"):
        checked = gateway.run(command)
        assert (checked.returncode, checked.stderr.count("error:")) == (0, 0), checked.stderr


def test_the_health_check_passes_at_every_step_of_a_rotation(
    make_gateway: Callable[..., Gateway],
) -> None:
    gateway = make_gateway(SFTP_GATEWAY_PORT=str(free_port())).start()
    for number, step in enumerate(("prepare", "promote", "finish"), start=1):
        assert gateway.run("keys", "rotate-host", step).returncode == 0
        assert gateway.run("healthcheck").returncode == 0  # also before it is taken
        reloaded(gateway, number)
        assert gateway.run("healthcheck").returncode == 0
