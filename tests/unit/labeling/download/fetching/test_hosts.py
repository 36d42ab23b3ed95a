"""The circuit breaker of one host, step by step."""

from labeling.config import DownloadConfig
from labeling.download.fetching.fetch_result import FetchedBody, FetchFailure, is_retryable
from labeling.download.fetching.hosts import Host
from tests.factories import key

CONFIG = DownloadConfig(host_failures=3, host_pause_s=10.0, rounds=2)
TIMEOUT, GOOD = FetchFailure("timeout", "not done within 20 s"), FetchedBody(b"")


def host_with(busy: int) -> Host:
    """A host of which `busy` URLs are being fetched."""
    host = Host(CONFIG, per_host=4)
    for _ in range(busy):
        assert host.has_room(0.0)
        host.begin_fetch()
    return host


def fail(host: Host, urls: int, now: float) -> list[bool]:
    """Answer for this many URLs that they failed; whether each opened the circuit."""
    first = len(host.failed)
    return [host.end_fetch(key(first + i), TIMEOUT, now) for i in range(urls)]


def opened() -> Host:
    """A host whose circuit opened at the moment 0, with nothing under way."""
    host = host_with(busy=3)
    assert fail(host, 3, now=0.0) == [False, False, True]
    return host


def test_as_many_at_once_as_the_host_may_have() -> None:
    host = host_with(busy=4)
    assert not host.has_room(0.0)
    host.end_fetch(key(1), GOOD, 0.0)
    assert host.has_room(0.0)


def test_an_open_circuit_waits_then_lets_one_url_through() -> None:
    host = opened()
    assert not host.has_room(9.9)
    assert host.has_room(10.0)
    host.begin_fetch()
    assert not host.has_room(10.0), "one at a time"


def test_an_answer_closes_the_circuit() -> None:
    for answer in (GOOD, FetchFailure("http_404"), FetchFailure("tls")):
        host = opened()
        host.begin_fetch()
        assert host.end_fetch(key(9), answer, 11.0)
        for _ in range(4):
            assert host.has_room(11.0)
            host.begin_fetch()
        assert fail(host, 3, now=12.0) == [False, False, True], "failures are counted from 0"


def test_a_host_that_fails_again_is_given_up() -> None:
    host = opened()
    assert host.refusal is None
    host.begin_fetch()
    assert fail(host, 1, now=11.0) == [True]
    assert host.refusal == FetchFailure(
        "host_unreachable", "4 URLs in a row failed, the last: timeout: not done within 20 s"
    )
    assert is_retryable(host.refusal.reason), "so `retry_failed` fetches what is left"


def test_fetches_from_before_the_circuit_opened_are_no_probes() -> None:
    host = host_with(busy=4)
    fail(host, 3, now=0.0)
    assert not host.has_room(10.0), "the URL to try with waits for the fourth"
    assert fail(host, 1, now=10.0) == [False]
    assert host.refusal is None
    assert host.has_room(10.0)


def test_a_host_that_redirects_to_hosts_that_fail_is_up() -> None:
    host = host_with(busy=3)
    for number in range(3):
        assert not host.end_fetch(
            key(number), FetchFailure("timeout", "not done within 20 s", after_redirect=True), 0.0
        )
    assert host.has_room(0.0)


def test_failures_between_responses_never_open_the_circuit() -> None:
    host = Host(CONFIG, per_host=4)
    for i, answer in enumerate([TIMEOUT, TIMEOUT, GOOD] * 10):
        host.begin_fetch()
        assert not host.end_fetch(key(i), answer, 0.0)


def test_a_url_that_fails_at_every_try_does_not_open_the_circuit() -> None:
    host = Host(CONFIG, per_host=4)
    for i in range(20):
        host.begin_fetch()
        assert not host.end_fetch(key(i % 2), TIMEOUT, 0.0)
