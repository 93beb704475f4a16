import dataclasses
import time

import pytest

from sftp_gateway.observability.access_log.events import (
    EVENTS,
    Connection,
    Event,
    LoginAccepted,
    Session,
)


def subclasses(cls: type) -> set[type]:
    return {cls, *(found for sub in cls.__subclasses__() for found in subclasses(sub))}


def test_every_kind_of_event_is_listed_once():
    # By name: a dataclass with slots is created twice, and the first lives until collected.
    ours = {kind for kind in subclasses(Event) if kind.__module__ == Event.__module__}
    made = {kind.__name__ for kind in ours} - {"Event", "SessionEvent"}
    assert {kind.__name__ for kind in EVENTS} == made
    assert len(EVENTS) == len(made)


def test_event_names_are_stable():
    assert [kind.name for kind in EVENTS] == [
        "connection",
        "login_accepted",
        "login_refused",
        "negotiation_failed",
        "credentials_removed",
        "session_end",
        "file_opened",
        "file_closed",
        "read_failed",
        "folder_listed",
        "denied",
        "command_refused",
        "command_answered",
        "request",
        "events_suppressed",
        "log_dropped",
        "server_started",
        "server_stopping",
        "server_stopped",
        "worker_started",
        "worker_outdated",
        "worker_exited",
        "connections_refused",
        "source_banned",
        "source_unbanned",
        "configuration_reloaded",
        "configuration_refused",
    ]


def test_an_event_has_its_creation_time_by_default():
    session = Session(session="0" * 16, client_ip="192.0.2.1", client_port=1)
    before = time.time()
    assert before <= Connection(session=session).time <= time.time()
    assert Connection(session=session, time=12.5).time == 12.5


def test_replacing_a_session_keeps_earlier_events_unchanged():
    session = Session(session="0" * 16, client_ip="192.0.2.1", client_port=1)
    connection = Connection(session=session)
    session = dataclasses.replace(session, user="gvpocr", auth="password")
    assert connection.session.user is None
    assert LoginAccepted(session=session).session.user == "gvpocr"


@pytest.mark.parametrize("kind", EVENTS, ids=lambda kind: kind.name)
def test_events_are_frozen_slotted_and_keyword_only(kind):
    parameters = kind.__dataclass_params__
    assert parameters.frozen
    assert "__dict__" not in dir(kind)
    assert all(field.kw_only for field in dataclasses.fields(kind))
