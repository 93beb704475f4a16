"""The cost of a server includes all its processes, even ended ones."""

from __future__ import annotations

import subprocess
import sys

from benchmarks import processes

#: A server whose worker uses 0.2 s of CPU time and ends, and is replaced by one that does the same
#: and stays.
SERVER = """
import os, sys, time

def work():
    started = time.process_time()
    while time.process_time() - started < 0.2:
        pass

for number in (1, 2):
    if not (worker := os.fork()):
        work()
        if number == 2:
            print(flush=True)
            sys.stdin.read()
        os._exit(0)
    if number == 1:
        os.waitpid(worker, 0)
os.waitpid(worker, 0)
"""


def test_cpu_time_includes_replaced_workers() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdout.readline()
        assert len(processes.family(server.pid)) == 2
        # Each may be short of one clock tick, 10 ms.
        assert processes.cpu_seconds(server.pid) >= 0.38
        both = processes.memory(server.pid)
        assert both.rss > both.pss > both.anonymous > 0
        server.stdin.close()
    assert processes.family(server.pid) == []
