"""Every client behaves as docs/clients.md says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients import matrix
from tests.clients.programs import CLIENTS
from tests.support.gateway import Gateway

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with matrix.serving(tmp_path_factory.mktemp("gateway")) as gateway:
        yield gateway


@pytest.mark.parametrize("name", CLIENTS)
def test_a_client_matches_the_documented_table(gateway: Gateway, tmp_path: Path, name: str) -> None:
    row = matrix.row(gateway, name, tmp_path)
    assert row in matrix.documented(), "run python -m tests.clients.matrix and review the changes"


def test_the_documented_table_lists_exactly_these_clients() -> None:
    assert [row.split(" | ")[0].removeprefix("| ") for row in matrix.documented()] == [*CLIENTS]
