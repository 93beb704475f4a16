"""Sets up workers over ssh, several at a time."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

from sftp_gateway.worker_kit.contents import Kit
from sftp_gateway.worker_kit.hosts import Host, Outcome

#: Runs on the worker, with the script on standard input. sudo -n: nobody can answer a prompt.
_REMOTE: Final = 'if [ "$(id -u)" -eq 0 ]; then exec sh; else exec sudo -n sh; fi'
#: Lines of a worker's output that are kept, to find the reason of a failure.
_KEPT: Final = 40

#: Prefixes of the set-up script's steps and error messages.
_STEP: Final = "==> "
_ERROR: Final = "error: "
#: The step that prints the worker's public key: ed25519 only, without options.
_KEY: Final = re.compile(
    r"the key of this worker: (ssh-ed25519 [A-Za-z0-9+/=]{68} [A-Za-z0-9._@-]{1,64})"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetInstaller:
    """Sets up workers over ssh, `parallel` at once, with a `timeout` in seconds for each.

    `ssh_config` replaces ssh's own configuration files. `authorize_key` authorizes the public key
    that a worker has generated; it is called from several threads and may raise ValueError and
    OSError.
    """

    kit: Kit
    authorize_key: Callable[[str], None]
    ssh_config: Path | None
    timeout: float
    parallel: int

    async def set_up(
        self, hosts: Sequence[Host], progress: Callable[[Host, str], None]
    ) -> list[Outcome]:
        """Set up all hosts; `progress` is called for each step of each host."""
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
            async with asyncio.timeout(self.timeout):
                await asyncio.gather(
                    _feed(cast(asyncio.StreamWriter, process.stdin), self.kit.script(host.options)),
                    self._listen(cast(asyncio.StreamReader, process.stdout), said, progress),
                )
                status = await process.wait()
        except TimeoutError:
            last = f"; last output: {said[-1]}" if said else ""
            return Outcome(host=host, ok=False, message=f"timed out after {self.timeout:g} s{last}")
        except (OSError, ValueError) as error:
            return Outcome(host=host, ok=False, message=f"its key cannot be authorized: {error}")
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        return Outcome(host=host, ok=status == 0, message=_reason(status, said))

    async def _listen(
        self, stdout: asyncio.StreamReader, said: list[str], progress: Callable[[str], None]
    ) -> None:
        authorized = False
        async for raw in stdout:
            line = raw.decode("utf-8", "replace").rstrip()
            said.append(line)
            del said[:-_KEPT]
            if not line.startswith(_STEP):
                continue
            step = line.removeprefix(_STEP)
            progress(step)
            if (key := _KEY.fullmatch(step)) and not authorized:
                authorized = True
                await asyncio.to_thread(self.authorize_key, key[1])

    def _ssh(self, host: Host) -> Sequence[str]:
        config = () if self.ssh_config is None else ("-F", str(self.ssh_config))
        user = () if host.user is None else ("-l", host.user)
        port = () if host.port is None else ("-p", str(host.port))
        options = ("-oBatchMode=yes", "-oConnectTimeout=10", "-oServerAliveInterval=15")
        return ["ssh", *config, *options, *user, *port, "--", host.address, _REMOTE]


async def _feed(stdin: asyncio.StreamWriter, script: bytes) -> None:
    # If ssh has exited, its output has the reason.
    with contextlib.suppress(ConnectionError):
        stdin.write(script)
        await stdin.drain()
    stdin.close()
    with contextlib.suppress(ConnectionError):
        await stdin.wait_closed()


def _reason(status: int, said: Sequence[str]) -> str:
    """One line: the set-up's error, else the last output, else the exit status."""
    if status == 0:
        steps = [line.removeprefix(_STEP) for line in said if line.startswith(_STEP)]
        return steps[-1] if steps else "done"
    errors = [line.removeprefix(_ERROR) for line in said if line.startswith(_ERROR)]
    lines = [line for line in said if line.strip()]
    return (errors or lines or [f"ssh ended with status {status}"])[-1]
