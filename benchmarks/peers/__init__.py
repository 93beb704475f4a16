"""The servers that are compared. A peer is one class: what to write to its folder, what to run."""

from benchmarks.peers.base import REPOSITORY, Keys, Peer, program
from benchmarks.peers.gateway import Gateway, gateway_before
from benchmarks.peers.openssh import OpenSsh, OpenSshGcm
from benchmarks.peers.others import Asyncssh, ProFtpd, Rclone

__all__ = [
    "BASELINE",
    "GATEWAY",
    "PEERS",
    "REPOSITORY",
    "Keys",
    "Peer",
    "gateway_before",
    "program",
]

#: All peers, in the order of the results' columns.
PEERS: tuple[type[Peer], ...] = (
    Gateway,
    OpenSsh,
    OpenSshGcm,
    Asyncssh,
    Rclone,
    ProFtpd,
)

#: What this is about, and what ratios are to.
GATEWAY = Gateway.name
BASELINE = OpenSsh.name
