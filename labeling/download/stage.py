"""Makes `images/`: img2dataset cuts and distributes the list, and this package fetches and screens the images.

img2dataset's Reader cuts the planned list into shards. A pool of processes, or img2dataset's Ray distributor, calls a
`ShardDownload` for each. docs/notes/download.md lists the parts that are not used, and the traps in those that are.
img2dataset is imported in functions, as it imports Ray, pandas and OpenCV.

    build -> `python -m labeling.download.pool` -> its pool of processes      labeling.executor=here
    build -> img2dataset's Ray tasks                                          labeling.executor=ray

img2dataset's distributor returns nothing of use, so each shard leaves a report in work/images/.
"""

import contextlib
import io
import logging
import os
import threading
import uuid
from collections.abc import Sequence
from importlib.util import find_spec

from infra.imports import without_wandb
from infra.ray_cluster import join_cluster
from labeling.config import Executor, LabelingConfig, Stale
from labeling.download.image_shards import images_stamp, retryable_keys
from labeling.download.lists.exclusions import read_exclusions
from labeling.download.lists.repeats import repeats_to_fetch
from labeling.download.pool import PoolJob, run_pool
from labeling.download.shard_download import ShardDownload, read_tasks
from labeling.download.spool import has_spool
from labeling.download.work_files import lists_folder, remove_stale_files, take_reports
from labeling.errors import ShardStale, StageFailed
from labeling.execution.presence import mark_run_alive
from labeling.execution.report import ShardReport, raise_failures
from labeling.sdd.schema import Layer
from labeling.sdd.shards import ShardStore

log = logging.getLogger(__name__)
MAX_ATTEMPTS_WITHOUT_PROGRESS = 20
"""Times in a row that the processes may end without a finished shard before the stage fails."""


def download_shards(
    config: LabelingConfig, shards: Sequence[str], stop: threading.Event | None = None
) -> list[ShardReport]:
    """Make the files of these shards in `images/`, as `plan_urls` planned them; return one report for each.

    Existing files stay as they are; with `retry_failed`, retryable failures are fetched again.

    Args:
        config: settings of the build.
        shards: names of the shards.
        stop: event by which another thread ends the work of this machine; work on Ray ends with this process only.

    Raises:
        ShardStale: a file was made under other settings; nothing was done.
        StageFailed: a file could not be made, or the work was stopped; the message is the first error.
    """
    store = ShardStore(config.root)
    reports = {shard: report for shard in shards if (report := _report_of_finished(store, shard, config))}
    run = uuid.uuid4().hex[:12]
    attempts = 0
    with mark_run_alive(store.root, run):
        remove_stale_files(store)
        while todo := [shard for shard in shards if shard not in reports]:
            if attempts == MAX_ATTEMPTS_WITHOUT_PROGRESS:
                break
            new_reports = _distribute(store, todo, config, run, stop or threading.Event())
            attempts = 0 if new_reports else attempts + 1
            reports |= new_reports
    raise_failures(reports.values())
    if missing := [shard for shard in shards if shard not in reports]:
        raise StageFailed(
            f"{Layer.IMAGES} {missing[0]}: its process ended {MAX_ATTEMPTS_WITHOUT_PROGRESS} times; the log above may "
            "say why"
        )
    return [reports[shard] for shard in shards]


def _report_of_finished(store: ShardStore, shard: str, config: LabelingConfig) -> ShardReport | None:
    """Return the report of a shard that is finished; None where there is something to do."""
    stamp = store.stamp(Layer.IMAGES, shard)
    if stamp is None:
        return None
    prefix = images_stamp(config.download, store, shard)
    if not stamp.stamp.startswith(prefix):
        if config.stale is Stale.REBUILD:
            return None
        raise ShardStale(
            f"{store.path(Layer.IMAGES, shard)} is stamped {stamp.stamp}, and stamps of this run begin with {prefix}: "
            "it was made under other settings or from other rows of the list. Give a new root, or rebuild it with "
            "--set labeling.stale=rebuild"
        )
    if config.download.retry_failed and retryable_keys(store, shard):
        return None
    if has_spool(store.root, shard):  # left by a process that was killed after it made the file
        return None
    return ShardReport(stage=Layer.IMAGES, shard=shard, counts=stamp.counts, reused=True)


def _distribute(
    store: ShardStore, shards: Sequence[str], config: LabelingConfig, run: str, stop: threading.Event
) -> dict[str, ShardReport]:
    """Let img2dataset distribute the shards; return the reports of the shards that ended."""
    lists = lists_folder(store, run)
    lists.mkdir(parents=True, exist_ok=True)
    workers = config.workers.images
    repeats, excluded = repeats_to_fetch(store, config.download), read_exclusions(store, config.download)
    accept_loss = config.stale is Stale.REBUILD
    download = ShardDownload(config.root, config.download, workers, run, repeats, accept_loss, excluded)
    try:
        if config.executor is Executor.HERE:
            run_pool(PoolJob(download, tuple(shards), workers.processes), stop)
        else:
            _run_on_ray(download, store, shards)
    finally:
        with contextlib.suppress(FileNotFoundError):
            lists.fs.rm(lists.path, recursive=True)
    return dict(take_reports(store, shards, run))


def _run_on_ray(download: ShardDownload, store: ShardStore, shards: Sequence[str]) -> None:
    if find_spec("ray") is None:  # without Ray, img2dataset's distributor is a silent no-op
        raise StageFailed("labeling.executor=ray needs Ray: pip install 'subject-diffusion[labeling]'")
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    join_cluster()
    with without_wandb():
        from img2dataset.distributor import ray_distributor

    with contextlib.redirect_stdout(io.StringIO()):
        tasks = list(read_tasks(store, shards, download.run))
    try:
        ray_distributor(len(tasks), download, tasks, len(tasks), 0)
    except Exception as error:  # a worker died more often than Ray retries; other workers may still be running
        log.warning("%s: %s", Layer.IMAGES, error)
