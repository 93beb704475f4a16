"""Workflows, hooks and templates name commands and files that exist."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.promises import REPOSITORY

GITHUB = REPOSITORY / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))

#: An action pinned to a commit, with its version in a comment for dependabot.
PINNED = re.compile(r"uses: [\w./-]+@[0-9a-f]{40} # v[\d.]+$")


#: A file named in the documentation.
NAMED_FILE = re.compile(r"`((?:[\w-]+/)+[\w-]+\.(?:py|toml|yml|md))`")


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def steps(workflow: Path) -> Iterator[dict[str, Any]]:
    for job in load(workflow)["jobs"].values():
        yield from job.get("steps", ())


@pytest.mark.parametrize("path", sorted(GITHUB.rglob("*.yml")), ids=lambda path: path.name)
def test_every_file_parses(path: Path) -> None:
    assert isinstance(load(path), dict)


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_run_scripts_that_exist(workflow: Path) -> None:
    for step in steps(workflow):
        for script in re.findall(r"(?<![\w/])(?:scripts|\.ci)/[\w-]+", step.get("run", "")):
            assert os.access(REPOSITORY / script, os.X_OK), script


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_actions_are_pinned_by_commit(workflow: Path) -> None:
    for line in workflow.read_text().splitlines():
        if "uses:" in line and "uses: ./" not in line:
            assert PINNED.search(line), line


def test_continuous_integration_runs_the_gate() -> None:
    (gate,) = load(GITHUB / "workflows/ci.yml")["jobs"].values()
    assert [step["run"] for step in gate["steps"] if "run" in step][-1] == ".ci/run"
    assert "exec scripts/test" in (REPOSITORY / ".ci/run").read_text()


def test_a_release_requires_the_gate() -> None:
    jobs = load(GITHUB / "workflows/release.yml")["jobs"]
    assert jobs["gate"]["uses"] == "./.github/workflows/ci.yml"
    assert all(job["needs"] == "gate" for name, job in jobs.items() if name != "gate")


def test_dependencies_of_every_kind_are_updated() -> None:
    updates = load(GITHUB / "dependabot.yml")["updates"]
    kinds = {update["package-ecosystem"] for update in updates}
    assert kinds == {"pip", "github-actions", "docker", "docker-compose"}


def test_hooks_run_the_checks_of_the_gate() -> None:
    gate = (REPOSITORY / "scripts/test").read_text()
    (local,) = load(REPOSITORY / ".pre-commit-config.yaml")["repos"]
    for hook in local["hooks"]:
        command = hook["entry"].replace(".venv-test/bin/python ", "").replace(".venv-test/bin/", "")
        assert f"\ncheck {command}" in gate, command


@pytest.mark.parametrize(
    "page", [*sorted((REPOSITORY / "docs").glob("*.md")), REPOSITORY / "CONTRIBUTING.md"]
)
def test_pages_name_files_that_exist(page: Path) -> None:
    for name in NAMED_FILE.findall(page.read_text()):
        places = (REPOSITORY, REPOSITORY / "sftp_gateway", REPOSITORY / "sftp_gateway/server")
        if not name.startswith(("config/", "keys/")):  # of one installation
            assert any((place / name).exists() for place in places), name
