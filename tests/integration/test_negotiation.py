"""Algorithms offered over a real connection, and log lines of failed negotiations."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator, Sequence

import pytest
from asyncssh.packet import Boolean, NameList, UInt32

from sftp_gateway.server.ssh.algorithms import KEY_EXCHANGES, ciphers, processor_has_aes
from sftp_gateway.server.ssh.negotiation import KexInit, read_kexinit
from tests.support.gateway import Gateway, running

pytestmark = pytest.mark.integration

FAST = ciphers("fast", has_aes=processor_has_aes())
CTR = ("aes256-ctr", "aes192-ctr", "aes128-ctr")
ETM = ("hmac-sha2-256-etm@openssh.com", "hmac-sha2-512-etm@openssh.com")
PLAIN = ("hmac-sha2-256", "hmac-sha2-512")


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with running(tmp_path_factory.mktemp("gateway")) as gateway:
        yield gateway


def offered(
    gateway: Gateway, version: str, *, ciphers: Sequence[str] = (), macs: Sequence[str] = ETM
) -> KexInit:
    """The server's KEXINIT for a client that sends its own, or none without `ciphers`."""
    with socket.create_connection(("127.0.0.1", gateway.port), 30) as connection:
        connection.sendall(f"{version}\r\n".encode())
        if ciphers:
            connection.sendall(kexinit(ciphers, macs))
        stream = connection.makefile("rb")
        assert stream.readline().startswith(b"SSH-2.0-")
        length = int.from_bytes(stream.read(4), "big")
        packet = stream.read(length)
    return read_kexinit(packet[1 : length - packet[0]])


def kexinit(ciphers: Sequence[str], macs: Sequence[str]) -> bytes:
    """An unencrypted packet."""
    lists = (KEY_EXCHANGES, ["ssh-ed25519"], ciphers, ciphers, macs, macs, ["none"], ["none"])
    names = b"".join(NameList([name.encode() for name in each]) for each in (*lists, (), ()))
    payload = b"\x14" + bytes(16) + names + Boolean(False) + UInt32(0)
    padding = 4 + -(5 + len(payload) + 4) % 8
    return UInt32(1 + len(payload) + padding) + bytes([padding]) + payload + bytes(padding)


def test_openssh_is_offered_only_fast_ciphers_before_its_kexinit(
    gateway: Gateway,
) -> None:
    found = offered(gateway, "SSH-2.0-OpenSSH_9.9")
    assert found.ciphers == (FAST, FAST)
    assert found.macs == (ETM, ETM)


def test_a_client_with_a_fast_cipher_is_offered_no_other(gateway: Gateway) -> None:
    found = offered(gateway, "SSH-2.0-other", ciphers=[*CTR, FAST[0]], macs=PLAIN)
    assert found.ciphers == (FAST, FAST)
    assert found.macs == (ETM, ETM)


@pytest.mark.parametrize(
    ("macs", "answer"), [([*PLAIN, *ETM], ETM), (PLAIN, ETM + PLAIN), (["hmac-sha1"], ETM + PLAIN)]
)
def test_a_client_without_a_fast_cipher_is_offered_aes_ctr_and_its_best_mac(
    gateway: Gateway, macs: Sequence[str], answer: Sequence[str]
) -> None:
    found = offered(gateway, "SSH-2.0-other", ciphers=["aes128-cbc", "aes128-ctr"], macs=macs)
    assert found.ciphers == (FAST + CTR, FAST + CTR)
    assert found.macs == (answer, answer)


def test_a_client_that_waits_for_the_server_is_offered_all_ciphers(gateway: Gateway) -> None:
    found = offered(gateway, "SSH-2.0-patient")
    assert found.ciphers == (FAST + CTR, FAST + CTR)
    assert found.macs == (ETM + PLAIN, ETM + PLAIN)


def test_a_configured_cipher_list_is_offered_to_every_client(
    make_gateway: Callable[..., Gateway],
) -> None:
    gateway = make_gateway('ciphers = ["aes256-gcm@openssh.com"]\n').start()
    only = ("aes256-gcm@openssh.com",)
    for version in ("SSH-2.0-OpenSSH_9.9", "SSH-2.0-other"):
        assert offered(gateway, version).ciphers == (only, only)


# Tampering


@contextlib.contextmanager
def tampering(gateway: Gateway) -> Iterator[int]:
    """The port of a relay that makes OpenSSH look like a client without AES-GCM."""

    def copy(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                data = data.replace(b"SSH-2.0-OpenSSH", b"SSH-2.0-Another")
                target.sendall(data.replace(b"-gcm@openssh.com", b"-xxx@openssh.com"))
            target.shutdown(socket.SHUT_WR)

    with socket.create_server(("127.0.0.1", 0)) as listener:

        def relay() -> None:
            client, _ = listener.accept()
            with client, socket.create_connection(("127.0.0.1", gateway.port)) as server:
                back = threading.Thread(target=copy, args=(server, client))
                back.start()
                copy(client, server)
                back.join()

        thread = threading.Thread(target=relay)
        thread.start()
        yield listener.getsockname()[1]
        thread.join()


def test_a_man_in_the_middle_downgrade_breaks_the_key_exchange(
    gateway: Gateway,
) -> None:
    logins = len(gateway.events("login_accepted"))
    with tampering(gateway) as port:
        options = gateway.ssh_options(HostKeyAlias=f"[127.0.0.1]:{gateway.port}", Port=str(port))
        result = gateway.ssh("echo in", options=options)
    assert "incorrect signature" in result.stderr
    assert gateway.events("login_accepted")[logins:] == []


# Log lines


@pytest.mark.parametrize(
    ("options", "algorithm", "offer", "remedy"),
    [
        (["-c", "aes128-cbc"], "cipher", "aes128-cbc", "update the client"),
        (["-c", "chacha20-poly1305@openssh.com"], "cipher", "chacha20-poly1305@openssh.com",
         'ciphers = "compatible"'),
        (["-oKexAlgorithms=diffie-hellman-group14-sha256"], "key_exchange",
         "diffie-hellman-group14-sha256,ext-info-c", "update the client"),
        (["-oHostKeyAlgorithms=rsa-sha2-512"], "host_key", "rsa-sha2-512",
         "an RSA host key: keys/ssh_host_rsa_key"),
    ],
)  # fmt: skip
def test_a_failed_negotiation_is_logged_with_a_remedy(
    gateway: Gateway, options: Sequence[str], algorithm: str, offer: str, remedy: str
) -> None:
    refused = gateway.ssh("echo in", options=[*gateway.ssh_options(), *options])
    assert "Unable to negotiate" in refused.stderr
    event = gateway.wait_event("negotiation_failed", algorithm=algorithm, remedy=remedy)
    assert event["their_offer"].startswith(offer)
    assert event["client_version"].startswith("SSH-2.0-OpenSSH_")
    end = gateway.wait_event("session_end", session=event["session"])
    assert end["reason"] == "no_common_algorithm"


def test_a_long_algorithm_list_is_truncated_in_the_log(gateway: Gateway) -> None:
    offered(gateway, "SSH-2.0-long", ciphers=["x" * 5000])
    event = gateway.wait_event("negotiation_failed", client_version="SSH-2.0-long")
    assert event["their_offer"] == "x" * 1000
