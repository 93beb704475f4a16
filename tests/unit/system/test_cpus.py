"""The number of usable CPUs: the CPU set and the limits of cgroup v1 and v2."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sftp_gateway.system import cpus
from tests.support.gateway import fill


@pytest.fixture(autouse=True)
def _many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend that this process may use 16 CPUs."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)))


def test_without_a_limit_the_cpu_set_applies(tmp_path: Path) -> None:
    assert cpus.available(tmp_path) == 16


@pytest.mark.parametrize(
    ("limit", "available"),
    [("max 100000", 16), ("200000 100000", 2), ("150000 100000", 2), ("20000 100000", 1)],
)
def test_the_limit_of_a_container_applies(tmp_path: Path, limit: str, available: int) -> None:
    fill(
        tmp_path,
        {
            "proc/self/cgroup": b"0::/\n",
            "sys/fs/cgroup/cpu.max": f"{limit}\n".encode(),
        },
    )
    assert cpus.available(tmp_path) == available


def test_the_lowest_limit_of_the_parent_groups_applies(tmp_path: Path) -> None:
    fill(
        tmp_path,
        {
            "proc/self/cgroup": b"0::/system.slice/gateway.service\n",
            "sys/fs/cgroup/system.slice/cpu.max": b"300000 100000\n",
            "sys/fs/cgroup/system.slice/gateway.service/cpu.max": b"max 100000\n",
        },
    )
    assert cpus.available(tmp_path) == 3


@pytest.mark.parametrize(("quota", "available"), [("-1", 16), ("400000", 4)])
def test_the_limit_of_cgroup_v1_applies(tmp_path: Path, quota: str, available: int) -> None:
    fill(
        tmp_path,
        {
            "proc/self/cgroup": b"4:cpu,cpuacct:/docker/abc\n1:name=systemd:/docker/abc\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": f"{quota}\n".encode(),
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": b"100000\n",
        },
    )
    assert cpus.available(tmp_path) == available


@pytest.mark.parametrize("limit", [b"", b"nonsense", b"1 0\n"])
def test_an_unreadable_limit_is_ignored(tmp_path: Path, limit: bytes) -> None:
    fill(tmp_path, {"proc/self/cgroup": b"0::/\n", "sys/fs/cgroup/cpu.max": limit})
    assert cpus.available(tmp_path) == 16


def test_auto_is_bounded_and_a_number_is_used_as_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpus, "available", lambda: 16)
    assert cpus.worker_count("auto") == cpus.MAX_AUTO_WORKERS == 8
    monkeypatch.setattr(cpus, "available", lambda: 2)
    assert cpus.worker_count("auto") == 2
    assert cpus.worker_count(12) == 12
