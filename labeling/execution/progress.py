"""How far a build is, counted from its files: right after a restart, and the same wherever the workers run."""

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from tqdm import tqdm

from labeling.execution.journal import journal_path, read_journal
from labeling.sdd.shards import ShardStore

log = logging.getLogger(__name__)
BAR_S = 0.5
LINE_S = 10.0


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a layer is."""

    done: int
    """Images that have an outcome."""
    loading: int = 0
    """Workers whose network is being loaded."""


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
        return self.progress().done

    def progress(self) -> Progress:
        """The count now, and what is being waited for."""
        begun = loading = 0
        for shard in self.shards:
            if shard in self.finished:
                continue
            found = self.store.stamp(self.layer, shard)
            if found and self.expected(shard) in (None, found.stamp):
                self.finished[shard] = sum(found.counts.values())
            else:
                journal = read_journal(journal_path(self.store.root, self.layer, shard))
                begun += journal.get("done", 0)
                loading += journal.get("loading", False)
        return Progress(sum(self.finished.values()) + begun, loading)


@contextmanager
def showing(name: str, total: int, look: Callable[[], Progress]) -> Iterator[None]:
    """Show how far `look()` is while the block runs: a bar on a terminal, else a line now and then.

    Args:
        total: images that will have an outcome.
    """
    stop = threading.Event()
    show = _bar if sys.stderr.isatty() else _lines
    thread = threading.Thread(target=show, args=(name, total, look, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _bar(name: str, total: int, look: Callable[[], Progress], stop: threading.Event) -> None:
    with tqdm(total=total, initial=look().done, desc=f"{name:>10}", unit="img") as bar:
        while not stop.wait(BAR_S):
            now = look()
            bar.update(now.done - bar.n)
            bar.set_postfix_str(_loading(now))
        bar.set_postfix_str("", refresh=False)
        bar.update(look().done - bar.n)


def _lines(name: str, total: int, look: Callable[[], Progress], stop: threading.Event) -> None:
    start, before = time.monotonic(), look().done
    while not stop.wait(LINE_S):
        now = look()
        rate = (now.done - before) / (time.monotonic() - start)
        left = f"{(total - now.done) / rate:.0f} s left" if rate > 0 else ""
        words = [f"{now.done} of {total} images", f"{rate:.1f}/s", left, _loading(now)]
        log.info("%s: %s", name, ", ".join(filter(None, words)))


def _loading(now: Progress) -> str:
    return f"{now.loading} worker{'s' if now.loading > 1 else ''} loading" if now.loading else ""
