"""Makes `images/` with img2dataset's machinery around a fetch of our own.

Its Reader cuts the planned list into shards, and its distributors (multiprocessing, Ray) spread them over processes and
call a `ShardDownload` for each. What of it is not used, and the traps in what is: docs/notes/download.md. It is
imported in functions, as it loads Ray, pandas and OpenCV with it.

    the caller -> `python -m labeling.download.stage` -> img2dataset's pool of processes      labeling.executor=here
    the caller -> img2dataset's Ray tasks                                               labeling.executor=ray

Distributors hand back nothing of use, so each shard leaves a report in work/images/.
"""

import contextlib
import functools
import io
import json
import logging
import multiprocessing
import os
import pickle
import re
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from multiprocessing.connection import wait

import fsspec
import pyarrow as pa
from upath import UPath

from infra.imports import without_wandb
from infra.logs import setup_logs
from infra.ray_cluster import join_cluster
from infra.storage import contents, publish_bytes, sweep
from labeling.config import DownloadConfig, DownloadWorkers, Executor, LabelingConfig, Stale
from labeling.download.fetch import Fetcher
from labeling.download.image_shards import SCREENER, Gathering, ImageShard, images_stamp, passing_failures
from labeling.download.repeats import fetched_repeats
from labeling.download.screening import ScreenStage
from labeling.download.spool import Spool, has_spool, remove_spool
from labeling.download.url_list import shard_name, shard_number
from labeling.errors import ShardStale, StageFailed
from labeling.execution.journal import Journal, journal_path
from labeling.execution.presence import is_run_alive, mark_run_alive
from labeling.execution.process import StageProcess
from labeling.execution.report import ShardReport, failure_report, raise_failures
from labeling.sdd.arrow import names_of
from labeling.sdd.lock import shard_lock
from labeling.sdd.schema import Layer, ListedUrl
from labeling.sdd.shards import ShardStore

log = logging.getLogger(__name__)
Task = tuple[int, str]
"""What img2dataset's Reader gives for a shard: its number, and the file with its rows."""
MAX_ATTEMPTS = 20
"""How often a run begins a shard whose process dies, and its processes without one shard coming to an end."""
WATCH_S, GRACE_S = 0.2, 5.0
_OF_A_RUN = re.compile(r"lists-(?P<lists>[0-9a-f]{12})|shard-\d+\.(?P<report>[0-9a-f]{12})\.report\.json")
"""What a run keeps in `work/images/` for itself, by its name."""


def download_shards(
    config: LabelingConfig, shards: Sequence[str], stop: threading.Event | None = None
) -> list[ShardReport]:
    """Make the files of these shards in `images/`, as `plan_urls` planned them; one report for each.

    A file that is there stays as it is; with `retry_failed`, what failed for a passing reason is fetched again.

    Args:
        stop: set by another thread, it ends the work here; on Ray it goes on until this process ends.

    Raises:
        ShardStale: a file was made under other settings; nothing was done.
        StageFailed: a file could not be made, or all was stopped; the message is the first reason.
    """
    store = ShardStore(config.root)
    reports = {shard: report for shard in shards if (report := _finished(store, shard, config))}
    run = uuid.uuid4().hex[:12]
    barren = 0
    with mark_run_alive(store.root, run):
        _sweep(store)
        while barren < MAX_ATTEMPTS and (todo := [shard for shard in shards if shard not in reports]):
            ended = _attempt(store, todo, config, run, stop or threading.Event())
            barren = 0 if ended else barren + 1
            reports |= ended
    raise_failures(reports.values())
    if lost := [shard for shard in shards if shard not in reports]:
        raise StageFailed(
            f"{Layer.IMAGES} {lost[0]}: its process ended {MAX_ATTEMPTS} times; the log above may say why"
        )
    return [reports[shard] for shard in shards]


@dataclass(frozen=True, slots=True)
class ShardDownload:
    """Makes the file of a shard; what img2dataset's distributors call in place of its Downloader."""

    root: str
    config: DownloadConfig
    workers: DownloadWorkers
    run: str
    """Names this run in the journals."""
    fetched_repeats: frozenset[int] = frozenset()
    """As in `Gathering`."""
    accept_loss: bool = False
    """As in `ImageShard.make`."""

    def __call__(self, task: Task) -> tuple[bool, Task]:
        """Whether it went well, and the task: what the distributors want to hear."""
        _settle_in_pool()
        store, shard = ShardStore(self.root), shard_name(task[0])
        try:
            with shard_lock(store.root, Layer.IMAGES, shard):
                report = self._make(store, shard, task)
        except Exception as error:  # neither distributor survives an exception
            report = failure_report(Layer.IMAGES, shard, error)
        _report_path(store, shard, self.run).write_text(json.dumps(asdict(report)))
        return report.error is None, task

    def _make(self, store: ShardStore, shard: str, task: Task) -> ShardReport:
        start, begin = time.monotonic(), images_stamp(self.config, store, shard)
        found = store.stamp(Layer.IMAGES, shard)
        is_there = found is not None and found.stamp.startswith(begin)
        if found and is_there and not self.config.retry_failed:
            remove_spool(store.root, shard)
            return ShardReport(stage=Layer.IMAGES, shard=shard, counts=found.counts, reused=True)
        sweep(store.path(Layer.IMAGES, shard))
        journal = Journal.begin(journal_path(store.root, Layer.IMAGES, shard), self.run)
        if journal.attempts > MAX_ATTEMPTS:
            raise StageFailed(f"begun {MAX_ATTEMPTS} times without an end; see {journal.path}")
        image_shard = ImageShard(store, shard, _rows(task), begin)
        with self._gathering(store, image_shard, journal) as gathering:
            if found and is_there:
                remember(store, shard, found.stamp)
                counts = image_shard.retry(gathering)
            else:
                counts = image_shard.make(gathering, accept_loss=self.accept_loss)
        journal.remove()
        seconds = time.monotonic() - start
        log.info("%s %s: %s in %.0f s", Layer.IMAGES, shard, ", ".join(f"{n} {s}" for s, n in counts.items()), seconds)
        return ShardReport(stage=Layer.IMAGES, shard=shard, counts=counts, seconds=seconds)

    @contextlib.contextmanager
    def _gathering(self, store: ShardStore, shard: ImageShard, journal: Journal) -> Iterator[Gathering]:
        screener = StageProcess(ScreenStage(self.config), SCREENER, torch_threads=1, batch_limit=SCREENER.batch_size)
        with Spool.opened(store.root, shard.shard, shard.begin) as spool, contextlib.closing(screener):
            fetch = Fetcher(self.config).fetch
            yield Gathering(fetch, self.config, self.workers, journal, spool, screener, self.fetched_repeats)


@dataclass(frozen=True, slots=True)
class Order:
    """What the process of `labeling.executor=here` is to do; comes as a pickle on its standard input."""

    download: ShardDownload
    root: str
    shards: tuple[str, ...]
    processes: int


def former_stamps(store: ShardStore, shard: str) -> set[str]:
    """The stamps that the shard's file had before it was fetched again: later files may still be made from those."""
    try:
        return set(contents(_former_path(store, shard)).decode().split())
    except FileNotFoundError:
        return set()


def _finished(store: ShardStore, shard: str, config: LabelingConfig) -> ShardReport | None:
    """The report of a shard that has its file; None where there is something to do."""
    found = store.stamp(Layer.IMAGES, shard)
    if found is None:
        return None
    begin = images_stamp(config.download, store, shard)
    if not found.stamp.startswith(begin):
        if config.stale is Stale.REBUILD:
            return None
        raise ShardStale(
            f"{store.path(Layer.IMAGES, shard)} is stamped {found.stamp}, this run's begin with {begin}: it was made "
            "with other settings or from other rows of the list. Give a new root, or let it be made again with --set "
            "labeling.stale=rebuild"
        )
    if config.download.retry_failed and passing_failures(store, shard):
        return None
    if has_spool(store.root, shard):  # of a process that was killed when the shard was made, to be removed
        return None
    return ShardReport(stage=Layer.IMAGES, shard=shard, counts=found.counts, reused=True)


def _attempt(
    store: ShardStore, shards: Sequence[str], config: LabelingConfig, run: str, stop: threading.Event
) -> dict[str, ShardReport]:
    """Let img2dataset distribute the shards; the reports of those that came to an end."""
    lists = _lists(store, run)
    lists.mkdir(parents=True, exist_ok=True)
    workers = config.workers.images
    repeats = fetched_repeats(store, config.download)
    accept_loss = config.stale is Stale.REBUILD
    download = ShardDownload(config.root, config.download, workers, run, repeats, accept_loss)
    try:
        if config.executor is Executor.HERE:
            _run_here(Order(download, config.root, tuple(shards), workers.processes), stop)
        else:
            _run_on_ray(download, store, shards)
    finally:
        with contextlib.suppress(FileNotFoundError):
            lists.fs.rm(lists.path, recursive=True)
    return dict(_reports(store, shards, run))


def _reports(store: ShardStore, shards: Sequence[str], run: str) -> Iterator[tuple[str, ShardReport]]:
    for shard in shards:
        path = _report_path(store, shard, run)
        with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):  # its process was killed
            yield shard, ShardReport(**json.loads(path.read_text()))
            path.unlink()


def _run_here(order: Order, stop: threading.Event) -> None:
    """img2dataset's pool of processes waits for ever for one that was killed, so it gets a process of its own."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
        "NO_ALBUMENTATIONS_UPDATE": "1",
        "TQDM_DISABLE": "1",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "labeling.download.stage"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,  # the Reader prints
        env=environment,
        start_new_session=True,  # an interrupt is for us; that process ends with its standard input
    )
    assert process.stdin is not None
    try:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(pickle.dumps(order))
            process.stdin.flush()
        while process.poll() is None:
            if stop.wait(WATCH_S):
                raise StageFailed(f"{Layer.IMAGES}: stopped")
    finally:
        process.kill()
        process.wait()
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()


def _run_on_ray(download: ShardDownload, store: ShardStore, shards: Sequence[str]) -> None:
    if find_spec("ray") is None:  # img2dataset's distributor would do nothing, and say nothing
        raise StageFailed("labeling.executor=ray needs Ray: pip install 'subject-diffusion[labeling]'")
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    join_cluster()
    with without_wandb():
        from img2dataset.distributor import ray_distributor

    with contextlib.redirect_stdout(io.StringIO()):
        tasks = list(_tasks(store, shards, download.run))
    try:
        ray_distributor(len(tasks), download, tasks, len(tasks), 0)
    except Exception as error:  # a worker that died more often than Ray tries; the others may go on for a while
        log.warning("%s: %s", Layer.IMAGES, error)


def _tasks(store: ShardStore, shards: Iterable[str], run: str) -> Iterator[Task]:
    """The shards as img2dataset's Reader cuts them: one from each planned file."""
    with without_wandb():
        from img2dataset.reader import Reader

    for shard in shards:
        urls = store.stamp(Layer.URLS, shard)
        if urls is None:
            raise StageFailed(f"{store.path(Layer.URLS, shard)} is not there: run again with labeling.urls")
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
            tmp_path=str(_lists(store, run)),
            start_shard_id=shard_number(shard),
        )


def _rows(task: Task) -> list[ListedUrl]:
    with fsspec.open(task[1], "rb") as file:
        return [ListedUrl(**record) for record in pa.ipc.open_file(file).read_all().to_pylist()]


def _lists(store: ShardStore, run: str) -> UPath:
    """The run's own, as it is removed at the run's end while another build may go on."""
    return store.root / "work" / Layer.IMAGES / f"lists-{run}"


def _sweep(store: ShardStore) -> None:
    """Remove the lists and reports of killed runs."""
    folder = store.root / "work" / Layer.IMAGES
    for path in folder.iterdir() if folder.exists() else ():
        named = _OF_A_RUN.fullmatch(path.name)
        if named and not is_run_alive(store.root, named["lists"] or named["report"]):
            path.fs.rm(path.path, recursive=True)


def _report_path(store: ShardStore, shard: str, run: str) -> UPath:
    return store.root / "work" / Layer.IMAGES / f"{shard}.{run}.report.json"


def _former_path(store: ShardStore, shard: str) -> UPath:
    return store.root / "work" / Layer.IMAGES / f"{shard}.former"


def remember(store: ShardStore, shard: str, stamp: str) -> None:
    """Note a stamp for `former_stamps`."""
    text = "\n".join(sorted(former_stamps(store, shard) | {stamp})).encode()
    publish_bytes(_former_path(store, shard), text)


@functools.cache
def _settle_in_pool() -> None:
    """Once in each process of img2dataset's pool: it logs, and it ends with the process that started it."""
    parent = multiprocessing.parent_process()
    if parent is None:  # a Ray worker
        return
    setup_logs()
    threading.Thread(target=lambda: (wait([parent.sentinel]), os._exit(1)), daemon=True).start()


def _without_torch() -> None:
    """For processes that are ours alone: webdataset, which img2dataset loads for its tar files, would load torch.

    It does without where there is none, and so do 470 MB of each process and half of its start.
    """
    sys.modules["torch"] = None  # type: ignore[assignment]


def _exit_with_caller() -> None:
    """End when our standard input does."""
    while os.read(sys.stdin.fileno(), 1):
        pass
    os._exit(1)


def _exit_with_worker(store: ShardStore, shards: Sequence[str], run: str) -> None:
    """End when a process of the pool was killed: img2dataset would wait for its shard for ever."""
    seen: set[multiprocessing.process.BaseProcess] = set()
    while True:
        seen |= set(multiprocessing.active_children())
        if any(child.exitcode for child in seen):
            if all(_report_path(store, shard, run).exists() for shard in shards):
                time.sleep(GRACE_S)  # the pool ends its processes when all is done, and then we are no more
            log.warning("%s: a process of the pool was killed; its shard is begun again", Layer.IMAGES)
            os._exit(1)
        time.sleep(WATCH_S)


def _main() -> None:
    order: Order = pickle.load(sys.stdin.buffer)
    threading.Thread(target=_exit_with_caller, daemon=True).start()
    _without_torch()
    with without_wandb():
        from img2dataset.distributor import multiprocessing_distributor

    store = ShardStore(order.root)
    tasks = list(_tasks(store, order.shards, order.download.run))
    threading.Thread(target=_exit_with_worker, args=(store, order.shards, order.download.run), daemon=True).start()
    multiprocessing_distributor(order.processes, order.download, tasks, len(tasks), 0)


if __name__ == "__main__":
    setup_logs()
    _main()
    os._exit(0)  # the threads above still wait; an ordinary end would wait for them, or complain of what they hold
