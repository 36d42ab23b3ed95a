"""How far a build is, counted from its files: right after a restart, and the same wherever the workers run."""

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from tqdm import tqdm

from labeling.journal import journal_path, read_journal
from labeling.sdd.shards import ShardStore

log = logging.getLogger(__name__)
BAR_S = 0.5
LINE_S = 10.0


@dataclass
class Count:
    """Images of a layer that have an outcome, over some shards; footers of finished files are read once."""

    store: ShardStore
    layer: str
    shards: Sequence[str]
    expected: Callable[[str], str | None] = lambda shard: None
    """The stamp that a shard's file must have to count as finished; None where any will do."""
    finished: dict[str, int] = field(default_factory=dict)

    def __call__(self) -> int:
        """The count now."""
        begun = 0
        for shard in self.shards:
            if shard in self.finished:
                continue
            found = self.store.stamp(self.layer, shard)
            if found and self.expected(shard) in (None, found.stamp):
                self.finished[shard] = sum(found.counts.values())
            else:
                begun += read_journal(journal_path(self.store.root, self.layer, shard)).get("done", 0)
        return sum(self.finished.values()) + begun


@contextmanager
def showing(name: str, total: int, count: Callable[[], int]) -> Iterator[None]:
    """Show `count()` out of `total` images while the block runs: a bar on a terminal, else a line now and then."""
    stop = threading.Event()
    show = _bar if sys.stderr.isatty() else _lines
    thread = threading.Thread(target=show, args=(name, total, count, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _bar(name: str, total: int, count: Callable[[], int], stop: threading.Event) -> None:
    with tqdm(total=total, initial=count(), desc=f"{name:>10}", unit="img") as bar:
        while not stop.wait(BAR_S):
            bar.update(count() - bar.n)
        bar.update(count() - bar.n)


def _lines(name: str, total: int, count: Callable[[], int], stop: threading.Event) -> None:
    start, before = time.monotonic(), count()
    while not stop.wait(LINE_S):
        done = count()
        rate = (done - before) / (time.monotonic() - start)
        left = f", {(total - done) / rate:.0f} s left" if rate > 0 else ""
        log.info("%s: %d of %d images, %.1f/s%s", name, done, total, rate, left)
