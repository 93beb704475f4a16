"""Sets workers up over ssh, several at once: the only code of the project that starts a program."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

from sftp_gateway.worker_kit.contents import Kit
from sftp_gateway.worker_kit.hosts import Host, Outcome

#: On the worker: the script comes on standard input. sudo may not ask, there is nobody to answer.
_REMOTE: Final = 'if [ "$(id -u)" -eq 0 ]; then exec sh; else exec sudo -n sh; fi'
#: Lines of a worker's output that are kept, for the reason of a failure.
_KEPT: Final = 40

#: What the set-up says before each step, and before what went wrong.
_STEP: Final = "==> "
_ERROR: Final = "error: "


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """How workers are reached: `ssh_config` in place of ssh's own configuration, `patience` in
    seconds for each, `parallel` at once."""

    kit: Kit
    ssh_config: Path | None
    patience: float
    parallel: int

    async def set_up(
        self, hosts: Sequence[Host], progress: Callable[[Host, str], None]
    ) -> list[Outcome]:
        """Set all up; `progress` is told of each step of each worker."""
        turns = asyncio.Semaphore(self.parallel)

        async def one(host: Host) -> Outcome:
            async with turns:
                outcome = await self._set_up(host, lambda step: progress(host, step))
            progress(host, "done" if outcome.ok else "failed")
            return outcome

        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(one(host)) for host in hosts]
        return [task.result() for task in running]

    async def _set_up(self, host: Host, progress: Callable[[str], None]) -> Outcome:
        progress("connecting")
        process = await asyncio.create_subprocess_exec(
            *self._ssh(host),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        said: list[str] = []
        try:
            async with asyncio.timeout(self.patience):
                await asyncio.gather(
                    _feed(cast(asyncio.StreamWriter, process.stdin), self.kit.script(host.options)),
                    _listen(cast(asyncio.StreamReader, process.stdout), said, progress),
                )
                status = await process.wait()
        except TimeoutError:
            last = f"; the last it said: {said[-1]}" if said else ""
            return Outcome(host=host, ok=False, says=f"not done in {self.patience:g} s{last}")
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        return Outcome(host=host, ok=status == 0, says=_reason(status, said))

    def _ssh(self, host: Host) -> Sequence[str]:
        config = () if self.ssh_config is None else ("-F", str(self.ssh_config))
        user = () if host.user is None else ("-l", host.user)
        port = () if host.port is None else ("-p", str(host.port))
        options = ("-oBatchMode=yes", "-oConnectTimeout=10", "-oServerAliveInterval=15")
        return ["ssh", *config, *options, *user, *port, "--", host.address, _REMOTE]


async def _feed(stdin: asyncio.StreamWriter, script: bytes) -> None:
    # Where ssh has ended already, what it said tells why.
    with contextlib.suppress(ConnectionError):
        stdin.write(script)
        await stdin.drain()
    stdin.close()
    with contextlib.suppress(ConnectionError):
        await stdin.wait_closed()


async def _listen(
    stdout: asyncio.StreamReader, said: list[str], progress: Callable[[str], None]
) -> None:
    async for raw in stdout:
        line = raw.decode("utf-8", "replace").rstrip()
        said.append(line)
        del said[:-_KEPT]
        if line.startswith(_STEP):
            progress(line.removeprefix(_STEP))


def _reason(status: int, said: Sequence[str]) -> str:
    """One line: the set-up's error, else the last that was said, else the status."""
    if status == 0:
        steps = [line.removeprefix(_STEP) for line in said if line.startswith(_STEP)]
        return steps[-1] if steps else "done"
    errors = [line.removeprefix(_ERROR) for line in said if line.startswith(_ERROR)]
    lines = [line for line in said if line.strip()]
    return (errors or lines or [f"ssh ended with status {status}"])[-1]
