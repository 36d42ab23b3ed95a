"""State of one host of a shard: the number of its URLs that are fetched at once, and a circuit breaker.

closed      up to `per_host` URLs are fetched at once
open        after `host_failures` different URLs in a row that failed, none is fetched for `host_pause_s`
half open   then one URL is fetched: a response closes the circuit, a failure opens it again
given up    the circuit has opened `rounds` times in a row: the remaining URLs fail at once

So a host that accepts connections and never responds costs at most `host_failures + per_host - 1 + rounds - 1`
connections, and about `(rounds + 1) * timeout_s + (rounds - 1) * host_pause_s` seconds, however many URLs it has.
"""

from dataclasses import dataclass, field

from labeling.config import DownloadConfig
from labeling.download.fetching.fetch_result import (
    HOST_UNREACHABLE,
    FetchedBody,
    FetchFailure,
    FetchResult,
    is_host_failure,
)


@dataclass
class Host:
    """State of a host. Not thread-safe: the caller holds a lock."""

    config: DownloadConfig
    per_host: int
    """Most URLs that are fetched at once while the circuit is closed."""
    busy: int = 0
    """URLs that are being fetched."""
    failed: set[bytes] = field(default_factory=set)
    """Keys of the URLs that failed since the last response; a URL that fails at every try counts once."""
    openings: int = 0
    """Times that the circuit has opened since the last response."""
    resumes_at: float = 0.0
    """Moment of the monotonic clock at which an open circuit becomes half open."""
    is_probing: bool = False
    """Whether the URL of a half-open circuit is being fetched."""
    last_failure: str = ""
    """Reason and detail of the last failure."""

    @property
    def refusal(self) -> FetchFailure | None:
        """Failure of the remaining URLs of a host that is given up; None for other hosts."""
        if self.openings < self.config.rounds:
            return None
        return FetchFailure(HOST_UNREACHABLE, f"{len(self.failed)} URLs in a row failed, the last: {self.last_failure}")

    def has_room(self, now: float) -> bool:
        """Return whether another URL may be fetched now."""
        if self.openings:
            return now >= self.resumes_at and self.busy == 0
        return self.busy < self.per_host

    def begin_fetch(self) -> None:
        """Count a URL that is about to be fetched."""
        self.busy += 1
        self.is_probing = self.openings > 0

    def end_fetch(self, key: bytes, result: FetchResult, now: float) -> bool:
        """Count the result of a URL; return whether the circuit opened or closed."""
        self.busy -= 1
        was_probing, self.is_probing = self.is_probing, False
        if isinstance(result, FetchedBody) or not is_host_failure(result):
            was_open = self.openings > 0
            self.failed.clear()
            self.openings = 0
            return was_open
        self.failed.add(key)
        self.last_failure = f"{result.reason}: {result.detail}"
        if was_probing or (not self.openings and len(self.failed) >= self.config.host_failures):
            self.openings += 1
            self.resumes_at = now + self.config.host_pause_s
            return True
        return False
