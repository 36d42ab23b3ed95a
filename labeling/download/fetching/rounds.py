"""Fetches the URLs of a shard: many at once, few of one host, and retryable failures again in later rounds.

A host that does not respond is paused, and given up in the end (`labeling.download.fetching.hosts`).
"""

import contextlib
import queue
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeAlias

from labeling.config import DownloadConfig, DownloadWorkers
from labeling.download.fetching.fetch import host_of
from labeling.download.fetching.fetch_result import FetchedBody, FetchFailure, FetchResult, is_retryable
from labeling.download.fetching.hosts import Host
from labeling.sdd.schema import ListedUrl

Fetch: TypeAlias = Callable[[str], FetchResult]
"""Function that fetches a URL and never raises."""
ResultQueue: TypeAlias = "queue.Queue[tuple[ListedUrl, FetchResult]]"


@dataclass(frozen=True, slots=True)
class PendingUrl:
    """URL that waits to be fetched."""

    listed: ListedUrl
    host: str
    due: float = 0.0
    """Moment of the monotonic clock before which it must not be fetched."""
    tries: int = 0
    """Times that it was fetched."""
    last_failure: FetchFailure | None = None
    """Result of the last try; None before the first."""


class FetchQueue:
    """Queue of the URLs of a shard, which hands out those that are due within the limits of their hosts.

    It is safe to use from many threads.
    """

    def __init__(self, urls: Sequence[PendingUrl], config: DownloadConfig, per_host: int) -> None:
        self._hosts = {url.host: Host(config, per_host) for url in urls}
        self._pending: dict[str, deque[PendingUrl]] = {}
        """URLs by host; a host without any has no entry."""
        for url in urls:
            self._pending.setdefault(url.host, deque()).append(url)
        self._closed = False
        self._changed = threading.Condition()

    def take(self) -> tuple[PendingUrl, FetchFailure | None] | None:
        """Wait for the next URL that is due; return None once the queue is closed.

        Returns:
            The URL, and its failure if its host is given up, so that the URL must not be fetched.
        """
        with self._changed:
            while not self._closed:
                now = time.monotonic()  # read once: between two readings a URL could come due unnoticed
                if (url := self._pop(now)) is not None:
                    host = self._hosts[url.host]
                    if host.refusal:
                        return url, url.last_failure or host.refusal
                    host.begin_fetch()
                    return url, None
                self._changed.wait(self._seconds_until_due(now))
            return None

    def end_fetch(self, url: PendingUrl, result: FetchResult) -> None:
        """Count the result of a URL that was taken."""
        with self._changed:
            changed = self._hosts[url.host].end_fetch(url.listed.key, result, time.monotonic())
            self._changed.notify_all() if changed else self._changed.notify()

    def put(self, url: PendingUrl) -> None:
        """Add a URL for another try."""
        with self._changed:
            self._pending.setdefault(url.host, deque()).append(url)
            self._changed.notify()

    def close(self) -> None:
        """Hand out no more URLs, and wake the threads that wait for one."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _pop(self, now: float) -> PendingUrl | None:
        for name, urls in self._pending.items():
            host = self._hosts[name]
            is_given_up = host.refusal is not None
            if not is_given_up and not host.has_room(now):
                continue
            index = next((i for i, url in enumerate(urls) if is_given_up or url.due <= now), None)
            if index is not None:
                url = urls[index]
                del urls[index]
                if not urls:
                    del self._pending[name]
                return url
        return None

    def _seconds_until_due(self, now: float) -> float | None:
        """Return the seconds until a URL comes due; None if time alone makes none due."""
        moments = (max(url.due, self._hosts[url.host].resumes_at) for urls in self._pending.values() for url in urls)
        return min((moment - now for moment in moments if moment > now), default=None)


def fetch_all(
    urls: Sequence[ListedUrl], fetch: Fetch, config: DownloadConfig, workers: DownloadWorkers
) -> Generator[tuple[ListedUrl, FetchResult]]:
    """Yield the final result of each URL as it completes.

    At most as many results as threads are queued, so bodies do not pile up in memory.
    """
    pending = FetchQueue([PendingUrl(url, host_of(url.url)) for url in urls], config, workers.per_host)
    results: ResultQueue = queue.Queue(workers.threads)
    threads = min(workers.threads, len(urls))
    with ThreadPoolExecutor(max(1, threads), thread_name_prefix="fetch") as pool:
        futures: list[Future[None]] = []
        try:
            for _ in range(threads):
                futures.append(pool.submit(_fetch_pending, pending, fetch, config, results))  # may raise midway
            for _ in urls:
                yield results.get()
        finally:
            pending.close()
            while not all(future.done() for future in futures):  # threads may wait at the full queue
                with contextlib.suppress(queue.Empty):
                    results.get(timeout=0.05)


def _fetch_pending(pending: FetchQueue, fetch: Fetch, config: DownloadConfig, results: ResultQueue) -> None:
    while taken := pending.take():
        url, refusal = taken
        result: FetchResult
        if refusal is None:
            result = fetch(url.listed.url)
            pending.end_fetch(url, result)
            if next_try := _next_try(url, result, config):
                pending.put(next_try)
                continue
        else:
            result = refusal
        results.put((url.listed, result))


def _next_try(url: PendingUrl, result: FetchResult, config: DownloadConfig) -> PendingUrl | None:
    """Return the next try of a URL; None if its result is final in this run."""
    tries = url.tries + 1
    if isinstance(result, FetchedBody) or not is_retryable(result.reason) or tries >= config.rounds:
        return None
    retry_after = result.retry_after_s or 0.0
    if retry_after > config.max_wait_s:
        return None
    backoff = config.backoff_s * 2**url.tries
    wait = max(retry_after, backoff) * random.uniform(1.0, 1.5)  # spreads the URLs of a host
    return PendingUrl(url.listed, url.host, time.monotonic() + wait, tries, result)
