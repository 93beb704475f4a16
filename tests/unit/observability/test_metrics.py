import platform

import pytest
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families

from sftp_gateway.observability import NO_SHARE, AccessLog, Metrics, ServerStopped


@pytest.fixture
def metrics():
    return Metrics(version="1.2.3", build={"asyncssh": "2.24.1"})


def samples(metrics):
    _content_type, body = metrics.render()
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }


def value(metrics, name, **labels):
    return samples(metrics).get(("sftp_gateway_" + name, *sorted(labels.items())))


def test_connections_and_sessions_rise_and_fall(metrics):
    for _ in range(3):
        metrics.connection_opened()
    metrics.connection_closed()
    metrics.session_opened()
    metrics.session_opened()
    metrics.session_closed()
    assert value(metrics, "connections") == 2
    assert value(metrics, "connections_accepted_total") == 3
    assert value(metrics, "sessions") == 1


def test_logins_are_counted_by_outcome(metrics):
    metrics.login("accepted", "publickey", "accepted")
    metrics.login("refused", "password", "wrong_password")
    metrics.login("refused", "password", "wrong_password")
    one = {"result": "accepted", "method": "publickey", "reason": "accepted"}
    other = {"result": "refused", "method": "password", "reason": "wrong_password"}
    assert value(metrics, "logins_total", **one) == 1
    assert value(metrics, "logins_total", **other) == 2


def test_words_of_clients_never_become_labels(metrics):
    for number in range(50):
        word = f'evil{number}"}} 1\n'
        metrics.login(word, word, word)
        metrics.denied(word)
        metrics.command_refused(word)
        metrics.request_done(NO_SHARE, word, word, 0.001)
    _content_type, body = metrics.render()
    assert b"evil" not in body
    others = {"result": "other", "method": "other", "reason": "other"}
    assert value(metrics, "logins_total", **others) == 50
    assert value(metrics, "denied_total", reason="other") == 50
    assert value(metrics, "commands_refused_total", kind="other") == 50


def test_requests_bytes_and_slow_reads_are_counted_by_share(metrics):
    metrics.request_done("Bhushanji", "read", "ok", 0.0002, 32768)
    metrics.request_done(NO_SHARE, "readdir", "ok", 0.0001)
    metrics.slow_read("Bhushanji")
    read = {"share": "Bhushanji", "operation": "read"}
    assert value(metrics, "requests_total", **read, result="ok") == 1
    assert value(metrics, "bytes_sent_total", share="Bhushanji") == 32768
    assert value(metrics, "request_duration_seconds_bucket", **read, le="0.00025") == 1
    assert value(metrics, "requests_total", share="-", operation="readdir", result="ok") == 1
    assert value(metrics, "slow_reads_total", share="Bhushanji") == 1


def test_handles_are_counted_by_kind_and_are_there_from_the_start(metrics):
    assert value(metrics, "open_handles", kind="folder") == 0
    metrics.handle_opened("file")
    metrics.handle_opened("file")
    metrics.handle_closed("file")
    assert value(metrics, "open_handles", kind="file") == 1


def test_denials_and_refused_commands_are_counted(metrics):
    metrics.denied("read_only")
    metrics.command_refused("exec")
    assert value(metrics, "denied_total", reason="read_only") == 1
    assert value(metrics, "commands_refused_total", kind="exec") == 1


def test_a_share_is_up_or_down(metrics):
    metrics.share_up("models", True)
    assert value(metrics, "share_up", share="models") == 1
    metrics.share_up("models", False)
    assert value(metrics, "share_up", share="models") == 0


def test_build_info_tells_the_versions(metrics):
    labels = {"version": "1.2.3", "python": platform.python_version(), "asyncssh": "2.24.1"}
    assert value(metrics, "build_info", **labels) == 1


def test_the_access_log_is_asked_whenever_metrics_are_read(metrics):
    log = AccessLog(sinks=[])
    metrics.watch_access_log(log)
    assert value(metrics, "access_log_dropped_total") == 0
    log.close(60)
    log.emit(ServerStopped())
    assert value(metrics, "access_log_dropped_total") == 1
    assert value(metrics, "access_log_queue_depth") == 0
    assert value(metrics, "access_log_write_errors_total") == 0
    assert value(metrics, "access_log_lines_lost_total") == 0


def test_lanes_are_asked_whenever_metrics_are_read(metrics):
    depths = {}
    metrics.watch_lanes(lambda: depths)
    depths["models", "read"] = 3
    assert value(metrics, "slow_lane_depth", share="models", lane="read") == 3
    depths.clear()
    assert value(metrics, "slow_lane_depth", share="models", lane="read") is None


def test_the_process_is_measured(metrics):
    assert samples(metrics)[("process_resident_memory_bytes",)] > 0


def test_nothing_is_in_the_global_registry_and_two_gateways_do_not_meet(metrics):
    other = Metrics(version="1.2.3")
    metrics.session_opened()
    assert value(other, "sessions") == 0
    assert not [m for m in REGISTRY.collect() if m.name.startswith("sftp_gateway")]


def test_the_format_is_prometheus_text_without_created_series(metrics):
    metrics.login("accepted", "publickey", "accepted")
    content_type, body = metrics.render()
    assert content_type == "text/plain; version=0.0.4; charset=utf-8"
    assert b"_created" not in body


def test_names_of_shares_are_escaped(metrics):
    metrics.share_up('a"b\\c', True)
    assert value(metrics, "share_up", share='a"b\\c') == 1
