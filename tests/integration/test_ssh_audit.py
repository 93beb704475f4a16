"""ssh-audit finds nothing in the offered algorithms but explained exceptions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sftp_gateway.server.ssh.algorithms import ciphers, processor_has_aes
from tests.support.auditor import EXPLAINED, MODES, complaints, make_rsa_host_key, report
from tests.support.gateway import REPOSITORY, Gateway, running
from tests.support.keys import make_key, public_line

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module", params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


@pytest.fixture(scope="module")
def audited(mode: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("audited")
    make_rsa_host_key(folder)
    with running(folder, SFTP_GATEWAY_CIPHERS=mode) as gateway:
        yield gateway


def test_complaints_and_explanations_match(audited: Gateway, mode: str) -> None:
    found = report(audited)
    assert found["cves"] == []
    expected = {about for about, (modes, _) in EXPLAINED.items() if mode in modes}
    assert complaints(found) == expected


def test_only_the_chosen_algorithms_are_offered(audited: Gateway, mode: str) -> None:
    found = report(audited)
    offered = {
        kind: [each["algorithm"] for each in found[kind]] for kind in ("kex", "key", "enc", "mac")
    }
    etm = ["hmac-sha2-256-etm@openssh.com", "hmac-sha2-512-etm@openssh.com"]
    assert offered == {
        "kex": [
            "mlkem768x25519-sha256",
            "curve25519-sha256",
            "curve25519-sha256@libssh.org",
            "ext-info-s",
            "kex-strict-s-v00@openssh.com",
        ],
        "key": ["ssh-ed25519", "rsa-sha2-512", "rsa-sha2-256"],
        "enc": list(ciphers(mode, has_aes=processor_has_aes())),
        "mac": etm if mode == "fast" else [*etm, "hmac-sha2-256", "hmac-sha2-512"],
    }


def test_the_documented_audit_is_current(audited: Gateway, mode: str) -> None:
    page = (REPOSITORY / "docs/ssh-audit.txt").read_text()
    section = page.partition(f"======== ciphers = {mode} ========")[2].partition("========")[0]
    for kind, offered in report(audited).items():
        if kind in ("kex", "key", "mac"):
            for each in offered:
                assert f"({kind}) {each['algorithm']} " in section
    for _, name, text in {about for about, (modes, _) in EXPLAINED.items() if mode in modes}:
        assert name in section
        assert text in section


def test_a_nist_curve_key_is_refused_and_reported_at_start(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path)
    key = make_key(tmp_path / "ecdsa", "ecdsa", 256)
    good = make_key(tmp_path / "ed25519", "ed25519", None)
    gateway.authorize("gvpocr", public_line(key), public_line(good))
    try:
        gateway.start()
        assert "is on a NIST curve and not accepted" in gateway.stderr
        refused = gateway.ssh("echo in", options=gateway.ssh_options(key=key))
        assert (refused.returncode, refused.stdout) == (255, "")
        assert gateway.ssh("echo in", options=gateway.ssh_options(key=good)).stdout == "in\n"
    finally:
        gateway.close()
