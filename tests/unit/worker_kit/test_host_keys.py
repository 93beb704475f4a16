"""The host keys that workers pin and the health check accepts."""

from __future__ import annotations

from pathlib import Path

import pytest

from sftp_gateway.auth import generate_ed25519
from sftp_gateway.errors import ConfigurationError
from sftp_gateway.settings import Settings
from sftp_gateway.worker_kit.host_keys import find_host_keys, require_host_keys
from tests.support.keys import make_key, public_line


@pytest.fixture
def keys(unconfigured: Path) -> Path:
    """The keys folder."""
    (unconfigured / "keys").mkdir()
    return unconfigured / "keys"


def known(private: Path) -> str:
    return " ".join(public_line(private).split()[:2])


def test_used_and_announced_host_keys_are_found(keys: Path) -> None:
    made = [
        make_key(keys / f"ssh_host_{name}", name.partition("_")[0])
        for name in ("ed25519_key", "rsa_key", "ed25519_key.next", "ed25519_key.previous")
    ]
    make_key(keys / "ssh_host_ecdsa_key", "ecdsa")
    assert find_host_keys(Settings()) == [known(path) for path in made]
    assert len(find_host_keys(Settings(nist_curves=True))) == 5


def test_the_private_key_overrides_a_differing_public_file(keys: Path) -> None:
    private = make_key(keys / "ssh_host_rsa_key", "rsa")
    real = known(private)
    Path(f"{private}.pub").write_text(generate_ed25519("another").public_line)
    assert find_host_keys(Settings()) == [real]


def test_an_unreadable_private_key_is_known_by_its_public_file(
    keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    private = make_key(keys / "ssh_host_ed25519_key", "ed25519")

    def refused(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refused)
    assert find_host_keys(Settings()) == [known(private)]


@pytest.mark.usefixtures("keys")
def test_a_kit_requires_a_host_key() -> None:
    assert find_host_keys(Settings()) == []
    with pytest.raises(ConfigurationError, match="no host key keys/ssh_host_ed25519_key"):
        require_host_keys(Settings())
