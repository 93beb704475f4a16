"""The output of a worker's setup, as parsed by `worker-kit --hosts`."""

from __future__ import annotations

from pathlib import Path

import pytest

from sftp_gateway.worker_kit.contents import Kit
from sftp_gateway.worker_kit.fleet import FleetInstaller
from sftp_gateway.worker_kit.hosts import Host, Outcome

KEY = f"ssh-ed25519 {'A' * 68}"


async def run_setup(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *output: str, refuses: Exception | None = None
) -> tuple[list[str], Outcome]:
    """The authorized keys and the outcome if ssh prints this and succeeds."""
    (folder / "ssh").write_text(f"#!/bin/sh\ncat >/dev/null\ncat {folder}/output\n")
    (folder / "ssh").chmod(0o755)
    (folder / "output").write_text("".join(f"{line}\n" for line in output))
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    kit = Kit(server="s", port=1, user="u", remote="/r", mount="/m/x", host_keys=[])
    keys: list[str] = []

    def authorize_key(line: str) -> None:
        keys.append(line)
        if refuses:
            raise refuses

    fleet = FleetInstaller(
        kit=kit, authorize_key=authorize_key, ssh_config=None, timeout=30, parallel=1
    )
    (outcome,) = await fleet.set_up([Host(name="w", address="w")], lambda host, step: None)
    return keys, outcome


async def test_only_one_plain_key_per_worker_is_authorized(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = "==> the key of this worker: "
    keys, outcome = await run_setup(
        tmp_path,
        monkeypatch,
        f"{step}cert-authority {KEY} w",
        f'{step}from="*" {KEY} w',
        f"{step}{KEY}",
        f"{step}{KEY} w\t{KEY} x",
        f"the key of this worker: {KEY} w",
        f"{step}{KEY} worker7",
        f"{step}{KEY} another",
    )
    assert keys == [f"{KEY} worker7"]
    assert outcome.ok


async def test_a_key_that_cannot_be_added_fails_its_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = f"==> the key of this worker: {KEY} worker7"
    refused = PermissionError(13, "Permission denied", "keys/authorized_keys")
    _, outcome = await run_setup(tmp_path, monkeypatch, output, refuses=refused)
    assert not outcome.ok
    assert outcome.message.startswith("its key cannot be authorized: [Errno 13] Permission denied")
