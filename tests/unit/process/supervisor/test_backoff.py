"""Short-lived workers are replaced with growing delays, others at once."""

from sftp_gateway.process.supervisor.backoff import MAX_DELAY, MIN_UPTIME, RestartBackoff


def test_short_lived_workers_are_replaced_with_growing_delays() -> None:
    restarts = RestartBackoff()
    delays = [restarts.delay_after(0.1) for _ in range(12)]
    assert delays[:5] == [0.0, 0.1, 0.2, 0.4, 0.8]
    assert delays[-1] == MAX_DELAY
    assert delays == sorted(delays)


def test_a_long_lived_worker_resets_the_delay() -> None:
    restarts = RestartBackoff()
    for _ in range(12):
        restarts.delay_after(0.1)
    assert restarts.delay_after(MIN_UPTIME) == 0.0
    assert restarts.delay_after(0.1) == 0.1
