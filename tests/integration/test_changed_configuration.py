"""Reloads remove exactly what they report, and rejected configurations are visible."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.test_key_rotation import lets_in, reloaded
from tests.support.gateway import Gateway, free_port, wait_for
from tests.support.keys import make_key, public_line

pytestmark = pytest.mark.integration

Make = Callable[..., Gateway]


@pytest.fixture
def started(make_gateway: Make) -> Gateway:
    return make_gateway("workers = 1\n", SFTP_GATEWAY_PORT=str(free_port())).start()


def config_of(gateway: Gateway) -> Path:
    return gateway.folder / "config/sftp-gateway.toml"


def replace(gateway: Gateway, text: str) -> None:
    """Replace the configuration by rename(2), as editors do."""
    new = gateway.folder / "new.toml"
    new.write_text(text)
    new.rename(config_of(gateway))


def test_a_second_user_and_share_keep_the_default_ones_and_their_mounts(
    started: Gateway, tmp_path: Path
) -> None:
    ana = make_key(tmp_path / "ana", "ed25519")
    started.authorize("ana", public_line(ana))
    (tmp_path / "letters").mkdir()
    config = f'workers = 1\n[users.ana]\n[shares.letters]\npath = "{tmp_path}/letters"\n'
    with started.mounted(tmp_path / "mnt", "/home/gvpocr", "reconnect") as mount:
        replace(started, config)
        event = reloaded(started)
        assert not [name for name in event if name.startswith("removed_")]
        assert lets_in(started, ana, "ana")

        def seen() -> set[str]:
            try:
                return set(os.listdir(mount))
            except OSError:  # sshfs reconnects: the workers were replaced
                return set()

        names = {".cache", "Bhushanji", "newsletters", "models", "letters"}
        wait_for(lambda: seen() == names, "the mount to show all shares")
    listed = started.run("keys", "list").stdout
    assert "gvpocr  " in listed
    assert "ana  " in listed
    assert "switched off" not in listed


def test_removals_are_reported_before_and_after_the_reload(
    started: Gateway, tmp_path: Path
) -> None:
    ana = make_key(tmp_path / "ana", "ed25519")
    started.authorize("ana", public_line(ana))
    (started.folder / "new.toml").write_text(
        "workers = 1\nusers.gvpocr = false\n[users.ana]\n[shares]\nmodels = false\n"
    )
    says = [
        "users no longer served: gvpocr (1 key, 1 session)",
        "live sessions that lose their login: 1",
    ]
    with started.mounted(tmp_path / "mnt") as mount:
        assert os.listdir(mount / "models")

        def checked() -> list[str]:
            lines = started.run("check", "--config", "new.toml").stderr.splitlines()
            return [line.removeprefix("Compared with the running gateway, ") for line in lines]

        wait_for(lambda: set(says) <= set(checked()), "the removals to be listed")
        (started.folder / "new.toml").rename(config_of(started))
        event = reloaded(started)
        assert event["removed_users"] == "gvpocr (1 key, 1 session)"
        assert event["removed_sessions"] == 1
        for sentence in says:
            assert f"configuration: {sentence}\n" in started.stderr
        wait_for(lambda: started.events("session_end", user="gvpocr"), "the session to end")
    assert lets_in(started, ana, "ana")
    assert not lets_in(started, started.key)
    off = [line for line in started.run("keys", "list").stdout.splitlines() if "gvpocr" in line]
    assert off[0].startswith("gvpocr (switched off)  SHA256:")
    # Nothing else differs.
    assert "nothing would be taken away." in started.run("doctor").stderr


def test_a_removed_share_is_reported_by_name(started: Gateway) -> None:
    replace(started, "workers = 1\n[shares]\nmodels = false\n")
    assert reloaded(started)["removed_shares"] == "models"


def test_a_removed_key_is_reported_with_its_sessions(started: Gateway, tmp_path: Path) -> None:
    with started.mounted(tmp_path / "mnt"):
        (started.folder / "keys/authorized_keys/gvpocr").write_text("")
        event = reloaded(started)
        assert event["removed_keys"].endswith(" sftp-gateway worker gvpocr (1 session)")
        assert event["removed_keys"].startswith("gvpocr SHA256:")


def _truncate(path: Path) -> None:
    path.write_text("")


@pytest.mark.parametrize(
    ("lose", "why"),
    [(Path.unlink, "is gone"), (_truncate, "is empty")],
    ids=["deleted", "emptied"],
)
def test_a_missing_configuration_is_reported_until_it_is_restored(
    make_gateway: Make, tmp_path: Path, lose: Callable[[Path], None], why: str
) -> None:
    config = 'workers = 1\n[users.gvpocr]\nshares = ["newsletters"]\n'
    gateway = make_gateway(config, SFTP_GATEWAY_PORT=str(free_port())).start()
    began = gateway.metric("sftp_gateway_config_last_reload_success_timestamp_seconds")
    assert began > 0
    lose(config_of(gateway))
    refused = gateway.wait_event("configuration_refused")
    assert why in refused["mistakes"]
    assert gateway.sftp("ls models").returncode != 0
    assert gateway.sftp("ls newsletters").returncode == 0

    name = "sftp_gateway_config_last_reload_successful"
    wait_for(lambda: gateway.metric(name) == 0, "the metric to fall")
    assert gateway.http("/healthz") == (200, "ok\n")
    status, body = gateway.http("/readyz")
    assert (status, json.loads(body)["ready"]) == (200, True)
    assert json.loads(body)["configuration"].startswith("refused since 2")
    assert why in json.loads(body)["configuration"]
    page = gateway.http("/")[1]
    assert "Serving with the previous configuration" in page
    assert f"config/sftp-gateway.toml {why}" in page
    ran = gateway.run("doctor")
    assert ran.returncode == 1
    assert 'error: /readyz: 200: {"ready": true, ' in ran.stderr
    assert "newest configuration: refused since" in gateway.run("check").stderr

    config_of(gateway).write_text(config)
    assert reloaded(gateway)["changed"] == "nothing"
    wait_for(lambda: gateway.metric(name) == 1, "the metric to rise")
    assert gateway.metric("sftp_gateway_config_last_reload_success_timestamp_seconds") > began
    assert json.loads(gateway.http("/readyz")[1])["configuration"] == "ok"
    assert "previous configuration" not in gateway.http("/")[1]
    assert gateway.run("doctor").returncode == 0


def test_a_configuration_error_keeps_its_time_until_it_is_fixed(started: Gateway) -> None:
    def state() -> str:
        found: str = json.loads(started.http("/readyz")[1])["configuration"]
        return found

    config_of(started).write_text("max_handles = 1\n")
    wait_for(lambda: "max_handles" in state(), "the error to be reported")
    first = state()
    config_of(started).write_text("max_startups_per_source = 0\n")
    wait_for(lambda: "max_startups_per_source" in state(), "the other error to be reported")
    assert state()[:34] == first[:34]
    config_of(started).write_text("workers = 1\n")
    assert started.process is not None
    started.process.send_signal(signal.SIGHUP)
    wait_for(lambda: state() == "ok", "the configuration to be accepted")


def test_a_missing_status_token_does_not_open_the_page(make_gateway: Make) -> None:
    gateway = make_gateway()
    token = gateway.folder / "keys/status_token"
    token.parent.mkdir()
    token.write_text("a-token-that-is-long-enough\n")
    gateway.start()
    assert gateway.http("/")[0] == 401
    token.unlink()
    assert "status_token is gone" in gateway.wait_event("configuration_refused")["mistakes"]
    assert gateway.http("/")[0] == 401
