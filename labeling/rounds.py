"""Fetches the URLs of a shard: many at once, few of one host, and again what failed for a passing reason."""

import contextlib
import queue
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeAlias

from labeling.config import DownloadConfig, DownloadWorkers
from labeling.fetch import Fetched, NotFetched, host_of, is_passing
from labeling.sdd.schema import ListedUrl


@dataclass(frozen=True, slots=True)
class Turn:
    """A URL that waits to be fetched."""

    listed: ListedUrl
    host: str
    due: float = 0.0
    """Moment of the monotonic clock before which it must not be fetched."""
    tries: int = 0


Answers: TypeAlias = "queue.Queue[tuple[Turn, Fetched | NotFetched]]"


class Turns:
    """Hands out URLs that are due, and of one host at most `per_host` at a time; for many threads."""

    def __init__(self, turns: Sequence[Turn], per_host: int) -> None:
        self._waiting = list(turns)
        self._per_host = per_host
        self._busy: Counter[str] = Counter()
        self._closed = False
        self._changed = threading.Condition()

    def take(self) -> Turn | None:
        """The next URL whose turn it is; waits for one, and gives None when nothing more will come."""
        with self._changed:
            while not self._closed:
                now = time.monotonic()  # once: what comes due between two looks would be seen by neither
                if (place := self._ready(now)) is not None:
                    turn = self._waiting.pop(place)
                    self._busy[turn.host] += 1
                    return turn
                self._changed.wait(self._until_due(now))
            return None

    def done(self, turn: Turn) -> None:
        """The host of a URL that was taken is free again."""
        with self._changed:
            self._busy[turn.host] -= 1
            self._changed.notify()

    def put_back(self, turn: Turn) -> None:
        """The URL is to be fetched again when it is due."""
        with self._changed:
            self._waiting.append(turn)
            self._changed.notify()

    def close(self) -> None:
        """Nothing more will come: whoever waits is let go."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _ready(self, now: float) -> int | None:
        free = (i for i, t in enumerate(self._waiting) if t.due <= now and self._busy[t.host] < self._per_host)
        return next(free, None)

    def _until_due(self, now: float) -> float | None:
        """Seconds until a URL comes due; None if none will by time alone."""
        return min((turn.due - now for turn in self._waiting if turn.due > now), default=None)


def fetch_all(
    urls: Sequence[ListedUrl],
    fetch: Callable[[str], Fetched | NotFetched],
    config: DownloadConfig,
    workers: DownloadWorkers,
) -> Generator[tuple[ListedUrl, Fetched | NotFetched]]:
    """Each URL once, with its last answer, as they come in.

    No more answers than threads wait for the caller, so bodies do not pile up in memory.
    """
    turns = Turns([Turn(url, host_of(url.url)) for url in urls], workers.per_host)
    answers: Answers = queue.Queue(workers.threads)
    left, threads = len(urls), min(workers.threads, len(urls))
    with ThreadPoolExecutor(max(1, threads), thread_name_prefix="fetch") as pool:
        working: list[Future[None]] = []
        try:
            for _ in range(threads):
                working.append(pool.submit(_work, turns, fetch, answers))  # all of them, or some
            while left:
                turn, answer = answers.get()
                if again := _again(turn, answer, config):
                    turns.put_back(again)
                    continue
                left -= 1
                yield turn.listed, answer
        finally:
            turns.close()
            while not all(future.done() for future in working):  # a full queue would hold the threads
                with contextlib.suppress(queue.Empty):
                    answers.get(timeout=0.05)


def _work(turns: Turns, fetch: Callable[[str], Fetched | NotFetched], answers: Answers) -> None:
    while turn := turns.take():
        answer = fetch(turn.listed.url)
        turns.done(turn)
        answers.put((turn, answer))


def _again(turn: Turn, answer: Fetched | NotFetched, config: DownloadConfig) -> Turn | None:
    """The next try of a URL; None if its answer is final in this run."""
    tries = turn.tries + 1
    if isinstance(answer, Fetched) or not is_passing(answer.reason) or tries >= config.rounds:
        return None
    asked = answer.retry_after_s or 0.0
    if asked > config.max_wait_s:
        return None
    wait = max(asked, config.backoff_s * 2**turn.tries) * random.uniform(1.0, 1.5)  # so that a host's URLs spread
    return Turn(turn.listed, turn.host, time.monotonic() + wait, tries)
