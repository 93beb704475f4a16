"""A real Prometheus (Debian's) that scrapes a test's gateway every second, with our rules."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.support.dashboards import MONITORING
from tests.support.gateway import free_port, wait_for


class Prometheus:
    """Its HTTP API. Errors of queries raise AssertionError."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"

    def query(self, expr: str) -> list[dict[str, Any]]:
        """The current value of an expression: one sample per label set."""
        found: list[dict[str, Any]] = self._get("query", query=expr)["result"]
        return found

    def query_range(self, expr: str, seconds: int, step: int = 1) -> list[dict[str, Any]]:
        """The series of an expression over the last `seconds`."""
        end = time.time()
        found: list[dict[str, Any]] = self._get(
            "query_range", query=expr, start=str(end - seconds), end=str(end), step=str(step)
        )["result"]
        return found

    def firing(self) -> dict[str, list[dict[str, str]]]:
        """The labels of alerts that fire, by the alert's name."""
        alerts: dict[str, list[dict[str, str]]] = {}
        for alert in self._get("alerts")["alerts"]:
            if alert["state"] == "firing":
                alerts.setdefault(alert["labels"]["alertname"], []).append(alert["labels"])
        return alerts

    def ready(self) -> bool:
        with contextlib.suppress(OSError), self._open("/-/ready") as answer:
            return bool(answer.status == 200)
        return False

    def _get(self, path: str, **parameters: str) -> dict[str, Any]:
        try:
            with self._open(f"/api/v1/{path}?{urllib.parse.urlencode(parameters)}") as answer:
                response = json.load(answer)
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters}: {error.read().decode()}") from error
        assert response["status"] == "success", response
        # A warning is for instance a rate of what is no counter.
        assert not response.get("warnings"), response["warnings"]
        data: dict[str, Any] = response["data"]
        return data

    def _open(self, path: str) -> Any:
        return urllib.request.urlopen(self.url + path, timeout=30)  # noqa: S310 - of this machine


@contextlib.contextmanager
def running_prometheus(folder: Path, *, gateway_port: int) -> Iterator[Prometheus]:
    """With the committed configuration and rules, except addresses, intervals and `for`."""
    port = free_port()
    _write_configuration(folder, gateway_port)
    with open(folder / "prometheus.log", "wb") as log:
        process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        prometheus = Prometheus(port)

        def ready() -> bool:
            if process.poll() is not None:
                raise AssertionError((folder / "prometheus.log").read_text()[-4000:])
            return prometheus.ready()

        wait_for(ready, "Prometheus to be ready")
        yield prometheus
    finally:
        process.terminate()
        process.wait(30)


def rules() -> list[dict[str, Any]]:
    """Every alert of the committed rules."""
    files = sorted((MONITORING / "prometheus/rules").glob("*.yml"))
    groups = [group for file in files for group in yaml.safe_load(file.read_text())["groups"]]
    return [rule for group in groups for rule in group["rules"]]


def _write_configuration(folder: Path, gateway_port: int) -> None:
    (folder / "rules").mkdir(parents=True)
    for file in (MONITORING / "prometheus/rules").glob("*.yml"):
        made = yaml.safe_load(file.read_text())
        for group in made["groups"]:
            for rule in group["rules"]:
                rule.pop("for", None)
        (folder / "rules" / file.name).write_text(yaml.safe_dump(made))
    configuration = yaml.safe_load((MONITORING / "prometheus/prometheus.yml").read_text())
    configuration["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    configuration["rule_files"] = [str(folder / "rules/*.yml")]
    [alertmanagers] = configuration["alerting"]["alertmanagers"]
    (folder / "alertmanagers.yml").write_bytes(
        (MONITORING / "prometheus/alertmanagers.yml").read_bytes()
    )
    alertmanagers["file_sd_configs"][0]["files"] = [str(folder / "alertmanagers.yml")]
    # Alloy and Loki are nowhere here: their addresses are those of nobody.
    addresses = {
        "sftp-gateway": f"127.0.0.1:{gateway_port}",
        "alloy": f"127.0.0.1:{free_port()}",
        "loki": f"127.0.0.1:{free_port()}",
    }
    for job in configuration["scrape_configs"]:
        job["static_configs"] = [{"targets": [addresses.pop(job["job_name"])]}]
    assert not addresses
    (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration))
