"""The login: the server's host key, ssh's answer, and the folder that is to be mounted."""

from __future__ import annotations

import os
import re
import tempfile
from shlex import quote

from sftp_gateway.worker_doctor.children import PATIENCE, last_line, run
from sftp_gateway.worker_doctor.target import OK, PROBLEM, WARNING, Target

_CHANGED = "REMOTE HOST IDENTIFICATION HAS CHANGED"
_UNKNOWN = re.compile(r"host key is known for|authenticity of host .* can't be established")


def check_login(target: Target, password: str) -> bool:
    """Whether the worker's own ssh can log in; looks at the host key first."""
    attempt = _log_in(target, password)
    if "Host key verification failed" in attempt or _CHANGED in attempt:
        _add_host_key(target, attempt)
        # Go on with whoever answers: a key's login tells them nothing.
        attempt = _log_in(
            target, "", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null",
            "GlobalKnownHostsFile=/dev/null",
        )  # fmt: skip
    elif "Server host key" in attempt:
        target.add("host key", OK, f"{_host_key(attempt)}, as in {target.known_hosts}")
    accepted = re.search(r'Authenticated to .* using "([^"]+)"', attempt)
    if accepted:
        target.add("login", OK, f"{target.login} may log in ({accepted[1]})")
        return True
    _add_refusal(target, attempt)
    return False


def _log_in(target: Target, password: str, *first: str) -> str:
    """What ssh says on its way in."""
    options = [*first, "StrictHostKeyChecking=yes", f"ConnectTimeout={PATIENCE:.0f}"]
    options += ["ControlPath=none", "UpdateHostKeys=no"]
    environment: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        if password:
            program = os.path.join(folder, "askpass")
            with open(program, "w", encoding="utf-8") as file:
                file.write('#!/bin/sh\nprintf "%s\\n" "$SSHFS_DOCTOR_PASSWORD"\n')
            os.chmod(program, 0o700)
            environment = {
                "SSH_ASKPASS": program, "SSH_ASKPASS_REQUIRE": "force", "DISPLAY": "none",
                "SSHFS_DOCTOR_PASSWORD": password,
            }  # fmt: skip
            options += ["NumberOfPasswordPrompts=1"]
        else:
            options += ["BatchMode=yes"]
        arguments = target.ssh_arguments(*options)
        return run(
            "ssh", "-v", "-T", *arguments, target.login, "echo sshfs-doctor",
            seconds=3 * PATIENCE, **environment,
        ).stderr  # fmt: skip


def _host_key(attempt: str) -> str:
    match = re.search(r"Server host key: (\S+ \S+)", attempt)
    return match[1] if match else "?"


def _add_host_key(target: Target, attempt: str) -> None:
    port = target.configured("port", "22")
    host, known = quote(target.server), quote(target.known_hosts)
    learn = f"ssh-keyscan -p {port} {host} >> {known}"
    compare = "ssh-keygen -lf keys/ssh_host_ed25519_key.pub    # on the server: is it the same?"
    if _CHANGED in attempt:
        where = re.search(r"Offending \S+ key in (\S+)", attempt)
        target.add(
            "host key", PROBLEM,
            f"the server shows another key than {where[1] if where else target.known_hosts} has: "
            f"{_host_key(attempt)}",
            "The server was set up anew and has lost its host key, or it is not the server. Put "
            "the old key back there (keys/README.md), or, if that is the right new one:",
            compare, f"ssh-keygen -R {quote(target.host_name)} -f {known}", learn,
        )  # fmt: skip
    elif _UNKNOWN.search(attempt):
        target.add(
            "host key", PROBLEM, f"{target.known_hosts} does not have it: {_host_key(attempt)}",
            "ssh asks before it trusts a new server, and a mount has nobody to ask: 'Host key "
            "verification failed.' Take the key down, and compare it.",
            learn, compare,
        )  # fmt: skip
    else:
        target.add("host key", PROBLEM, last_line(attempt), "", learn, compare)


def _add_refusal(target: Target, attempt: str) -> None:
    said = last_line(attempt)
    if "Permission denied" not in attempt:
        means = "The connection ended before the login was decided; the server's log has why."
        if "no matching" in attempt:
            means = (
                "This ssh is too old or too restricted for the server; its log says what would "
                "help: negotiation_failed."
            )
        elif "Too many authentication failures" in attempt:
            means = "ssh tries all keys of the agent first: mount with -o IdentitiesOnly=yes."
        target.add("login", PROBLEM, said, means)
        return
    methods = re.findall(r"Authentications that can continue: (\S+)", attempt)
    offered = re.findall(r"Offering public key: (\S+) .*?(SHA256:\S+)", attempt)
    log = (
        "docker-compose logs --no-log-prefix sftp-gateway | grep login_refused | tail -n 3"
        "    # on the server: why"
    )
    do = [log]
    if offered:
        path, fingerprint = offered[-1]
        means = f"The server does not take the key {path} ({fingerprint}) for {target.user}."
        do += [
            f"sftp-gateway keys list | grep {fingerprint}    # on the server: is it there?",
            f"sftp-gateway keys add {target.user or 'USER'} {quote(os.path.basename(path))}.pub"
            "    # on the server, with the worker's .pub file",
        ]
    elif "password" in ",".join(methods[-1:]):
        means = (
            "No key was tried, but a password would be taken: mount with -o password_stdin. "
            "--password-stdin tries one here."
        )
    else:
        means = "ssh had no key to try. See 'key' above; --key FILE names one."
    target.add("login", PROBLEM, said, means, *do)


def check_folder(target: Target) -> None:
    """Whether there is something to mount at the path."""
    path = target.path or "."
    options = ["StrictHostKeyChecking=yes", "BatchMode=yes", "ControlPath=none"]
    with tempfile.NamedTemporaryFile("w", suffix=".sftp") as batch:
        batch.write(f'ls -1a "{path}"\n')
        batch.flush()
        ran = run("sftp", "-b", batch.name, *target.ssh_arguments(*options), target.login)
    names = [os.path.basename(line.strip()) for line in ran.stdout.splitlines()[1:]]
    names = [name for name in names if name not in (".", "..")]
    if ran.returncode:
        target.add(
            "folder", PROBLEM, f"{path}: {last_line(ran.stderr)}",
            f"The server has no such folder for {target.user}: a share that is not configured, or "
            "not granted. `SERVER:` mounts all that there are.",
            "sftp-gateway check    # on the server: shares and users",
        )  # fmt: skip
    elif not names:
        target.add(
            "folder", WARNING, f"{path} is empty",
            "The share's folder is empty on the server too, or the wrong one is served.",
        )  # fmt: skip
    else:
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        target.add("folder", OK, f"{path} has {', '.join(names[:5])}{more}")
