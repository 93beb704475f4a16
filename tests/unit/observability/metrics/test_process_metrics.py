import platform

import pytest
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families

from sftp_gateway.observability.access_log.events import ServerStopped
from sftp_gateway.observability.access_log.log import AccessLog
from sftp_gateway.observability.vocabulary import NO_SHARE
from tests.support.measured import Measured


@pytest.fixture
def metrics(measured):
    return measured.metrics


@pytest.fixture
def measured():
    measured = Measured(build={"asyncssh": "2.24.1"})
    yield measured
    measured.close()


def samples(measured):
    _content_type, body = measured.render()
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }


def value(measured, name, **labels):
    return samples(measured).get(("sftp_gateway_" + name, *sorted(labels.items())))


def test_connections_and_sessions_rise_and_fall(metrics, measured):
    for _ in range(3):
        metrics.connection_opened()
    metrics.connection_closed()
    metrics.session_opened()
    metrics.session_opened()
    metrics.session_closed()
    assert value(measured, "connections") == 2
    assert value(measured, "connections_accepted_total") == 3
    assert value(measured, "sessions") == 1


def test_logins_are_counted_by_outcome(metrics, measured):
    metrics.login("accepted", "publickey", "accepted")
    metrics.login("refused", "password", "wrong_password")
    metrics.login("refused", "password", "wrong_password")
    one = {"result": "accepted", "method": "publickey", "reason": "accepted"}
    other = {"result": "refused", "method": "password", "reason": "wrong_password"}
    assert value(measured, "logins_total", **one) == 1
    assert value(measured, "logins_total", **other) == 2


def test_strings_from_clients_never_become_labels(metrics, measured):
    for number in range(50):
        word = f'evil{number}"}} 1\n'
        metrics.login(word, word, word)
        metrics.denied(word)
        metrics.command_refused(word)
        metrics.request_done(NO_SHARE, word, word, 0.001)
    _content_type, body = measured.render()
    assert b"evil" not in body
    others = {"result": "other", "method": "other", "reason": "other"}
    assert value(measured, "logins_total", **others) == 50
    assert value(measured, "denied_total", reason="other") == 50
    assert value(measured, "commands_refused_total", kind="other") == 50


def test_requests_bytes_and_slow_reads_are_counted_by_share(metrics, measured):
    metrics.request_done("Bhushanji", "read", "ok", 0.0002, 32768)
    metrics.request_done(NO_SHARE, "readdir", "ok", 0.0001)
    metrics.slow_read("Bhushanji")
    read = {"share": "Bhushanji", "operation": "read"}
    assert value(measured, "requests_total", **read, result="ok") == 1
    assert value(measured, "bytes_sent_total", share="Bhushanji") == 32768
    assert value(measured, "request_duration_seconds_bucket", **read, le="0.00025") == 1
    assert value(measured, "requests_total", share="-", operation="readdir", result="ok") == 1
    assert value(measured, "slow_reads_total", share="Bhushanji") == 1


def test_handles_are_counted_by_kind_from_the_start(metrics, measured):
    assert value(measured, "open_handles", kind="folder") == 0
    metrics.handle_opened("file")
    metrics.handle_opened("file")
    metrics.handle_closed("file")
    assert value(measured, "open_handles", kind="file") == 1


def test_denials_and_refused_commands_are_counted(metrics, measured):
    metrics.denied("read_only")
    metrics.command_refused("exec")
    assert value(measured, "denied_total", reason="read_only") == 1
    assert value(measured, "commands_refused_total", kind="exec") == 1


def test_a_share_is_up_or_down(metrics, measured):
    metrics.share_up("models", True)
    assert value(measured, "share_up", share="models") == 1
    metrics.share_up("models", False)
    assert value(measured, "share_up", share="models") == 0


def test_build_info_has_the_versions(metrics, measured):
    labels = {"version": "1.2.3", "python": platform.python_version(), "asyncssh": "2.24.1"}
    assert value(measured, "build_info", **labels) == 1


def test_the_counters_of_the_access_log_are_published(metrics, measured):
    log = AccessLog(sinks=[])
    metrics.watch_access_log(log)
    assert value(measured, "access_log_dropped_total") == 0
    log.close(60)
    log.emit(ServerStopped())
    assert value(measured, "access_log_dropped_total") == 1
    assert value(measured, "access_log_queue_depth") == 0
    assert value(measured, "access_log_write_errors_total") == 0
    assert value(measured, "access_log_lines_lost_total") == 0


def test_the_depths_of_io_pools_are_published(metrics, measured):
    depths = {}
    metrics.watch_pools(lambda: depths)
    depths["models", "read"] = 3
    assert value(measured, "slow_lane_depth", share="models", lane="read") == 3
    depths["models", "read"] = 0
    assert value(measured, "slow_lane_depth", share="models", lane="read") == 0


def test_metrics_of_two_gateways_are_separate(metrics, measured):
    other = Measured()
    metrics.session_opened()
    assert value(measured, "sessions") == 1
    assert value(other, "sessions") == 0
    other.close()
    assert not [m for m in REGISTRY.collect() if m.name.startswith("sftp_gateway")]


def test_the_format_is_prometheus_text_without_created_samples(metrics, measured):
    metrics.login("accepted", "publickey", "accepted")
    content_type, body = measured.render()
    assert content_type == "text/plain; version=0.0.4; charset=utf-8"
    assert b"_created" not in body


def test_share_names_are_escaped(metrics, measured):
    metrics.share_up('a"b\\c', True)
    assert value(measured, "share_up", share='a"b\\c') == 1
