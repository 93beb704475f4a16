"""The wheel works without the sources, in an isolated environment as by `pipx install`."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

import asyncssh
import pytest

from tests.support.gateway import REPOSITORY, Gateway, environment

pytestmark = pytest.mark.integration

NO_SOURCES = {"PYTHONPATH": ""}


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`sftp-gateway` of the wheel, installed without the sources."""
    folder = tmp_path_factory.mktemp("wheel")
    build = ["wheel", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", folder]
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, *build, REPOSITORY], check=True)
    (wheel,) = folder.glob("*.whl")
    home = folder / "environment"
    venv.create(home, with_pip=False)
    (packages,) = home.glob("lib/python*/site-packages")
    # Uses the tests' dependencies but not the sources: .pth files in a path that a .pth file adds
    # are not processed.
    (packages / "dependencies.pth").write_text(f"{Path(asyncssh.__file__).parents[1]}\n")
    install = ["--python", home / "bin/python", "install", "--no-deps", "--no-index", wheel]
    subprocess.run([*pip, *install], check=True, stderr=subprocess.DEVNULL)
    return home / "bin/sftp-gateway"


def test_the_wheel_contains_the_product_only(program: Path) -> None:
    (packages,) = program.parent.parent.glob("lib/python*/site-packages")
    installed = {path.name for path in packages.iterdir() if path.is_dir()}
    assert {name for name in installed if not name.endswith(".dist-info")} == {"sftp_gateway"}


def test_the_wheel_serves_in_an_empty_folder(program: Path, tmp_path: Path) -> None:
    gateway = Gateway(tmp_path, options={"SFTP_GATEWAY_DEFAULTS": "true", **NO_SOURCES})
    gateway.start(program=[program])
    try:
        assert gateway.sftp("get Bhushanji/README.txt /dev/null").returncode == 0
    finally:
        assert gateway.stop() == 0


def test_the_wheel_contains_the_worker_kit(program: Path, tmp_path: Path) -> None:
    shown = subprocess.run(
        [program, "worker-kit", "--help"],
        cwd=tmp_path,
        env=environment(**NO_SOURCES),
        capture_output=True,
    )
    assert shown.returncode == 0, shown.stderr
