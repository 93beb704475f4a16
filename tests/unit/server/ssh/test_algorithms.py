"""Offered algorithms are fast if possible, never weak, and supported by asyncssh."""

from __future__ import annotations

from pathlib import Path

import asyncssh
import pytest
from asyncssh.encryption import get_encryption_algs
from asyncssh.kex import get_kex_algs
from asyncssh.mac import get_mac_algs

from sftp_gateway.server.ssh import algorithms
from sftp_gateway.server.ssh.algorithms import ciphers, processor_has_aes

GCM = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com")
CHACHA = "chacha20-poly1305@openssh.com"


def test_fast_offers_only_gcm_with_aes_instructions() -> None:
    assert ciphers("fast", has_aes=True) == GCM


def test_fast_prefers_chacha_without_aes_instructions() -> None:
    assert ciphers("fast", has_aes=False) == (CHACHA, *GCM)


@pytest.mark.parametrize("has_aes", [True, False])
def test_compatible_adds_ciphers_of_old_clients(has_aes: bool) -> None:
    offered = ciphers("compatible", has_aes=has_aes)
    assert offered[:2] == GCM
    assert {CHACHA, "aes128-ctr", "aes256-ctr"} < set(offered)


@pytest.mark.parametrize("has_aes", [True, False])
def test_a_list_is_offered_as_given(has_aes: bool) -> None:
    assert ciphers(("aes256-ctr", CHACHA), has_aes=has_aes) == ("aes256-ctr", CHACHA)


def test_asyncssh_supports_every_offered_algorithm() -> None:
    offered = {*ciphers("compatible", has_aes=True), *ciphers("fast", has_aes=False)}
    assert offered <= {name.decode() for name in get_encryption_algs()}
    assert set(algorithms.KEY_EXCHANGES) <= {name.decode() for name in get_kex_algs()}
    assert set(algorithms.macs("compatible")) <= {name.decode() for name in get_mac_algs()}
    asyncssh.SSHServerConnectionOptions(
        config=None, signature_algs=algorithms.signatures(nist_curves=True)
    )


def test_no_weak_algorithm_is_offered() -> None:
    offered = [
        *ciphers("compatible", has_aes=True),
        *algorithms.KEY_EXCHANGES,
        *algorithms.macs("compatible"),
        *algorithms.signatures(nist_curves=True),
    ]
    for weak in ("cbc", "md5", "sha1", "3des", "arcfour", "-96", "umac-64", "ssh-rsa", "ssh-dss"):
        assert not [name for name in offered if weak in name]


def test_nist_curves_need_the_setting() -> None:
    assert not [n for n in algorithms.KEY_EXCHANGES if "nist" in n or "ecdh" in n]
    assert not [n for n in algorithms.signatures(nist_curves=False) if "nist" in n]
    assert {"ecdsa-sha2-nistp256", "ssh-ed25519"} < set(algorithms.signatures(nist_curves=True))
    for name in algorithms.signatures(nist_curves=True):
        assert algorithms.on_nist_curve(name) == ("nist" in name)


@pytest.mark.parametrize("choice", ["fast", ("aes256-ctr",)])
def test_only_compatible_offers_mac_then_encrypt(
    choice: str | tuple[str, ...],
) -> None:
    assert all("-etm@" in name for name in algorithms.macs(choice))
    assert "hmac-sha2-256" in algorithms.macs("compatible")


@pytest.mark.parametrize(
    ("algorithm", "offered"),
    [
        (b"ssh-ed25519", True),
        (b"rsa-sha2-512", True),
        (b"ssh-rsa", False),
        (b"ssh-rsa-sha224@ssh.com", False),
        (b"ecdsa-sha2-nistp256", False),
        (b"ssh-ed25519-cert-v01@openssh.com", True),
        (b"ssh-rsa-cert-v01@openssh.com", False),
    ],
)
def test_host_keys_sign_with_accepted_algorithms_only(algorithm: bytes, offered: bool) -> None:
    allowed = algorithms.signatures(nist_curves=False)
    assert algorithms.may_sign(algorithm, allowed) is offered


@pytest.mark.parametrize(
    ("cpuinfo", "has_aes"),
    [
        ("processor\t: 0\nflags\t\t: fpu vme aes avx\n", True),
        ("processor\t: 0\nFeatures\t: fp asimd aes pmull sha1\n", True),
        ("processor\t: 0\nflags\t\t: fpu vme vaes avx\n", False),
        ("processor\t: 0\nFeatures\t: fp asimd\n", False),
        ("model name\t: an aes machine\nflags\t\t: fpu\n", False),
        ("flags\t\t: fpu\nflags\t\t: fpu aes\n", True),
        ("", False),
        ("flags\t\t: \u00e9 aes\n", True),
    ],
)
def test_aes_instructions_are_found_by_their_flag(
    tmp_path: Path, cpuinfo: str, has_aes: bool
) -> None:
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    assert processor_has_aes(tmp_path / "cpuinfo") is has_aes


def test_an_unreadable_cpuinfo_means_no_aes_instructions(tmp_path: Path) -> None:
    assert processor_has_aes(tmp_path / "missing") is False
    assert processor_has_aes(tmp_path) is False
