"""Workers that end soon are replaced later and later; others at once."""

from sftp_gateway.process.supervisor.backoff import MAX_DELAY, MIN_UPTIME, RestartBackoff


def test_the_first_is_replaced_at_once_and_those_that_end_soon_later_and_later() -> None:
    restarts = RestartBackoff()
    delays = [restarts.delay_after(0.1) for _ in range(12)]
    assert delays[:5] == [0.0, 0.1, 0.2, 0.4, 0.8]
    assert delays[-1] == MAX_DELAY
    assert delays == sorted(delays)


def test_one_that_lived_is_replaced_at_once_and_all_is_forgotten() -> None:
    restarts = RestartBackoff()
    for _ in range(12):
        restarts.delay_after(0.1)
    assert restarts.delay_after(MIN_UPTIME) == 0.0
    assert restarts.delay_after(0.1) == 0.1
