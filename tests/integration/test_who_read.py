"""Workers that share a user are distinguished in the log, by `logs` and on the status page."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from tests.support.gateway import Gateway, fill, wait_for
from tests.support.keys import certify, make_key, public_line

pytestmark = pytest.mark.integration

#: A hostile comment: bidirectional controls, and longer than the limit.
HOSTILE = 'x\u202e,"key_label":"worker7"' + "y" * 200


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("keys")
    names = ("worker7", "worker8", "batch-1", "authority", "hostile", "wrong")
    made = {name: make_key(folder / name, "ed25519") for name in names}
    certify(made["authority"], made["batch-1"])
    return made


@pytest.fixture(scope="module")
def fingerprints(keys: dict[str, Path]) -> dict[str, str]:
    def of(path: Path) -> str:
        printed = subprocess.run(
            ["ssh-keygen", "-l", "-f", f"{path}.pub"], capture_output=True, text=True
        )
        return printed.stdout.split()[1]

    return {name: of(path) for name, path in keys.items()}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, keys: dict[str, Path]) -> Iterator[Gateway]:
    gateway = Gateway(tmp_path_factory.mktemp("gateway"))
    fill(gateway.folder / "shared/models", {"Weights.bin": os.urandom(200_000)})
    hostile = " ".join(public_line(keys["hostile"]).split()[:2])
    gateway.authorize(
        "gvpocr",
        public_line(keys["worker7"]),
        public_line(keys["worker8"]),
        f"cert-authority {public_line(keys['authority'])}",
        f"{hostile} {HOSTILE}",
    )
    assert gateway.run("init").returncode == 0
    try:
        yield gateway.start()
    finally:
        gateway.close()


def get(gateway: Gateway, key: Path, **options: str) -> None:
    read = gateway.sftp(
        "get models/Weights.bin /dev/null", options=gateway.ssh_options(key=key, **options)
    )
    assert read.returncode == 0, read.stderr


def logs(gateway: Gateway, *arguments: str) -> list[dict[str, Any]]:
    found = gateway.run("logs", "--json", *arguments)
    assert found.returncode == 0, found.stderr
    return [json.loads(line) for line in found.stdout.splitlines()]


def test_reads_are_attributed_to_each_workers_key(
    gateway: Gateway, keys: dict[str, Path], fingerprints: dict[str, str], tmp_path: Path
) -> None:
    with (
        gateway.mounted(tmp_path / "7", key=keys["worker7"]) as seven,
        gateway.mounted(tmp_path / "8", key=keys["worker8"]) as eight,
    ):
        for _ in range(2):
            (seven / "models/Weights.bin").read_bytes()
        (eight / "models/Weights.bin").read_bytes()

        def shown() -> bool:
            page = gateway.http("/")[1].partition('id="sessions"')[2].partition("</section")[0]
            return "worker7 · 127.0.0.1" in page and "worker8 · 127.0.0.1" in page

        wait_for(shown, "both on the page")
    certificate = f"{keys['batch-1']}-cert.pub"
    get(gateway, keys["batch-1"], CertificateFile=certificate)
    for session in wait_for(
        lambda: len(ends := gateway.events("session_end")) == 3 and ends, "the sessions' ends"
    ):
        events = [each for each in gateway.events() if each.get("session") == session["session"]]
        labels = {(each["key"], each["key_label"]) for each in events if "user" in each}
        assert labels == {(session["key"], session["key_label"])}
    sums = {each["key_label"]: each for each in logs(gateway, "--by", "key")}
    for name in ("worker7", "worker8"):
        assert sums[name]["key"] == fingerprints[name]
    assert sums["batch-1"]["key"] == fingerprints["authority"]
    assert sums["worker7"]["files"] == sums["worker8"]["files"] == 1
    for key in ("worker8", fingerprints["worker8"], fingerprints["worker8"][:15]):
        found = logs(gateway, "--key", key, "--path", "weights.BIN")
        assert {each["key_label"] for each in found} == {"worker8"}
        assert {each["event"] for each in found} == {"file_closed"}


def test_a_key_comment_is_bounded_and_not_shared(
    gateway: Gateway, keys: dict[str, Path], fingerprints: dict[str, str]
) -> None:
    get(gateway, keys["hostile"])
    event = gateway.wait_event("file_closed", key=fingerprints["hostile"])
    assert event["key_label"] == HOSTILE[:64]
    found = logs(gateway, "--key", "worker7")
    assert fingerprints["hostile"] not in {each["key"] for each in found}
    assert [each["key"] for each in logs(gateway, "--key", HOSTILE[:64])] != []
    shown = gateway.run("logs").stdout
    assert "\u202e" not in shown
    assert "x\\u202e" in shown
    assert "\u202e" not in gateway.run("keys", "list").stdout


def test_the_key_of_a_refused_login_is_shown(
    gateway: Gateway, keys: dict[str, Path], fingerprints: dict[str, str]
) -> None:
    refused = gateway.ssh("true", options=gateway.ssh_options(key=keys["wrong"]))
    assert "Permission denied" in refused.stderr
    gateway.wait_event("login_refused", key=fingerprints["wrong"])

    def shown() -> str:
        return gateway.run("logs", "--event", "login_refused").stdout

    wait_for(lambda: fingerprints["wrong"] in shown(), "the line")
    assert "(key_not_authorized)" in shown()
    assert fingerprints["wrong"] in gateway.http("/")[1]
    # A refused key of the user is labelled too.
    unsigned = gateway.ssh("true", user="nobody", options=gateway.ssh_options(key=keys["worker7"]))
    assert unsigned.returncode == 255
    event = gateway.wait_event("login_refused", key=fingerprints["worker7"])
    assert "key_label" not in event  # it is not in the file of the user that was tried


def test_a_denied_request_is_exported_with_result_and_target(
    gateway: Gateway, keys: dict[str, Path]
) -> None:
    options = gateway.ssh_options(key=keys["worker7"])
    gateway.sftp("-rename models/Weights.bin models/other.bin", options=options)

    def denied() -> list[dict[str, str]]:
        sheet = gateway.run("logs", "--csv", "--event", "denied", "--since", "1h").stdout
        return list(csv.DictReader(io.StringIO(sheet)))

    row = wait_for(denied, "the line")[0]
    assert (row["result"], row["reason"], row["key_label"]) == ("denied", "read_only", "worker7")
    assert row["target"] == "/home/gvpocr/models/other.bin"


def test_a_file_read_out_of_order_counts_as_complete(
    make_gateway: Callable[..., Gateway], tmp_path: Path
) -> None:
    gateway = make_gateway().start()
    block, count = 1 << 15, 1200  # more of them than pieces are remembered
    content = os.urandom(block * count)
    fill(gateway.folder / "shared/models", {"big": content})
    with gateway.mounted(tmp_path / "mount", "/home/gvpocr", "direct_io") as mount:
        file = os.open(mount / "models/big", os.O_RDONLY)
        parts: dict[int, bytes] = {}

        def read(blocks: Iterator[int]) -> None:
            for each in blocks:
                parts[each] = os.pread(file, block, each * block)

        threads = [Thread(target=read, args=(iter(each),)) for each in (
            range(count // 2), reversed(range(count // 2, count))
        )]  # fmt: skip
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        os.close(file)
    assert b"".join(parts[each] for each in range(count)) == content
    closed = gateway.wait_event("file_closed", path="/home/gvpocr/models/big")
    assert (closed["whole"], closed["bytes"]) == (True, len(content))


def test_files_open_in_a_killed_worker_are_reported(
    make_gateway: Callable[..., Gateway], tmp_path: Path
) -> None:
    gateway = make_gateway(SFTP_GATEWAY_WORKERS="1").start()
    fill(gateway.folder / "shared/models", {"big": os.urandom(1 << 20)})
    with gateway.mounted(tmp_path / "mount") as mount:
        file = os.open(mount / "models/big", os.O_RDONLY)
        assert os.read(file, 1)
        opened = gateway.wait_event("file_opened")
        connection = gateway.wait_event("connection", session=opened["session"])
        assert connection["pid"] == gateway.events("worker_started")[0]["pid"]
        os.kill(connection["pid"], signal.SIGKILL)
        gateway.wait_event("worker_exited", pid=connection["pid"], connections=1)
        with contextlib.suppress(OSError):  # the mount is gone
            os.close(file)
    assert not gateway.events("file_closed", session=opened["session"])
    shown_logs = gateway.run("logs", "access.log", "--path", "BIG")
    assert shown_logs.stderr == (
        "files that were open when their worker process was killed (worker_exited): 1; "
        "how much of them was read is unknown\n"
    )
    wait_for(lambda: "SIGKILL, broken connections: 1" in gateway.http("/")[1], "the page")
