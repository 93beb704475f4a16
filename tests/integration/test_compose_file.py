"""The compose file, as docker-compose 1.29 and the Compose Specification read it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from sftp_gateway.settings import load_settings
from tests.support.gateway import REPOSITORY
from tests.support.grammars import compose_errors

pytestmark = pytest.mark.integration

OBSERVERS = {"prometheus", "loki", "alloy", "grafana"}


def _content() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text())
    return content


def _compose(*arguments: str, folder: Path = REPOSITORY, **variables: str) -> str:
    done = subprocess.run(
        ["docker-compose", "--project-directory", folder, *arguments],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "HOME": "/root", **variables},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr
    return done.stdout


def _effective(**variables: str) -> dict[str, Any]:
    services: dict[str, Any] = yaml.safe_load(_compose("config", **variables))["services"]
    return services


def test_the_file_conforms_to_the_compose_specification() -> None:
    content = _content()
    assert compose_errors(content) == []
    content["services"]["loki"]["profiles"] = "observability"  # has to be a list
    assert compose_errors(content) != []


def test_only_the_gateway_starts_without_a_profile() -> None:
    services = _effective()
    assert {name for name, service in services.items() if service.get("profiles")} == OBSERVERS
    assert services.keys() - OBSERVERS == {"init", "sftp-gateway"}
    for name in OBSERVERS:
        assert services[name]["profiles"] == ["observability"]
    # The gateway depends on no service of the profile.
    assert services["sftp-gateway"]["depends_on"].keys() == {"init"}


def test_monitoring_services_have_pinned_images_and_no_privileges() -> None:
    services = _effective()
    for name in OBSERVERS:
        service = services[name]
        assert re.fullmatch(r"[a-z]+/[a-z]+:v?\d+\.\d+\.\d+", service["image"]), service["image"]
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert "cap_add" not in service
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert "privileged" not in service
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:")
        for volume in service["volumes"]:
            assert "docker.sock" not in volume
            # The repository's files and the log are mounted read-only.
            if volume.startswith(("/", "access-log:")):
                assert volume.endswith(":ro"), volume


def test_mounted_repository_files_exist() -> None:
    for service in _effective().values():
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            if source.startswith(str(REPOSITORY / "monitoring")):
                assert os.path.isdir(source), source


def test_alloy_reads_the_gateways_log_by_its_group() -> None:
    services = _effective(GATEWAY_GID="1234")
    gateway, alloy = services["sftp-gateway"], services["alloy"]
    assert gateway["environment"]["SFTP_GATEWAY_ACCESS_LOG__FILE"] == "logs/access.log"
    assert int(gateway["environment"]["SFTP_GATEWAY_ACCESS_LOG__FILE_MAX_BYTES"]) == 100 << 20
    assert "access-log:/srv/sftp-gateway/logs:rw" in gateway["volumes"]
    assert "access-log:/var/log/sftp-gateway:ro" in alloy["volumes"]
    assert alloy["user"] == "0:1234"
    assert (
        "/var/log/sftp-gateway/access.log"
        in (REPOSITORY / "monitoring/alloy/config.alloy").read_text()
    )
    # The gateway's container is created first: its image sets the volume's mode.
    assert "sftp-gateway" in alloy["depends_on"]


def test_the_log_file_can_be_disabled() -> None:
    gateway = _effective(SFTP_GATEWAY_ACCESS_LOG__FILE="")["sftp-gateway"]
    assert gateway["environment"]["SFTP_GATEWAY_ACCESS_LOG__FILE"] == ""


def test_the_gateway_gets_only_its_own_options(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(
        "GRAFANA_ADMIN_PASSWORD=secret\nPROMETHEUS_RETENTION=1d\nGATEWAY_ENV_FILE=.env\n"
        "SFTP_GATEWAY_ACCESS_LOG__LEVEL=requests\nSFTP_GATEWAY_ALLOW_FROM='[\"192.0.2.0/24\"]'\n"
        "SFTP_GATEWAY_PUBLIC_HOST=from-the-file\n"
    )
    shutil.copy(REPOSITORY / "docker-compose.yml", tmp_path)
    config = _compose("config", folder=tmp_path, SFTP_GATEWAY_PUBLIC_HOST="from-the-shell")
    services = yaml.safe_load(config)["services"]
    for name in ("init", "sftp-gateway"):
        given = {key: value for key, value in services[name]["environment"].items() if value}
        assert {key for key in given if not key.startswith("SFTP_GATEWAY_")} == set()
        assert given["SFTP_GATEWAY_ACCESS_LOG__LEVEL"] == "requests"
        assert given["SFTP_GATEWAY_ALLOW_FROM"] == '["192.0.2.0/24"]'
        assert given["SFTP_GATEWAY_PUBLIC_HOST"] == "from-the-shell"
        assert given["SFTP_GATEWAY_METRICS_HOST"] == "0.0.0.0"
        assert "env_file" not in services[name]
    assert services["grafana"]["environment"]["GF_SECURITY_ADMIN_PASSWORD"] == "secret"


def test_ineffective_env_file_options_are_reported(tmp_path: Path) -> None:
    shutil.copy(REPOSITORY / "docker-compose.yml", tmp_path)
    (tmp_path / ".env").write_text("SFTP_GATEWAY_PORT=2022\nSFTP_GATEWAY_METRICS_HOST=::1\n")
    (tmp_path / "empty.toml").touch()
    services = yaml.safe_load(_compose("config", folder=tmp_path))["services"]
    given = {k: v for k, v in services["sftp-gateway"]["environment"].items() if v}
    assert load_settings(tmp_path / "empty.toml", given).origins.overridden == (
        ".env: SFTP_GATEWAY_PORT=2022 has no effect, because docker-compose.yml sets "
        "SFTP_GATEWAY_PORT=2222; SFTP_PORT in .env is the published port",
        ".env: SFTP_GATEWAY_METRICS_HOST=::1 has no effect, because docker-compose.yml sets "
        "SFTP_GATEWAY_METRICS_HOST=0.0.0.0",
    )


def test_an_unset_option_is_not_passed_on() -> None:
    given = _effective()["sftp-gateway"]["environment"]
    assert given["SFTP_GATEWAY_LANDLOCK"] is None


def test_no_service_has_a_default_password() -> None:
    grafana = _effective()["grafana"]
    assert grafana["environment"]["GF_SECURITY_ADMIN_PASSWORD"] == ""
    assert grafana["entrypoint"] == ["/bin/sh", "/etc/sftp-gateway/start"]
    given = _effective(GRAFANA_ADMIN_PASSWORD="chosen")["grafana"]
    assert given["environment"]["GF_SECURITY_ADMIN_PASSWORD"] == "chosen"
    assert "admin" not in json.dumps(given["environment"]).replace("ADMIN", "").lower()


def test_provisioned_addresses_and_paths_match_the_compose_file() -> None:
    services = _effective()
    provisioning = REPOSITORY / "monitoring/grafana/provisioning"
    sources = yaml.safe_load((provisioning / "datasources/datasources.yml").read_text())
    for source in sources["datasources"]:
        assert source["url"].removeprefix("http://").split(":")[0] in services
    [provider] = yaml.safe_load((provisioning / "dashboards/dashboards.yml").read_text())[
        "providers"
    ]
    [mounted] = [v for v in services["grafana"]["volumes"] if v.startswith("/")]
    here, there, _ = mounted.split(":")
    assert os.path.isdir(provider["options"]["path"].replace(there, here))
    home = services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert os.path.isfile(home.replace(there, here))
    scraped = yaml.safe_load((REPOSITORY / "monitoring/prometheus/prometheus.yml").read_text())
    for job in scraped["scrape_configs"]:
        [target] = job["static_configs"][0]["targets"]
        assert target.split(":")[0] == job["job_name"]
        assert job["job_name"] in services
