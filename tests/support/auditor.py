"""ssh-audit's report on a gateway, and explanations of its complaints.

    python -m tests.support.auditor > docs/ssh-audit.txt

regenerates that page with two gateways, one for each way to choose `ciphers`, both with an Ed25519
and an RSA host key.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from tests.support.gateway import Gateway, running

MODES: Final = ("fast", "compatible")

#: (level, algorithm, complaint) -> where it is complained of, and why it is as it is.
EXPLAINED: Final[dict[tuple[str, str, str], tuple[frozenset[str], str]]] = {
    **{
        ("warn", name, "does not provide protection against post-quantum attacks"): (
            frozenset(MODES),
            "mlkem768x25519-sha256 comes first. OpenSSH before 9.9 does not have it, and its "
            "sntrup761x25519 needs a library that the gateway does without.",
        )
        for name in ("curve25519-sha256", "curve25519-sha256@libssh.org")
    },
    **{
        ("warn", name, "using encrypt-and-MAC mode"): (
            frozenset({"compatible"}),
            "libssh2 before 1.11 (curl in Debian 12) has nothing else. No attack on it with "
            "AES-CTR is known.",
        )
        for name in ("hmac-sha2-256", "hmac-sha2-512")
    },
}

#: What the page says of the notes that name no algorithm.
NOTES: Final = (
    "Terrapin: the gateway takes part in the strict key exchange, as the note says; what is left "
    "needs a client from before 2024, and `fast` offers nothing that it works with.",
    "`fast` is audited as OpenSSH sees it. A client whose key exchange shows that it knows none of "
    "these ciphers is offered AES-CTR too, and with it the MACs that the section of `compatible` "
    "has.",
    "The auditor's test of connection rates is left out: it asks for less than 20 a second from "
    "one address, and a fleet behind one NAT address comes back at once after a restart.",
)


def audit(gateway: Gateway, *options: str) -> str:
    """ssh-audit's output; its exit status only says whether there were complaints."""
    ran = subprocess.run(
        [
            sys.executable, "-m", "ssh_audit.ssh_audit", "--skip-rate-test", *options,
            "-p", str(gateway.port), "127.0.0.1",
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )  # fmt: skip
    assert ran.returncode in (0, 2, 3), ran.stdout + ran.stderr
    return ran.stdout


def report(gateway: Gateway) -> dict[str, Any]:
    """The same as JSON."""
    found: dict[str, Any] = json.loads(audit(gateway, "--json"))
    return found


def complaints(found: dict[str, Any]) -> set[tuple[str, str, str]]:
    """Every (level, algorithm, complaint) of a report."""
    return {
        (level, each["algorithm"], text)
        for kind in ("kex", "key", "enc", "mac")
        for each in found[kind]
        for level in ("fail", "warn")
        for text in each["notes"].get(level, ())
    }


def make_rsa_host_key(folder: Path) -> None:
    """Create an RSA host key, so that the report covers one."""
    (folder / "keys").mkdir()
    path = folder / "keys/ssh_host_rsa_key"
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "rsa", "-b", "3072", "-N", "", "-f", path], check=True
    )


def _page() -> Iterator[str]:
    yield "What ssh-audit says of the gateway. Made by python -m tests.support.auditor."
    yield "\nComplaints, and why it is as it is:\n"
    for (level, name, text), (modes, why) in EXPLAINED.items():
        yield f"  [{level}] {name}: {text} ({', '.join(sorted(modes))})\n      {why}"
    for note in NOTES:
        yield f"  {note}"
    for mode in MODES:
        with tempfile.TemporaryDirectory() as made:
            folder = Path(made)
            make_rsa_host_key(folder)
            with running(folder, SFTP_GATEWAY_CIPHERS=mode) as gateway:
                report_text = audit(gateway, "--no-colors")
        report_text = re.sub(r"SHA256:\S+", "SHA256:...", report_text)
        yield f"\n======== ciphers = {mode} ========\n\n{report_text.strip()}"


if __name__ == "__main__":
    print("\n".join(_page()))
