"""Each client is offered the best it supports; a failed negotiation names a remedy."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from asyncssh.packet import Boolean, NameList, UInt32

from sftp_gateway.server.ssh import algorithms
from sftp_gateway.server.ssh.negotiation import (
    KexInit,
    Mismatch,
    Offer,
    Offers,
    mismatch,
    read_kexinit,
)

GCM = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com")
CTR = ("aes256-ctr", "aes192-ctr", "aes128-ctr")
CHACHA = "chacha20-poly1305@openssh.com"
ETM = ("hmac-sha2-256-etm@openssh.com", "hmac-sha2-512-etm@openssh.com")
PLAIN = ("hmac-sha2-256", "hmac-sha2-512")
HOST_KEYS = ("ssh-ed25519",)
PARAMIKO = b"SSH-2.0-paramiko_2.12.0"
OPENSSH = b"SSH-2.0-OpenSSH_10.0"


def client(
    ciphers: Sequence[str] = GCM,
    macs: Sequence[str] = ETM,
    *,
    key_exchanges: Sequence[str] = algorithms.KEY_EXCHANGES,
    host_keys: Sequence[str] = HOST_KEYS,
) -> KexInit:
    return KexInit(key_exchanges, host_keys, (ciphers, ciphers), (macs, macs))


@pytest.mark.parametrize(
    ("ciphers", "macs", "offer"),
    [
        ((CHACHA, *CTR, *GCM), ETM, Offer(GCM, ETM)),
        ((*CTR, "aes256-gcm@openssh.com"), PLAIN, Offer(GCM, ETM)),
        (CTR, (*PLAIN, *ETM), Offer(GCM + CTR, ETM)),
        (("aes128-ctr", "aes128-cbc"), PLAIN, Offer(GCM + CTR, ETM + PLAIN)),
        (("aes128-cbc",), ("hmac-sha1",), Offer(GCM + CTR, ETM + PLAIN)),
    ],
)
def test_a_client_is_offered_the_best_it_supports(
    ciphers: Sequence[str], macs: Sequence[str], offer: Offer
) -> None:
    offers = Offers("fast", has_aes=True)
    assert offers.depends_on_kexinit(PARAMIKO)
    assert offers.to(client(ciphers, macs)) == offer


def test_a_better_cipher_in_one_direction_only_is_not_enough() -> None:
    offer = Offers("fast", has_aes=True).to(KexInit((), (), (GCM, CTR), (ETM, ETM)))
    assert offer == Offer(GCM + CTR, ETM)


def test_a_client_that_waits_is_offered_everything() -> None:
    assert Offers("fast", has_aes=True).to(None) == Offer(GCM + CTR, ETM + PLAIN)


def test_openssh_is_offered_the_preferred_at_once() -> None:
    offers = Offers("fast", has_aes=True)
    assert not offers.depends_on_kexinit(OPENSSH)
    assert offers.preferred == Offer(GCM, ETM)


@pytest.mark.parametrize("choice", ["compatible", GCM, ("aes256-ctr",)])
def test_every_other_choice_is_offered_to_all(choice: str | tuple[str, ...]) -> None:
    offers = Offers(choice, has_aes=True)
    for version in (OPENSSH, PARAMIKO):
        assert not offers.depends_on_kexinit(version)
    assert offers.to(client(CTR, PLAIN)) == offers.to(None) == offers.preferred


UPDATE, COMPATIBLE = "update the client", 'ciphers = "compatible"'


@pytest.mark.parametrize(
    ("choice", "kexinit", "expected"),
    [
        ("fast", client(("aes128-cbc", "3des-cbc")),
         Mismatch("cipher", "aes128-cbc,3des-cbc", UPDATE)),
        ("fast", client((CHACHA,)), Mismatch("cipher", CHACHA, COMPATIBLE)),
        (GCM, client(CTR), Mismatch("cipher", ",".join(CTR), COMPATIBLE)),
        ("fast", client(CTR, ("hmac-sha1",)), Mismatch("mac", "hmac-sha1", UPDATE)),
        (CTR, client(CTR, PLAIN), Mismatch("mac", ",".join(PLAIN), COMPATIBLE)),
        ("fast", client(key_exchanges=("diffie-hellman-group14-sha256",)),
         Mismatch("key_exchange", "diffie-hellman-group14-sha256", UPDATE)),
        ("fast", client(host_keys=("rsa-sha2-256", "ssh-rsa")),
         Mismatch("host_key", "rsa-sha2-256,ssh-rsa",
                  "an RSA host key: keys/ssh_host_rsa_key")),
        ("fast", client(host_keys=("ecdsa-sha2-nistp256",)),
         Mismatch("host_key", "ecdsa-sha2-nistp256",
                  "an ECDSA host key: keys/ssh_host_ecdsa_key and nist_curves = true")),
        ("fast", client(host_keys=("ssh-rsa",)), Mismatch("host_key", "ssh-rsa", UPDATE)),
        ("fast", client(), None),
        ("fast", client(CTR, PLAIN), None),
        ("fast", client(GCM, ("hmac-sha1",)), None),
        (GCM + CTR, client((*CTR, *GCM), PLAIN), Mismatch("mac", ",".join(PLAIN), COMPATIBLE)),
    ],
)  # fmt: skip
def test_a_mismatch_names_a_remedy(
    choice: str | tuple[str, ...], kexinit: KexInit, expected: Mismatch | None
) -> None:
    offer = Offers(choice, has_aes=True).to(kexinit)
    assert mismatch(kexinit, HOST_KEYS, offer.ciphers, offer.macs) == expected


def message(*lists: Sequence[str]) -> bytes:
    names = [NameList([name.encode() for name in each]) for each in lists]
    return b"\x14" + bytes(16) + b"".join(names) + Boolean(False) + UInt32(0)


def test_a_kexinit_is_parsed() -> None:
    kex, keys = ("curve25519-sha256", "ext-info-c"), ("ssh-ed25519", "rsa-sha2-512")
    payload = message(kex, keys, GCM, CTR, ETM, PLAIN, ["none"], ["none"], [], [])
    assert read_kexinit(payload) == KexInit(kex, keys, (GCM, CTR), (ETM, PLAIN))


@pytest.mark.parametrize("length", [0, 1, 16, 17, 20, 40, 90])
def test_a_truncated_kexinit_is_an_error(length: int) -> None:
    payload = message(["curve25519-sha256"], ["ssh-ed25519"], GCM, GCM, ETM, ETM)
    with pytest.raises(ValueError, match=r"Incomplete|Invalid"):
        read_kexinit(payload[:length])
