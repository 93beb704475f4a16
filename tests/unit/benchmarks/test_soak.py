"""The soak's report: errors explained by restarts, memory slopes and the chart."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks.processes import Memory
from benchmarks.soak.chart import as_svg
from benchmarks.soak.course import Plan, Soak
from benchmarks.soak.ledger import RECONNECT, STALL, ClientError, Ledger, WrongBytesError
from benchmarks.soak.report import as_json, as_markdown
from benchmarks.soak.samples import Log, Process, Sample, courses, slope


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def attempt(ledger: Ledger, error: Exception | None = None) -> None:
    with ledger.operation("reads"):
        if error is not None:
            raise error


def test_completed_attempts_are_counted() -> None:
    ledger = Ledger()
    attempt(ledger)
    attempt(ledger)
    assert (ledger.done["reads"], ledger.errors) == (2, 0)


@pytest.mark.parametrize("error", [ClientError("no"), OSError("no"), RuntimeError("no")])
def test_an_error_without_a_restart_is_a_problem(error: Exception) -> None:
    ledger = Ledger(clock=(clock := Clock()))
    attempt(ledger, error)
    assert ledger.problems == ["reads: no"]
    ledger.restart_began()
    clock.now = 5.0
    attempt(ledger, error)
    ledger.restart_ended()
    clock.now += RECONNECT
    attempt(ledger, error)
    assert (ledger.errors, ledger.interrupted["reads"]) == (1, 2)
    clock.now += 0.1
    attempt(ledger, error)
    assert (ledger.errors, ledger.interrupted["reads"]) == (2, 2)
    assert ledger.done["reads"] == 0


def test_an_error_before_a_restart_is_a_problem() -> None:
    ledger = Ledger(clock=(clock := Clock()))
    attempt(ledger, ClientError("early"))
    clock.now = 1.0
    ledger.restart_began()
    assert ledger.problems == ["reads: early"]


def test_a_wrong_byte_is_a_problem_even_during_a_restart() -> None:
    ledger = Ledger()
    ledger.restart_began()
    ledger.stopping.set()
    attempt(ledger, WrongBytesError("they differ"))
    attempt(ledger, IndexError("ours"))
    assert ledger.problems == [
        "reads: WrongBytesError('they differ')",
        "reads: IndexError('ours')",
    ]


def test_an_error_at_the_end_of_the_run_is_not_a_problem() -> None:
    ledger = Ledger()
    ledger.stopping.set()
    attempt(ledger, OSError("gone"))
    assert (ledger.errors, ledger.done["reads"], ledger.interrupted["reads"]) == (0, 0, 0)


def test_a_hanging_attempt_is_reported_once() -> None:
    ledger = Ledger(clock=(clock := Clock()))
    with ledger.operation("reads"):
        clock.now = STALL
        assert ledger.hanging() == []
        clock.now += 1
        assert ledger.hanging() == ["reads"]
        assert ledger.hanging() == []
    assert ledger.errors == 1


def test_a_restart_that_does_not_end_is_overdue() -> None:
    ledger = Ledger(clock=(clock := Clock()))
    assert not ledger.overdue(10)
    ledger.restart_began()
    clock.now = 11.0
    assert ledger.overdue(10)
    ledger.restart_ended()
    assert not ledger.overdue(10)


def test_a_slope_is_computed_per_process() -> None:
    first = [(at, 100.0 + at) for at in range(10)]
    second = [(at, 10.0 + at) for at in range(20, 30)]
    assert slope([first]) == pytest.approx(3600)
    assert slope([first, second]) == pytest.approx(3600)
    assert slope([[(0.0, 5.0)]]) == 0


def sample(at: float, *sized: tuple[str, int]) -> Sample:
    return Sample(
        at=at,
        sessions=3,
        handles=2,
        errors=0,
        restarting=at == 40,
        processes=tuple(
            Process(name, Memory(rss=2 * kib, pss=kib, anonymous=kib), descriptors=20, threads=4)
            for name, kib in sized
        ),
    )


def samples() -> list[Sample]:
    """The first worker grows by 1 KiB a second after 30 seconds of faster growth."""
    return [
        sample(
            at,
            ("supervisor", 5000),
            ("observer", 6000),
            *([("worker 1", 1000 * min(at, 30) + at)] if at < 90 else [("worker 2", 50)]),
        )
        for at in range(0, 120, 10)
    ]


def test_the_warm_up_of_a_process_is_ignored() -> None:
    supervisor, observer, worker = courses(samples(), warm_up=30)
    assert (supervisor.slope, observer.slope) == (0, 0)
    assert worker.slope == pytest.approx(3600)
    assert (worker.processes, worker.most) == (2, 30_080)
    assert worker.first < worker.last


def soak() -> Soak:
    made = Soak(plan=Plan(seconds=120, restart_every=90), seconds=120, samples=samples())
    made.before, made.after = made.samples[0], made.samples[-1]
    made.ledger.done["sftp get"] = 7
    made.ledger.problem("reads: <they> & differ")
    return made


def test_the_chart_is_valid_svg_with_every_series() -> None:
    root = ElementTree.fromstring(as_svg(soak()))  # noqa: S314
    lines = [each for each in root.iter() if each.tag.endswith("polyline")]
    assert len(lines) == 7
    assert all(len(line.attrib["points"].split()) == 12 for line in lines)
    assert len([each for each in root.iter() if each.tag.endswith("rect")]) == 2
    ElementTree.fromstring(as_svg(Soak(plan=Plan(seconds=1, restart_every=1))))  # noqa: S314


def test_the_json_and_the_table_are_complete() -> None:
    numbers = json.loads(as_json(soak()))
    assert len(numbers["samples"]) == 12
    assert numbers["samples"][0]["processes"]["supervisor"] == [10_000, 5000, 5000, 20, 4]
    table = as_markdown(soak())
    assert "| sftp get | 7 | 0 |" in table
    assert "- reads: <they> & differ" in table
    assert "+3,600" in table


def test_worker_pids_are_read_from_the_growing_log(tmp_path: Path) -> None:
    path = tmp_path / "access.jsonl"
    log = Log(path)
    started = '{{"event":"worker_started","worker":0,"pid":{}}}\n'
    path.write_text(started.format(7) + started.format(8) + '{"event":"file_op')
    assert log.read() == {7, 8}
    with open(path, "a") as more:
        more.write(
            'ened"}\n{"event":"worker_exited","pid":7,"expected":true}\n'
            '{"event":"worker_exited","pid":8,"signal":"SIGKILL","expected":false}\n'
        )
        more.write(started.format(7))
    assert log.read() == {7}
    assert log.workers == {7: "worker 3", 8: "worker 2"}
    assert log.events["file_opened"] == 1
    assert len(log.unexpected) == 1
    assert "worker 2 ended" in log.unexpected[0]
