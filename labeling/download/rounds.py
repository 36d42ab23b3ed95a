"""Fetches the URLs of a shard: many at once, few of one host, and again what failed for a passing reason.

A host that does not answer gets a rest, and in the end is given up (`labeling.download.hosts`).
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
from labeling.download.fetch import Fetched, NotFetched, host_of, is_passing
from labeling.download.hosts import Host
from labeling.sdd.schema import ListedUrl


@dataclass(frozen=True, slots=True)
class Turn:
    """A URL that waits to be fetched."""

    listed: ListedUrl
    host: str
    due: float = 0.0
    """Moment of the monotonic clock before which it must not be fetched."""
    tries: int = 0
    last: NotFetched | None = None
    """The answer for the last try."""


Answers: TypeAlias = "queue.Queue[tuple[ListedUrl, Fetched | NotFetched]]"


class Turns:
    """Hands out URLs that are due, each host's within its limits; for many threads."""

    def __init__(self, turns: Sequence[Turn], config: DownloadConfig, per_host: int) -> None:
        self._hosts = {turn.host: Host(config, per_host) for turn in turns}
        self._waiting: dict[str, deque[Turn]] = {}
        """By host, without the hosts that have none."""
        for turn in turns:
            self._waiting.setdefault(turn.host, deque()).append(turn)
        self._closed = False
        self._changed = threading.Condition()

    def take(self) -> tuple[Turn, Fetched | NotFetched | None] | None:
        """Wait for the next URL whose turn it is; None when nothing more will come.

        Returns:
            The URL and, where its host was given up, its answer: it is not to be fetched.
        """
        with self._changed:
            while not self._closed:
                now = time.monotonic()  # once: what comes due between two looks would be seen by neither
                if (turn := self._pop(now)) is not None:
                    host = self._hosts[turn.host]
                    if host.refusal:
                        return turn, turn.last or host.refusal
                    host.begin()
                    return turn, None
                self._changed.wait(self._until_due(now))
            return None

    def done(self, turn: Turn, answer: Fetched | NotFetched) -> None:
        """A URL that was fetched has this answer."""
        with self._changed:
            changed = self._hosts[turn.host].end(turn.listed.key, answer, time.monotonic())
            self._changed.notify_all() if changed else self._changed.notify()

    def put_back(self, turn: Turn) -> None:
        """The URL is to be fetched again when it is due."""
        with self._changed:
            self._waiting.setdefault(turn.host, deque()).append(turn)
            self._changed.notify()

    def close(self) -> None:
        """Nothing more will come: whoever waits is let go."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _pop(self, now: float) -> Turn | None:
        for name, turns in self._waiting.items():
            host = self._hosts[name]
            is_given_up = host.refusal is not None
            if not is_given_up and not host.has_room(now):
                continue
            place = next((i for i, turn in enumerate(turns) if is_given_up or turn.due <= now), None)
            if place is not None:
                turn = turns[place]
                del turns[place]
                if not turns:
                    del self._waiting[name]
                return turn
        return None

    def _until_due(self, now: float) -> float | None:
        """Seconds until a URL comes due; None if none will by time alone."""
        moments = (
            max(turn.due, self._hosts[turn.host].resumes_at) for turns in self._waiting.values() for turn in turns
        )
        return min((moment - now for moment in moments if moment > now), default=None)


def fetch_all(
    urls: Sequence[ListedUrl],
    fetch: Callable[[str], Fetched | NotFetched],
    config: DownloadConfig,
    workers: DownloadWorkers,
) -> Generator[tuple[ListedUrl, Fetched | NotFetched]]:
    """Each URL once, with its last answer, as they come in.

    No more answers than threads wait for the caller, so bodies do not pile up in memory.
    """
    turns = Turns([Turn(url, host_of(url.url)) for url in urls], config, workers.per_host)
    answers: Answers = queue.Queue(workers.threads)
    threads = min(workers.threads, len(urls))
    with ThreadPoolExecutor(max(1, threads), thread_name_prefix="fetch") as pool:
        working: list[Future[None]] = []
        try:
            for _ in range(threads):
                working.append(pool.submit(_work, turns, fetch, config, answers))  # all of them, or some
            for _ in urls:
                yield answers.get()
        finally:
            turns.close()
            while not all(future.done() for future in working):  # a full queue would hold the threads
                with contextlib.suppress(queue.Empty):
                    answers.get(timeout=0.05)


def _work(turns: Turns, fetch: Callable[[str], Fetched | NotFetched], config: DownloadConfig, answers: Answers) -> None:
    while taken := turns.take():
        turn, answer = taken
        if answer is None:
            answer = fetch(turn.listed.url)
            turns.done(turn, answer)
            if again := _again(turn, answer, config):
                turns.put_back(again)
                continue
        answers.put((turn.listed, answer))


def _again(turn: Turn, answer: Fetched | NotFetched, config: DownloadConfig) -> Turn | None:
    """The next try of a URL; None if its answer is final in this run."""
    tries = turn.tries + 1
    if isinstance(answer, Fetched) or not is_passing(answer.reason) or tries >= config.rounds:
        return None
    asked = answer.retry_after_s or 0.0
    if asked > config.max_wait_s:
        return None
    wait = max(asked, config.backoff_s * 2**turn.tries) * random.uniform(1.0, 1.5)  # so that a host's URLs spread
    return Turn(turn.listed, turn.host, time.monotonic() + wait, tries, answer)
