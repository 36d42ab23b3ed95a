"""Progress of a build, counted from its files: right after a restart, and the same wherever the workers run."""

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

from tqdm import tqdm

from labeling.execution.background import run_in_background
from labeling.execution.journal import journal_path, read_journal
from labeling.sdd.shards import ShardStore

log = logging.getLogger(__name__)
BAR_INTERVAL_S = 0.5
"""Seconds between two updates of the bar on a terminal."""
LOG_INTERVAL_S = 10.0
"""Seconds between two lines of the log."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Progress of a layer."""

    done: int
    """Images that have an outcome."""
    loading: int = 0
    """Workers that are loading their network."""


@dataclass
class ProgressCounter:
    """Counts the images of a layer that have an outcome, over some shards; reads footers of finished files once."""

    store: ShardStore
    layer: str
    shards: Sequence[str]
    expected_stamp: Callable[[str], str | None] = lambda shard: None
    """Stamp that a shard's file must have to count as finished; None where any stamp counts."""
    finished: dict[str, int] = field(default_factory=dict)
    """Images of each finished shard."""

    def count(self) -> Progress:
        """Count the images and the loading workers now."""
        begun = loading = 0
        for shard in self.shards:
            if shard in self.finished:
                continue
            stamp = self.store.stamp(self.layer, shard)
            if stamp and self.expected_stamp(shard) in (None, stamp.stamp):
                self.finished[shard] = sum(stamp.counts.values())
            else:
                journal = read_journal(journal_path(self.store.root, self.layer, shard))
                begun += journal.done
                loading += journal.loading
        return Progress(sum(self.finished.values()) + begun, loading)


@contextmanager
def show_progress(name: str, total: int, count: Callable[[], Progress]) -> Iterator[None]:
    """Show the progress while the block runs: as a bar on a terminal, else as a line of the log now and then.

    Args:
        name: name of the layer.
        total: images that will have an outcome.
        count: function that returns the progress at the time of the call.
    """
    show = _show_bar if sys.stderr.isatty() else _log_lines
    with run_in_background(partial(show, name, total, count)):
        yield


def _show_bar(name: str, total: int, count: Callable[[], Progress], stop: threading.Event) -> None:
    with tqdm(total=total, initial=count().done, desc=f"{name:>10}", unit="img") as bar:
        while not stop.wait(BAR_INTERVAL_S):
            now = count()
            bar.update(now.done - bar.n)
            bar.set_postfix_str(_loading_text(now))
        bar.set_postfix_str("", refresh=False)
        bar.update(count().done - bar.n)


def _log_lines(name: str, total: int, count: Callable[[], Progress], stop: threading.Event) -> None:
    start, before = time.monotonic(), count().done
    while not stop.wait(LOG_INTERVAL_S):
        now = count()
        rate = (now.done - before) / (time.monotonic() - start)
        left = f"{(total - now.done) / rate:.0f} s left" if rate > 0 else ""
        words = [f"{now.done} of {total} images", f"{rate:.1f}/s", left, _loading_text(now)]
        log.info("%s: %s", name, ", ".join(filter(None, words)))


def _loading_text(now: Progress) -> str:
    return f"{now.loading} worker{'s' if now.loading > 1 else ''} loading" if now.loading else ""
