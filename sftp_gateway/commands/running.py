"""Asks the gateway that runs with these settings, over HTTP: what it serves, and how it is."""

from __future__ import annotations

import http.client
import json
from collections import Counter
from http import HTTPStatus
from typing import Final

from sftp_gateway.config.credentials import Served, removal
from sftp_gateway.settings import Settings

#: Seconds that it has to answer.
_PATIENCE: Final = 5.0


def host(settings: Settings) -> str:
    """Where its HTTP endpoint is."""
    return settings.metrics_host if settings.metrics_host not in ("", "0.0.0.0") else "127.0.0.1"


def get(settings: Settings, path: str, token: str | None = None) -> tuple[int, str]:
    """Status and body of a GET. Raises OSError where nothing answers."""
    connection = http.client.HTTPConnection(
        host(settings), settings.metrics_port, timeout=_PATIENCE
    )
    try:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    except http.client.HTTPException as error:
        raise OSError(f"no answer that is HTTP: {error}") from error
    finally:
        connection.close()


def refusal(settings: Settings) -> list[str]:
    """A sentence if the running gateway refuses its configuration."""
    try:
        state = str(json.loads(get(settings, "/readyz")[1])["configuration"])
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [] if state == "ok" else [f"The running gateway's newest configuration: {state}"]


def differences(settings: Settings, served: Served, token: str | None) -> list[str]:
    """What would not be `served` any more that the running gateway serves: a sentence for each
    kind; or that it could not be asked."""
    try:
        status, body = get(settings, "/status.json", token)
    except OSError:
        return ["No running gateway was found to compare with."]
    if status != HTTPStatus.OK:
        return [f"The running gateway does not say what it serves: {status} for /status.json."]
    try:
        told = json.loads(body)
        sessions = Counter((each["user"], each["credential"]) for each in told["sessions"])
        lost = removal(Served.from_json(told["served"]), served, sessions)
    except (ValueError, KeyError, TypeError):
        return ["The running gateway is of another version, and was not compared with."]
    return [f"Compared with the running gateway, {said}" for said in lost.sentences()] or [
        "Whatever the running gateway serves is served by this configuration too."
    ]
