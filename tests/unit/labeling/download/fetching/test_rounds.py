"""Many URLs at once, few of one host, and retryable failures again."""

import contextlib
import itertools
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler

import pytest

from labeling.config import DownloadConfig, DownloadWorkers
from labeling.download.fetching.fetch import Fetcher
from labeling.download.fetching.fetch_result import FetchedBody, FetchFailure, FetchResult
from labeling.download.fetching.rounds import Fetch, FetchQueue, PendingUrl, fetch_all
from labeling.sdd.schema import ListedUrl
from tests import factories
from tests.processes import PATIENCE_S
from tests.web import page, serving

CONFIG = DownloadConfig(allow_private_hosts=True, backoff_s=0.05, timeout_s=PATIENCE_S)
WORKERS = DownloadWorkers(threads=8, per_host=8)


def answers(
    urls: list[str], fetch: Fetch, config: DownloadConfig = CONFIG, workers: DownloadWorkers = WORKERS
) -> dict[str, FetchResult]:
    listed = [factories.listed(i, url) for i, url in enumerate(urls)]
    found = list(fetch_all(listed, fetch, config, workers))
    assert len(found) == len(urls), "each URL has one answer"
    return {url.url: answer for url, answer in found}


def test_a_server_that_fails_twice_and_then_answers() -> None:
    with serving() as site:
        moments: list[float] = []

        def shaky(handler: object) -> None:
            moments.append(time.monotonic())
            page(b"at last", 200 if len(moments) == 3 else 503)(handler)  # type: ignore[arg-type]

        site.pages |= {"/shaky": shaky, "/gone": page(status=404), "/broken": page(status=500), "/a": page(b"a")}
        urls = [site.url(path) for path in ("/shaky", "/gone", "/broken", "/a")]
        found = answers(urls, Fetcher(CONFIG).fetch)
        hits = Counter(site.hits)
    assert found[urls[0]] == FetchedBody(b"at last")
    assert [getattr(found[url], "reason", None) for url in urls] == [None, "http_404", "http_500", None]
    assert hits == {"/shaky": 3, "/gone": 1, "/broken": CONFIG.rounds, "/a": 1}
    assert moments[1] - moments[0] >= 0.05
    assert moments[2] - moments[1] >= 0.1, "the wait doubles"


@pytest.mark.parametrize(("asked", "tries"), [(0.2, 2), (61.0, 1)])
def test_retry_after_is_obeyed_or_the_url_not_retried(asked: float, tries: int) -> None:
    moments: list[float] = []

    def fetch(url: str) -> FetchResult:
        moments.append(time.monotonic())
        return FetchFailure("http_429", retry_after_s=asked)

    found = answers(["http://a.example/"], fetch, CONFIG.model_copy(update={"rounds": 2}))
    assert found["http://a.example/"] == FetchFailure("http_429", retry_after_s=asked)
    assert len(moments) == tries
    assert all(later - earlier >= asked for earlier, later in itertools.pairwise(moments))


def test_few_urls_of_one_host_at_once_while_others_go_on() -> None:
    lock, busy, most, others = threading.Lock(), Counter[str](), Counter[str](), threading.Event()

    def fetch(url: str) -> FetchResult:
        host = url.split("/")[2]
        with lock:
            busy[host] += 1
            busy["all"] += 1
            for name in (host, "all"):
                most[name] = max(most[name], busy[name])
            if most["all"] > 2:
                others.set()
        if host != "hot.example":
            assert others.wait(PATIENCE_S), "the threads that the hot host does not get serve others"
        time.sleep(0.01)
        with lock:
            busy[host] -= 1
            busy["all"] -= 1
        return FetchedBody(b"")

    urls = [f"http://HOT.example/{i}".replace("HOT", "hot" if i % 2 else "Hot") for i in range(60)]
    urls += [f"http://h{i}.example/" for i in range(30)]
    seen = answers(urls, lambda url: fetch(url.lower()), workers=DownloadWorkers(threads=8, per_host=2))
    assert len(seen) == 90
    assert most["hot.example"] == 2, "case does not make another host"


def test_results_wait_for_the_caller() -> None:
    begun: list[str] = []

    def fetch(url: str) -> FetchResult:
        begun.append(url)
        return FetchedBody(bytes(1000))

    listed: list[ListedUrl] = [factories.listed(i) for i in range(200)]
    reading = fetch_all(listed, fetch, CONFIG, DownloadWorkers(threads=4, per_host=200))
    next(reading)
    time.sleep(0.2)
    assert len(begun) <= 1 + 4 + 4, "one read, four waiting, four in the hands of threads"
    reading.close()
    assert threading.active_count() < 50
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("fetch")]


def test_a_url_that_comes_due_between_two_readings_of_the_clock_is_not_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.chain([9.9999999], itertools.repeat(10.0000001))
    monkeypatch.setattr("labeling.download.fetching.rounds.time.monotonic", lambda: next(clock))
    waits: list[float | None] = []
    pending = FetchQueue([PendingUrl(factories.listed(0), "host", due=10.0)], CONFIG, per_host=1)
    monkeypatch.setattr(pending._changed, "wait", waits.append)
    assert pending.take() is not None
    assert None not in waits


def test_a_thread_that_cannot_start_raises_and_leaves_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    begin, begun = threading.Thread.start, itertools.count()

    def start(thread: threading.Thread) -> None:
        if thread.name.startswith("fetch") and next(begun) == 2:
            raise RuntimeError("can't start new thread")
        begin(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    listed = [factories.listed(i) for i in range(50)]
    with pytest.raises(RuntimeError, match="can't start new thread"):
        list(fetch_all(listed, lambda url: FetchedBody(b""), CONFIG, DownloadWorkers(threads=4, per_host=50)))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("fetch")]


@contextmanager
def black_hole() -> Iterator[int]:
    """The port of a server that accepts connections and never answers."""
    connections: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connections.append(server.accept()[0])

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()
            for connection in connections:
                connection.close()


def test_a_host_that_never_answers_is_given_up_while_others_go_on() -> None:
    config = CONFIG.model_copy(update={"timeout_s": 0.1, "host_failures": 4, "host_pause_s": 0.05})
    real = Fetcher(config, lambda host, port: ["127.0.0.1"])
    good = [f"http://good.example/{i}" for i in range(20)]
    asked: list[str] = []

    def fetch(url: str) -> FetchResult:
        if url in good:
            return FetchedBody(b"")
        asked.append(url)
        return real.fetch(url)

    with black_hole() as port:
        dead = [f"http://dead.example:{port}/{i}" for i in range(200)]
        found = answers(dead + good, fetch, config, DownloadWorkers(threads=8, per_host=4))
    assert [found[url] for url in good] == [FetchedBody(b"")] * 20
    reasons = Counter(getattr(found[url], "reason", "fetched") for url in dead)
    assert len(asked) <= 4 + (4 - 1) + (config.rounds - 1), "not one for each URL and round"
    assert set(reasons) == {"host_unreachable", "timeout"}
    assert reasons["timeout"] <= len(asked), "the others were not asked for"


def test_a_url_that_was_fetched_keeps_its_own_failure_when_its_host_is_given_up() -> None:
    config = CONFIG.model_copy(update={"host_failures": 2, "host_pause_s": 0.01, "rounds": 2, "backoff_s": 60.0})
    urls = [f"http://a.example/{i}" for i in range(5)]
    found = answers(urls, lambda url: FetchFailure("timeout", url), config, DownloadWorkers(threads=1, per_host=1))
    assert [found[url] for url in urls[:3]] == [FetchFailure("timeout", url) for url in urls[:3]]
    assert [getattr(found[url], "reason", None) for url in urls[3:]] == ["host_unreachable"] * 2


def test_a_host_that_recovers_gets_its_urls_fetched() -> None:
    """Down for four failures and the first try after the pause."""
    config = CONFIG.model_copy(update={"host_failures": 4, "host_pause_s": 0.05})
    hits = itertools.count()

    def down_at_first(handler: BaseHTTPRequestHandler) -> None:
        if next(hits) >= 5:
            page(b"back")(handler)

    with serving({"*": down_at_first}) as site:
        urls = [site.url(f"/{i}") for i in range(20)]
        found = answers(urls, Fetcher(config).fetch, config, DownloadWorkers(threads=1, per_host=1))
        assert set(found.values()) == {FetchedBody(b"back")}
        assert sum(site.hits.values()) == 25


def test_no_urls() -> None:
    assert answers([], Fetcher(CONFIG).fetch) == {}
