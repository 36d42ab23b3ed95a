"""Makes the file of one shard in `images/`, in place of img2dataset's Downloader."""

import contextlib
import functools
import logging
import multiprocessing
import os
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import TypeAlias

import fsspec
import pyarrow as pa

from infra.imports import without_package_code
from infra.logs import setup_logs
from infra.storage import sweep
from labeling.config import DownloadConfig, DownloadWorkers
from labeling.download.collector import SCREENER_WORKERS, ImageCollector
from labeling.download.fetching.fetch import Fetcher
from labeling.download.image_shards import ImageShard, images_stamp
from labeling.download.lists.exclusions import NOTHING_EXCLUDED, Exclusions
from labeling.download.lists.names import shard_name, shard_number
from labeling.download.screening.stage import ScreenStage
from labeling.download.spool import Spool, remove_spool
from labeling.download.work_files import add_former_stamp, lists_folder, write_report
from labeling.errors import StageFailed
from labeling.execution.forked import ForkServer
from labeling.execution.journal import Journal, journal_path
from labeling.execution.process import StageProcess
from labeling.execution.report import ShardReport, failure_report
from labeling.sdd.arrow import names_of
from labeling.sdd.lock import shard_lock
from labeling.sdd.schema import Layer, ListedUrl
from labeling.sdd.shards import ShardStore

log = logging.getLogger(__name__)
Task: TypeAlias = tuple[int, str]
"""Shard as img2dataset's Reader passes it to a distributor: its number, and the file with its rows."""
MAX_ATTEMPTS = 20
"""Times that a run starts a shard whose process dies."""


@dataclass(frozen=True, slots=True)
class ShardDownload:
    """Makes the file of a shard; the pool and img2dataset's Ray distributor call it in their processes."""

    root: str
    config: DownloadConfig
    workers: DownloadWorkers
    run: str
    """Name of this run in the journals."""
    repeats_to_fetch: frozenset[int] = frozenset()
    """As in `ImageCollector`."""
    accept_loss: bool = False
    """As in `ImageShard.make`."""
    exclusions: Exclusions = NOTHING_EXCLUDED
    """As in `ImageCollector`."""

    def __call__(self, task: Task) -> tuple[bool, Task]:
        """Return whether the shard was made, and the task: the result that img2dataset's distributors expect."""
        _set_up_pool_process()
        store, shard = ShardStore(self.root), shard_name(task[0])
        try:
            with shard_lock(store.root, Layer.IMAGES, shard):
                report = self._make(store, shard, task)
        except Exception as error:  # an exception would end the distributor
            report = failure_report(Layer.IMAGES, shard, error)
        write_report(store, report, self.run)
        return report.error is None, task

    def _make(self, store: ShardStore, shard: str, task: Task) -> ShardReport:
        start, start_cpu_s = time.monotonic(), time.process_time()
        stamp_prefix = images_stamp(self.config, store, shard)
        former = store.stamp(Layer.IMAGES, shard)
        is_current = former is not None and former.stamp.startswith(stamp_prefix)
        if former and is_current and not self.config.retry_failed:
            remove_spool(store.root, shard)
            return ShardReport(stage=Layer.IMAGES, shard=shard, counts=former.counts, reused=True)
        sweep(store.path(Layer.IMAGES, shard))
        journal = Journal.begin(journal_path(store.root, Layer.IMAGES, shard), self.run)
        if journal.attempts > MAX_ATTEMPTS:
            raise StageFailed(f"started {MAX_ATTEMPTS} times without finishing; see {journal.path}")
        image_shard = ImageShard(store, shard, _read_rows(task), stamp_prefix)
        with _screener(self.config) as screener, self._collector(store, image_shard, journal, screener) as collector:
            starts, screener_start_cpu_s = screener.starts, screener.start_cpu_s
            if former and is_current:
                add_former_stamp(store, shard, former.stamp)
                counts = image_shard.retry(collector)
            else:
                counts = image_shard.make(collector, accept_loss=self.accept_loss)
        journal.remove()
        seconds = time.monotonic() - start
        log.info("%s %s: %s in %.0f s", Layer.IMAGES, shard, ", ".join(f"{n} {s}" for s, n in counts.items()), seconds)
        return ShardReport(
            stage=Layer.IMAGES,
            shard=shard,
            counts=counts,
            seconds=seconds,
            start_s=collector.start_s,
            cpu_s=collector.screening_cpu_s + time.process_time() - start_cpu_s,
            start_cpu_s=screener.start_cpu_s - screener_start_cpu_s,
            starts=screener.starts - starts,
        )

    @contextlib.contextmanager
    def _collector(
        self, store: ShardStore, shard: ImageShard, journal: Journal, screener: StageProcess
    ) -> Iterator[ImageCollector]:
        with Spool.open(store.root, shard.shard, shard.stamp_prefix) as spool:
            fetch = Fetcher(self.config).fetch
            repeats, excluded = self.repeats_to_fetch, self.exclusions
            yield ImageCollector(fetch, self.config, self.workers, journal, spool, screener, repeats, excluded)


@contextlib.contextmanager
def _screener(config: DownloadConfig) -> Iterator[StageProcess]:
    """Yield the process that screens bodies. One of the pool keeps it for its next shards."""
    if multiprocessing.parent_process() is None:  # a Ray worker, which may wait for long after its last shard
        screener = _new_screener(config)
        with contextlib.closing(screener.server), contextlib.closing(screener):
            yield screener
    else:
        screener = _kept_screener(config)
        screener.batch_limit = SCREENER_WORKERS.batch_size  # big images lower it
        yield screener


def _new_screener(config: DownloadConfig) -> StageProcess:
    server = ForkServer([ScreenStage.__module__])
    batch_size = SCREENER_WORKERS.batch_size
    return StageProcess(ScreenStage(config), SCREENER_WORKERS, torch_threads=1, batch_limit=batch_size, server=server)


_kept_screener = functools.cache(_new_screener)


def read_tasks(store: ShardStore, shards: Iterable[str], run: str) -> Iterator[Task]:
    """Yield the shards as img2dataset's Reader cuts them: one from each planned file."""
    with without_package_code("img2dataset"):
        from img2dataset.reader import Reader

    for shard in shards:
        urls = store.stamp(Layer.URLS, shard)
        if urls is None:
            raise StageFailed(f"{store.path(Layer.URLS, shard)} does not exist: run again with labeling.urls")
        yield from Reader(
            url_list=str(store.path(Layer.URLS, shard)),
            input_format="parquet",
            url_col="url",
            caption_col=None,
            verify_hash_col=None,
            verify_hash_type=None,
            save_additional_columns=[name for name in names_of(ListedUrl) if name != "url"],
            number_sample_per_shard=sum(urls.counts.values()),
            done_shards=set(),
            tmp_path=str(lists_folder(store, run)),
            start_shard_id=shard_number(shard),
        )


def _read_rows(task: Task) -> list[ListedUrl]:
    with fsspec.open(task[1], "rb") as file:
        return [ListedUrl(**record) for record in pa.ipc.open_file(file).read_all().to_pylist()]


@functools.cache
def _set_up_pool_process() -> None:
    """Set up logging once per process of the pool, and end the process with the one that started it."""
    parent = multiprocessing.parent_process()
    if parent is None:  # a Ray worker
        return
    setup_logs()
    threading.Thread(target=lambda: (wait([parent.sentinel]), os._exit(1)), daemon=True).start()
