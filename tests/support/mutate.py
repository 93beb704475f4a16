"""Removes one check at a time from a copy of the product; its tests must then fail.

The copy includes uncommitted changes. Each test is first run without a mutation, as a test that
fails anyway shows nothing.
"""

from __future__ import annotations

import argparse
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from tests.support.gateway import REPOSITORY
from tests.support.promises import Mutation, mutations

#: pytest's exit status where all passed.
_PASSED: Final = 0

#: Seconds for a test, which has a time-out of its own.
_TIMEOUT: Final = 300.0


class Copy:
    """A copy of the repository for mutations."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            check=True,
        )
        for name in filter(None, listed.stdout.decode().split("\0")):
            if (REPOSITORY / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(REPOSITORY / name, folder / name)

    def run(self, *tests: str) -> tuple[int, str]:
        """pytest's exit status and what it says, up to the first failure."""
        # Its packages go before those of the virtual environment, which are REPOSITORY's. Compiled
        # files are known by size and second, which a mutation may share with what it changes.
        environment = {
            **os.environ,
            "CI": "1",  # nothing may be skipped
            "PYTHONPATH": str(self._folder),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        with tempfile.TemporaryDirectory(prefix="mutate-", ignore_cleanup_errors=True) as made:
            options = ["-x", "-q", "-p", "no:cacheprovider", f"--basetemp={made}/tests"]
            pytest = subprocess.Popen(
                [sys.executable, "-m", "pytest", *options, *tests],
                cwd=self._folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                start_new_session=True,
            )
            try:
                output, _ = pytest.communicate(timeout=_TIMEOUT * len(tests))
            except subprocess.TimeoutExpired:
                os.killpg(pytest.pid, signal.SIGKILL)
                output, _ = pytest.communicate()
        return pytest.returncode, output

    def attempt(self, mutation: Mutation) -> dict[str, tuple[int, str]]:
        """What `run` says of each of the mutation's tests."""
        as_it_is = {
            name: (self._folder / name).read_text() for name in mutation.texts(self._folder)
        }
        try:
            for name, text in mutation.texts(self._folder).items():
                (self._folder / name).write_text(text)
            return {test: self.run(test) for test in mutation.tests}
        finally:
            for name, text in as_it_is.items():
                (self._folder / name).write_text(text)


def main(arguments: Sequence[str] | None = None) -> int:
    """0 if every mutation was noticed by each of its tests."""
    parser = argparse.ArgumentParser(prog="scripts/mutate", description=__doc__)
    parser.add_argument(
        "words", nargs="*", help="only mutations in whose text, file or tests one of these is"
    )
    parser.add_argument(
        "--jobs",
        type=int,
        default=1,
        help="mutations that are tried at once (default: %(default)s)",
    )
    parser.add_argument("--list", action="store_true", help="say what would be done")
    given = parser.parse_args(arguments)
    chosen = [each for each in mutations() if _chosen(each, given.words)]
    if given.list:
        for mutation in chosen:
            print(f"without: {mutation.without}", *mutation.tests, sep="\n    ")
        return 0
    with tempfile.TemporaryDirectory(prefix="sftp-gateway-mutate-") as folder:
        folders = [Path(folder) / str(number) for number in range(given.jobs)]
        for each in folders:
            each.mkdir()
        complaints = list(_try([Copy(each) for each in folders], chosen))
    print(f"{len(chosen)} mutations, {len(complaints)} complaints", *complaints, sep="\n")
    return 1 if complaints or not chosen else 0


def _chosen(mutation: Mutation, words: Sequence[str]) -> bool:
    text = " ".join((mutation.without, *mutation.tests, *(edit.file for edit in mutation.edits)))
    return not words or any(word in text for word in words)


def _try(copies: Sequence[Copy], chosen: Sequence[Mutation]) -> Iterable[str]:
    tests = sorted({test for mutation in chosen for test in mutation.tests})
    print(f"{len(tests)} tests as it is", flush=True)
    failing = [] if not tests or copies[0].run(*tests)[0] == _PASSED else _failing(copies[0], tests)
    yield from (f"{test} does not pass without a mutation" for test in failing)
    free: queue.Queue[Copy] = queue.Queue()
    for copy in copies:
        free.put(copy)

    def attempt(mutation: Mutation) -> dict[str, tuple[int, str]]:
        copy = free.get()
        try:
            return copy.attempt(mutation)
        finally:
            free.put(copy)

    tried = [each for each in chosen if set(failing).isdisjoint(each.tests)]
    with ThreadPoolExecutor(len(copies)) as pool:
        results = zip(tried, pool.map(attempt, tried), strict=True)
        for number, (mutation, outcomes) in enumerate(results, start=1):
            print(f"{number}/{len(tried)} without {mutation.without}", flush=True)
            yield from _complaints(mutation, outcomes)


def _complaints(mutation: Mutation, outcomes: dict[str, tuple[int, str]]) -> Iterable[str]:
    for test, (status, output) in outcomes.items():
        name = test.partition("::")[2]
        why = _failure(test, output)
        if why is not None:
            print(f"    noticed by {name}: {why}", flush=True)
            continue
        print(f"    NOT NOTICED by {name}: pytest's status is {status}", flush=True)
        yield f"without {mutation.without}: {test} does not fail"


def _failing(copy: Copy, tests: Sequence[str]) -> list[str]:
    """The tests that fail without a mutation; prints why."""
    failing = []
    for test in tests:
        status, output = copy.run(test)
        if status != _PASSED:
            print(output)
            failing.append(test)
    return failing


def _failure(test: str, output: str) -> str | None:
    """Why a test failed, for a person to see whether it was for the right reason; None if not.

    It has to be the test that fails, and not what it needs, so the exit status is not enough.
    """
    failed = (line for line in output.splitlines() if line.startswith(f"FAILED {test}"))
    return next((line.partition(" - ")[2] for line in failed), None)


if __name__ == "__main__":
    sys.exit(main())
