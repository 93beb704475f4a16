"""HTTP client of the running gateway: whether it is ready, and what it serves."""

from __future__ import annotations

import http.client
import json
from collections import Counter
from http import HTTPStatus
from typing import Final

from sftp_gateway.config.grants import Grants, removed_grants
from sftp_gateway.settings import Settings

#: Seconds that an answer may take.
_TIMEOUT: Final = 5.0


def host(settings: Settings) -> str:
    """The address of its HTTP endpoint, from this machine."""
    return settings.metrics_host if settings.metrics_host not in ("", "0.0.0.0") else "127.0.0.1"


def get(settings: Settings, path: str, token: str | None = None) -> tuple[int, str]:
    """Status and body of a GET. Raises OSError if there is no answer."""
    connection = http.client.HTTPConnection(host(settings), settings.metrics_port, timeout=_TIMEOUT)
    try:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    except http.client.HTTPException as error:
        raise OSError(f"the answer is not HTTP: {error}") from error
    finally:
        connection.close()


def describe(error: Exception) -> str:
    """Why a connection failed, for people."""
    if isinstance(error, ConnectionRefusedError):
        return "connection refused: the gateway does not run, or listens elsewhere"
    return str(error) or "no answer"


def ready(settings: Settings) -> tuple[bool, str]:
    """Whether the running gateway serves all shares with its newest configuration, and its answer
    or why there is none."""
    try:
        status, body = get(settings, "/readyz")
    except OSError as error:
        return False, f"{host(settings)} port {settings.metrics_port}: {describe(error)}"
    good = status == HTTPStatus.OK and _config_state(body) == "ok"
    return good, f"{status}: {body.strip()}"


def refusal(settings: Settings) -> list[str]:
    """A sentence if the running gateway rejects its configuration."""
    try:
        state = _config_state(get(settings, "/readyz")[1])
    except OSError:
        return []
    return [] if state in ("", "ok") else [f"The running gateway's newest configuration: {state}"]


def _config_state(readiness: str) -> str:
    """What the body of /readyz says about the newest configuration; "" if it does not."""
    try:
        return str(json.loads(readiness)["configuration"])
    except (ValueError, KeyError, TypeError):
        return ""


def differences(settings: Settings, served: Grants, token: str | None) -> list[str]:
    """What the running gateway serves and a reload would take away, a sentence for each kind; or
    why there is no comparison."""
    try:
        status, body = get(settings, "/status.json", token)
    except OSError:
        return ["No running gateway to compare with."]
    if status != HTTPStatus.OK:
        return [f"The running gateway does not tell what it serves: {status} for /status.json."]
    try:
        told = json.loads(body)
        sessions = Counter((each["user"], each["credential"]) for each in told["sessions"])
        lost = removed_grants(Grants.from_json(told["served"]), served, sessions)
    except (ValueError, KeyError, TypeError):
        return ["The running gateway has another version; not compared."]
    return [f"Compared with the running gateway, {said}" for said in lost.sentences()] or [
        "Compared with the running gateway, nothing would be taken away."
    ]
