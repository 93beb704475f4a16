"""Which clients report read errors, by version string."""

from __future__ import annotations

import pytest

from sftp_gateway.server.sftp.client_versions import reports_read_errors


@pytest.mark.parametrize(
    "version",
    [
        "SSH-2.0-paramiko_2.12.0",
        "SSH-2.0-rclone/v1.60.1-DEV",
        "SSH-2.0-Go",
        "SSH-2.0-AsyncSSH_2.24.1",
        "SSH-2.0-libssh2_1.10.0",
        "SSH-2.0-WinSCP_release_6.5",
        "SSH-2.0-FileZilla_3.68.1",
        "SSH-2.0-PuTTY_Release_0.78",
        "SSH-2.0-JSCH_0.2.17",
        "SSH-2.0-JSCH-0.1.54",
    ],
)
def test_known_libraries_report_failed_reads(version: str) -> None:
    assert reports_read_errors(version)


@pytest.mark.parametrize(
    "version",
    [
        "SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u7",
        "SSH-2.0-OpenSSH_for_Windows_9.5",
        "SSH-2.0-dropbear_2022.83",
        "SSH-2.0-libssh_0.10.6",
        "SSH-2.0-Gopher",
        "SSH-2.0-x_paramiko_3.0",
        "",
    ],
)
def test_unknown_clients_may_be_sshfs(version: str) -> None:
    assert not reports_read_errors(version)
