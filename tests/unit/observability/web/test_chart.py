"""The chart's columns and scale."""

from __future__ import annotations

import pytest

from sftp_gateway.observability import formatting
from sftp_gateway.observability.web.chart import OTHERS, draw, series
from sftp_gateway.observability.web.rendering import render
from tests.support.history import NOON

MINUTE = int(NOON // 60)


def drawn(sent: dict[tuple[int, str], int]) -> str:
    return render("chart.html", chart=draw(series(sent, hours=1, now=NOON))).decode()


def test_minutes_are_grouped_into_columns_without_loss() -> None:
    sent = {(MINUTE - ago, "models"): 1 for ago in range(355)}
    shown = series(sent, hours=6, now=NOON)
    assert len(shown.parts["models"]) == 72
    assert shown.total == 355


def test_minutes_outside_the_interval_are_omitted() -> None:
    shown = series({(MINUTE - 61, "a"): 1, (MINUTE, "b"): 1, (MINUTE + 1, "c"): 1},
                   hours=1, now=NOON)  # fmt: skip
    assert list(shown.parts) == ["b"]


def test_names_beyond_the_top_five_are_grouped() -> None:
    sent = {(MINUTE, f"share{number}"): 100 - number for number in range(9)}
    shown = series(sent, hours=1, now=NOON)
    assert list(shown.parts) == [*(f"share{number}" for number in range(5)), OTHERS]
    assert shown.total == sum(sent.values())


def test_an_empty_chart_shows_a_message() -> None:
    assert "Nothing was sent" in drawn({})


def test_names_are_escaped_in_the_chart() -> None:
    assert "<script" not in drawn({(MINUTE, "</svg><script>"): 1})


@pytest.mark.parametrize("sent", [1, 59, 61, 599])
def test_the_scale_of_tiny_rates_has_distinct_labels(sent: int) -> None:
    chart = drawn({(MINUTE, "models"): sent})
    assert "<span>10 B/s</span><span>5 B/s</span><span>0</span>" in chart
    assert "0 B/s:" not in chart.replace("10 B/s:", "")


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B/s"), (0.01, "< 1 B/s"), (0.99, "< 1 B/s"), (1, "1 B/s"), (1_500_000, "1.5 MB/s")],
)
def test_rates_are_formatted_briefly(count: float, text: str) -> None:
    assert formatting.rate(count) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (1_048_576, "1.05 MB"), (99_960_000, "100 MB"),
     (999_600_000, "1 GB"), (5e15, "5 PB")],
)  # fmt: skip
def test_bytes_are_formatted_briefly(count: float, text: str) -> None:
    assert formatting.size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.9, "59 s"), (60, "1 min"), (3600, "1 h"), (11_100, "3 h 5 min"),
     (200_000, "2 d")],
)  # fmt: skip
def test_durations_are_formatted_briefly(seconds: float, text: str) -> None:
    assert formatting.span(seconds) == text
