"""Collects the images of a shard: fetches its URLs, and screens the bodies in a worker process.

A body can crash or hang the process that decodes it (see `labeling.execution.supervisor`), so the process that fetches
never decodes one. Bodies wait in a spool on disk.
"""

import contextlib
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from labeling.config import DownloadConfig, DownloadWorkers, Workers
from labeling.download.fetching.fetch_result import FetchedBody
from labeling.download.fetching.rounds import Fetch, fetch_all
from labeling.download.lists.exclusions import NOTHING_EXCLUDED, Exclusions
from labeling.download.screening.stage import ScreenedImage, ScreenResult, SpooledBody, verdict_of_listing
from labeling.download.spool import Spool
from labeling.execution.journal import Journal
from labeling.execution.process import StageProcess
from labeling.execution.supervisor import ShardPass
from labeling.sdd.schema import ListedUrl, State, Verdict
from labeling.sdd.shards import Refused

SCREENER_WORKERS = Workers(batch_size=16, prepare_threads=1, batch_deadline_s=120.0)
"""Settings of the process that screens bodies."""
UrlOutcome: TypeAlias = ScreenedImage | Verdict
"""Outcome of a URL: an image that is kept, whose body is in the spool, or the verdict that refuses it."""


@dataclass
class ImageCollector:
    """Collects the images of one shard."""

    fetch: Fetch
    config: DownloadConfig
    workers: DownloadWorkers
    journal: Journal
    spool: Spool
    screener: StageProcess
    """Process that screens bodies."""
    repeats_to_fetch: frozenset[int] = frozenset()
    """Rows of the list that are fetched although an earlier row has their URL."""
    exclusions: Exclusions = NOTHING_EXCLUDED
    """URLs that are not fetched."""
    outcomes: dict[bytes, UrlOutcome] = field(default_factory=dict)
    """Outcomes so far, by key."""
    screening_cpu_s: float = 0.0
    """CPU-seconds of the screening process, without its start."""
    start_s: float = 0.0
    """Seconds in which that process started."""

    def collect(self, listed: Sequence[ListedUrl]) -> dict[bytes, UrlOutcome]:
        """Return the outcome of each URL; the bodies of the images are in the spool afterwards."""
        for url in listed:
            if verdict := verdict_of_listing(url, self.config, self.repeats_to_fetch, self.exclusions):
                self.outcomes[url.key] = verdict
        screening = ShardPass(self.screener, self.journal, done=len(self.outcomes))
        try:
            self._fetch_and_screen([url for url in listed if url.key not in self.outcomes], screening)
        finally:
            if screening.in_flight:  # the next shard would get their results
                self.screener.discard()
            self.screening_cpu_s += screening.cpu_s
            self.start_s += screening.start_s
        return self.outcomes

    def _fetch_and_screen(self, listed: Sequence[ListedUrl], screening: ShardPass) -> None:
        with contextlib.closing(self._bodies(listed, screening)) as bodies:
            big = self._screen(bodies, screening)
        if big:
            self.screener.batch_limit = 1
            with self.spool.big_image_lock():
                self._screen((replace(body, may_be_big=True) for body in big), screening)

    def _bodies(self, listed: Sequence[ListedUrl], screening: ShardPass) -> Generator[SpooledBody]:
        """Yield the bodies of the URLs, those in the spool first; record the verdicts of URLs without a body."""
        missing = []
        for url in listed:
            if path := self.spool.find(url.key):
                yield SpooledBody(key=url.key, path=str(path))
            else:
                missing.append(url)
        with contextlib.closing(fetch_all(missing, self.fetch, self.config, self.workers)) as results:
            for url, result in results:
                if isinstance(result, FetchedBody):
                    yield SpooledBody(key=url.key, path=str(self.spool.put(url.key, result.body)))
                else:
                    verdict = Verdict(state=State.NOT_DOWNLOADED, reason=result.reason, detail=result.detail)
                    self.outcomes[url.key] = verdict
                    screening.skip()

    def _screen(self, bodies: Iterator[SpooledBody], screening: ShardPass) -> list[SpooledBody]:
        """Record the outcomes of the bodies; return the bodies that take more memory than they may."""
        big = []
        for result in screening.outcomes(bodies):
            if isinstance(result, Refused):
                self.outcomes[result.key] = result.verdict
                continue
            assert isinstance(result, ScreenResult), "the screening stage returns no other rows"
            if result.outcome is None:
                big.append(SpooledBody(key=result.key, path=str(self.spool.find(result.key))))
            else:
                self.outcomes[result.key] = result.outcome
        return big
