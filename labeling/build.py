"""Builds a dataset: runs the stages of Fig. 2, one task per stage and part of the list.

A `TaskRunner` runs the tasks, in threads of this process or with Prefect. Each shard of each layer is a file, and a run
makes only missing files, so a run that stopped resumes where it stopped.
"""

import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

from infra.storage import refuse_unwritable, storage_path
from labeling.backends.load import backend_modules
from labeling.cleaning.duplicates import NO_DUPLICATES, Duplicates, find_duplicates
from labeling.cleaning.embedding import embed_step
from labeling.cleaning.second_detector import confirm_step
from labeling.cleaning.similar_images import SimilarImagesJob
from labeling.config import Executor, LabelingConfig, NounConfig, Stale, WeightsConfig, WeightsKind, Workers
from labeling.correction.mask_job import MASKS, CorrectionMaskJob, mask_step
from labeling.download.image_shards import images_stamp
from labeling.download.lists.url_list import plan_urls
from labeling.download.stage import download_shards
from labeling.download.work_files import former_stamps
from labeling.errors import ShardStale, StageFailed
from labeling.execution.gpus import gpu_share
from labeling.execution.network_job import NetworkJob
from labeling.execution.processes import StageProcesses
from labeling.execution.progress import ProgressCounter, show_progress
from labeling.execution.ray_pools import RayPools, Reserved, gpus_per_node, resources_per_node, stages_to_keep
from labeling.execution.record import RunRecord, record_run
from labeling.execution.report import ShardReport
from labeling.execution.run import ShardJob, run_job, torch_threads
from labeling.finish import FinishJob, finish_stamp, stamp_of_settings
from labeling.removal import finish_removals, pending_removals
from labeling.sdd.corrections import NO_CORRECTIONS, Corrections, read_corrections, refuse_unknown_images
from labeling.sdd.layers import FOLDERS
from labeling.sdd.membership import refuse_other_datasets, refuse_unlisted_files
from labeling.sdd.schema import CONFIRMATIONS, EMBEDDINGS, SIMILAR, Layer, State
from labeling.sdd.shards import ShardStore
from labeling.steps import Step, steps_of

log = logging.getLogger(__name__)
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class Result(Protocol[R_co]):
    """Future result of a submitted task."""

    def result(self) -> R_co:
        """Wait for the result and return it; raises the task's exception."""


class TaskRunner(Protocol):
    """Runs the tasks of a build."""

    def submit(self, name: str, function: Callable[..., R], *args: object) -> Result[R]:
        """Start `function(*args)`. It may be retried, and then skips finished files."""


class LocalTaskRunner:
    """Runs each task once, in a daemon thread: a task on Ray cannot be stopped, and must not block exit."""

    def submit(self, name: str, function: Callable[..., R], *args: object) -> Result[R]:
        """Start `function(*args)` in a thread."""
        log.debug("%s begins", name)
        future: Future[R] = Future()
        threading.Thread(target=_call, args=(future, function, args), name=name, daemon=True).start()
        return future


def _call(future: "Future[R]", function: Callable[..., R], args: Sequence[object]) -> None:
    try:
        future.set_result(function(*args))
    except BaseException as error:
        future.set_exception(error)


def build(config: LabelingConfig, runner: TaskRunner, steps: Sequence[Step] | None = None) -> dict[str, int]:
    """Make the missing files of a dataset, and return the number of input URLs by state.

    Args:
        config: settings of the build.
        runner: runner of its tasks.
        steps: stages from captions/ to entities/; those of `steps_of` by default.

    Raises:
        SettingsError: the folder of the dataset is not writable.
        BadInput: the list of URLs is unusable.
        ShardCorrupt: a file is damaged, or not part of the dataset.
        DeviceError: a stage requests GPUs that the Ray cluster lacks.
        ShardStale: other settings made some files, and `config.stale` is refuse. Raised before any work.
        CorrectionError: a file of corrections is unusable, or corrects an image that the dataset lacks.
        StageFailed: a stage could not make its files.
    """
    config = with_absolute_paths(config)
    refuse_unwritable(storage_path(config.root), "labeling.root")
    steps = steps_of(config) if steps is None else steps
    all_steps = [*steps, *filter(None, (confirm_step(config, steps), embed_step(config)))]
    refuse_missing_gpus(config, all_steps)
    index = ShardStore(config.root).index
    index.load()
    shards = runner.submit("plan", plan_urls, config).result()
    refuse_unlisted_files(ShardStore(config.root), FOLDERS)
    finish_pending_removals(ShardStore(config.root))
    refuse_stale(config, steps, shards)
    corrections = read_corrections(ShardStore(config.root))
    refuse_unknown_images(ShardStore(config.root), corrections)
    stop = threading.Event()
    modules = backend_modules(step.stage.config for step in all_steps)
    processes = StageProcesses(modules, keep=config.keep_networks)
    pools = RayPools(_stages_to_keep(config, all_steps))
    with record_run(config, steps, len(shards)) as record, closing(processes), closing(pools):
        try:
            _make_parts(config, runner, steps, shards, corrections, record, stop, processes, pools)
        except BaseException:  # an interrupt too
            stop.set()  # for tasks that run in parallel
            raise
        finally:
            index.save()
    return record.counts.get(Layer.SDD, {})


def finish_pending_removals(store: ShardStore) -> None:
    """Finish removals that were killed, so that no stage reads an image that is on the way out."""
    if names := pending_removals(store):
        log.info("finishing the removals %s", ", ".join(names))
        rows = sum(removal.listed for removal in finish_removals(store))
        log.info("removed %d rows", rows)


def _make_parts(
    config: LabelingConfig,
    runner: TaskRunner,
    steps: Sequence[Step],
    shards: Sequence[str],
    corrections: Corrections,
    record: RunRecord,
    stop: threading.Event,
    processes: StageProcesses,
    pools: RayPools,
) -> None:
    confirm, embed = confirm_step(config, steps), embed_step(config)
    parts = [shards[i : i + config.shards_per_part] for i in range(0, len(shards), config.shards_per_part)]
    download = runner.submit("download, part 1", download_part, config, parts[0], stop) if parts else None
    for n, part in enumerate(parts, start=1):
        assert download is not None
        record.add(Layer.IMAGES, download.result())
        if n < len(parts):  # the next part downloads while this one is labelled
            download = runner.submit(f"download, part {n + 1}", download_part, config, parts[n], stop)
        for step in steps:
            name = f"{step.stage.name}, part {n}"
            future = runner.submit(name, label_part, config, step, part, record.name, stop, processes, pools)
            record.add(step.stage.name, future.result())
        corrected = {shard: corrections[shard] for shard in part if shard in corrections}
        if corrected:
            name = f"corrections, part {n}"
            runner.submit(name, mask_corrections, config, steps, corrected, record.name, stop, processes).result()
        if confirm:
            name = f"{confirm.stage.name}, part {n}"
            future = runner.submit(name, label_part, config, confirm, part, record.name, stop, processes, pools)
            record.add(confirm.stage.name, future.result())
        duplicates = NO_DUPLICATES
        if config.clean.finds_duplicates:
            layers = (Layer.IMAGES, *(step.stage.name for step in steps))
            so_far = shards[: n * config.shards_per_part]
            if embed:
                name = f"{embed.stage.name}, part {n}"
                future = runner.submit(name, label_part, config, embed, part, record.name, stop, processes, pools)
                record.add(embed.stage.name, future.result())
                name = f"{SIMILAR}, part {n}"
                future = runner.submit(name, find_similar_images, config, layers, so_far, part, stop)
                record.add(SIMILAR, future.result())
            name = f"duplicates, part {n}"
            duplicates = runner.submit(name, find_duplicates, config.root, config.clean, layers, so_far).result()
        future = runner.submit(f"rules, part {n}", finish_part, config, steps, part, stop, corrected, duplicates)
        record.add(Layer.SDD, future.result())


def with_absolute_paths(config: LabelingConfig) -> LabelingConfig:
    """Return `config` with absolute paths for local files, as workers may have another working directory."""
    tables = {name: _with_absolute_weights(table) for name, table in config.weights_tables.items()}
    lists = tuple(str(storage_path(path)) for path in config.lists)
    urls = lists[0] if isinstance(config.urls, str) else lists or None
    folder = config.download.folder and str(Path(config.download.folder).expanduser().absolute())
    opt_out = config.download.opt_out and str(storage_path(config.download.opt_out))
    download = config.download.model_copy(update={"folder": folder, "opt_out": opt_out})
    paths = {"root": str(storage_path(config.root)), "urls": urls, "download": download}
    return config.model_copy(update=paths | tables)


def _with_absolute_weights(config: WeightsConfig) -> WeightsConfig:
    paths = {weights.field: _absolute_path(getattr(config, weights.field), weights.kind) for weights in config.weights}
    return config.model_copy(update=paths)


def _absolute_path(weights: str | None, kind: WeightsKind) -> str | None:
    """Return the absolute path of local weights; other names, such as hub ids, unchanged."""
    if weights is None or (kind is WeightsKind.PACKAGE and os.sep not in weights):
        return weights
    path = Path(weights).expanduser()
    return str(path.absolute()) if path.exists() else weights


def download_part(
    config: LabelingConfig, shards: Sequence[str], stop: threading.Event | None = None
) -> list[ShardReport]:
    """Download images/ of these shards."""
    store = ShardStore(config.root)
    counter = ProgressCounter(store, Layer.IMAGES, shards)
    with show_progress(Layer.IMAGES, _count_rows(store, Layer.URLS, shards), counter.count):
        reports = download_shards(config, shards, stop)
    return _require_files(store, Layer.IMAGES, reports)


def label_part(
    config: LabelingConfig,
    step: Step,
    shards: Sequence[str],
    run: str,
    stop: threading.Event | None = None,
    processes: StageProcesses | None = None,
    pools: RayPools | None = None,
) -> list[ShardReport]:
    """Make the files of one stage for these shards.

    Args:
        config: settings of the build.
        step: stage.
        shards: names of the shards.
        run: name of the run.
        stop: event by which another thread ends the work.
        processes: processes of the run; None to end those of the stage with it. Workers on Ray have their own.
        pools: workers of the run on Ray; None to end those of the stage with it.
    """
    workers: Workers = getattr(config.workers, step.stage.name)
    job = NetworkJob(
        step=step,
        root=config.root,
        workers=workers,
        run=run,
        torch_threads=torch_threads(workers, config.executor),
        replace=_may_replace(config),
        processes=processes if config.executor is Executor.HERE else None,
    )
    return _run(config, job, step.stage.name, step.reads[-1], shards, workers, stop, pools=pools)


def mask_corrections(
    config: LabelingConfig,
    steps: Sequence[Step],
    corrections: Corrections,
    run: str,
    stop: threading.Event | None = None,
    processes: StageProcesses | None = None,
) -> list[ShardReport]:
    """Make the masks of boxes that people drew in these shards."""
    workers = config.workers.entities
    job = CorrectionMaskJob(
        step=mask_step(config.segment, (*steps[-1].reads, steps[-1].stage.name)),
        root=config.root,
        workers=workers,
        run=run,
        torch_threads=torch_threads(workers, config.executor),
        replace=True,
        corrections=corrections,
        processes=processes if config.executor is Executor.HERE else None,
    )
    return _run(config, job, MASKS, Layer.ENTITIES, tuple(corrections), workers, stop)


def find_similar_images(
    config: LabelingConfig,
    layers: Sequence[str],
    so_far: Sequence[str],
    shards: Sequence[str],
    stop: threading.Event | None = None,
) -> list[ShardReport]:
    """Compare the embeddings of these shards with those of all shards `so_far`."""
    assert config.clean.near_duplicate_cosine is not None, "embeddings are not compared"
    job = SimilarImagesJob(config.root, tuple(layers), tuple(so_far), config.clean.near_duplicate_cosine)
    nothing = f"no pairs among {_count_rows(ShardStore(config.root), EMBEDDINGS, so_far):,} images"
    return _run(config, job, SIMILAR, EMBEDDINGS, shards, config.workers.similar, stop, nothing)


def finish_part(
    config: LabelingConfig,
    steps: Sequence[Step],
    shards: Sequence[str],
    stop: threading.Event | None = None,
    corrections: Corrections = NO_CORRECTIONS,
    duplicates: Duplicates = NO_DUPLICATES,
) -> list[ShardReport]:
    """Make sdd/ and ledger/ of these shards."""
    layers = (Layer.IMAGES, *(step.stage.name for step in steps))
    job = FinishJob(
        root=config.root,
        rules=config.rules,
        layers=layers,
        replace=_may_replace(config),
        corrections=corrections,
        clean=config.clean,
        duplicates={shard: duplicates[shard] for shard in shards if shard in duplicates},
        confirm=confirm_step(config, steps) if config.clean.needs_second_detector else None,
    )
    return _run(config, job, Layer.LEDGER, Layer.URLS, shards, config.workers.sdd, stop)


def refuse_missing_gpus(config: LabelingConfig, steps: Sequence[Step]) -> None:
    """Compare the settings of all stages with the GPUs of the Ray cluster, before any work.

    Raises:
        DeviceError: a stage requests GPUs that the cluster lacks, or that the stage would not use.
    """
    if config.executor is Executor.RAY:
        available = gpus_per_node()
        for step in steps:
            workers: Workers = getattr(config.workers, step.stage.name)
            gpu_share(step.stage.name, step.device, workers, workers.count, available)


def _stages_to_keep(config: LabelingConfig, steps: Sequence[Step]) -> frozenset[str]:
    """Return the stages whose workers on Ray outlive a part of the list."""
    if config.executor is not Executor.RAY or not config.keep_networks:
        return frozenset()
    cpus, gpus = resources_per_node()
    networks = {}
    for step in steps:
        workers: Workers = getattr(config.workers, step.stage.name)
        share = gpu_share(step.stage.name, step.device, workers, workers.count, gpus_per_node())
        networks[step.stage.name] = Reserved(workers.count * workers.cpus, workers.count * share, workers.cpus)
    others = [Reserved(each.count * each.cpus, 0.0, each.cpus) for each in (config.workers.similar, config.workers.sdd)]
    return stages_to_keep(networks, others, cpus, gpus)


def refuse_stale(config: LabelingConfig, steps: Sequence[Step], shards: Sequence[str]) -> None:
    """Check the stamps of all files, before any work.

    Raises:
        ShardStale: other settings made some files, and `config.stale` is refuse; names the stages that would run.
        ShardCorrupt: a stale file belongs to another dataset.
    """
    if config.stale is Stale.REBUILD:
        return
    counts = _count_stale(config, steps, shards)
    if counts:
        refuse_other_datasets(ShardStore(config.root), shards)
        download = config.download.model_copy(update={"retry_failed": True})
        if not _count_stale(config.model_copy(update={"download": download}), steps, shards):
            raise ShardStale(
                f"{config.root}: shards gained images in a run that retried failed URLs and has not finished. Resume "
                "it with --set labeling.download.retry_failed=true"
            )
        if not _count_stale(config, [_without_stop_lists(step) for step in steps], shards):
            raise ShardStale(
                f"{config.root} was begun before nouns had stop lists. Resume it with "
                "--set 'labeling.nouns.stop_words=[]' --set 'labeling.nouns.stop_phrases=[]' "
                "--set labeling.nouns.singular=false --set 'labeling.nouns.renamed={}', or let the stages run again "
                "with --set labeling.stale=rebuild"
            )
        order = [Layer.IMAGES, *(step.stage.name for step in steps), CONFIRMATIONS, EMBEDDINGS, Layer.SDD]
        layers = ", ".join(f"{layer}/ ({counts[layer]} shards)" for layer in order if layer in counts)
        raise ShardStale(
            f"{config.root} holds files made under other settings: {layers}. Give a new root, or let the stages "
            "run again with --set labeling.stale=rebuild"
        )


def _without_stop_lists(step: Step) -> Step:
    """Return the step as it was before stop lists, renamed nouns and singulars existed; other steps unchanged."""
    config = step.stage.config
    if not isinstance(config, NounConfig):
        return step
    former = config.model_copy(update={"stop_words": (), "stop_phrases": (), "singular": False, "renamed": {}})
    return replace(step, identity=step.identity.replace(config.fingerprint(), former.fingerprint()))


def _count_stale(config: LabelingConfig, steps: Sequence[Step], shards: Sequence[str]) -> Counter[str]:
    """Return the number of stale shards of each layer."""
    store = ShardStore(config.root)
    with ThreadPoolExecutor(16) as pool:
        stale = pool.map(lambda shard: stale_layers(store, config, steps, shard), shards)
        return Counter(layer for layers in stale for layer in layers)


def stale_layers(store: ShardStore, config: LabelingConfig, steps: Sequence[Step], shard: str) -> list[str]:
    """Return the layers of a shard whose files these settings would not have made.

    A missing file is not stale. A shard without its file in images/ has no known stamps, so it counts as not stale; the
    stages check the stamps of its later files again.
    """
    stale: list[str] = []
    images = store.stamp(Layer.IMAGES, shard)
    if images is None:
        return []
    stamp = images_stamp(config.download, store, shard)
    if not images.stamp.startswith(stamp):
        stale.append(Layer.IMAGES)
    parents = {stamp if stale else images.stamp}
    if config.download.retry_failed:  # files that are older than the new images have the same settings
        parents |= {former for former in former_stamps(store, shard) if former.startswith(stamp)}
    embed, confirm = embed_step(config), confirm_step(config, steps)
    if embed and (file := store.stamp(EMBEDDINGS, shard)) and file.stamp not in {embed.stamp(each) for each in parents}:
        stale.append(EMBEDDINGS)
    for step in steps:
        parents = {step.stamp(parent) for parent in parents}
        if (file := store.stamp(step.stage.name, shard)) and file.stamp not in parents:
            stale.append(step.stage.name)
    confirmed = {confirm.stamp(each) for each in parents} if confirm else set()
    if confirm and (file := store.stamp(CONFIRMATIONS, shard)) and file.stamp not in confirmed:
        stale.append(CONFIRMATIONS)
    finished = {finish_stamp(config.rules, parent, clean=config.clean) for parent in parents}
    if (file := store.stamp(Layer.LEDGER, shard)) and stamp_of_settings(file.stamp) not in finished:
        stale.append(Layer.SDD)
    return stale


def _may_replace(config: LabelingConfig) -> bool:
    """Return whether stages may replace stale files; without that, `refuse_stale` has refused them."""
    return config.stale is Stale.REBUILD or config.download.retry_failed


def _run(
    config: LabelingConfig,
    job: ShardJob,
    layer: str,
    parent: str,
    shards: Sequence[str],
    workers: Workers,
    stop: threading.Event | None,
    nothing: str = "nothing to do",
    pools: RayPools | None = None,
) -> list[ShardReport]:
    """Make the files of these shards, and log what was made; `nothing` where the files have no rows."""
    store = ShardStore(config.root)
    start = time.monotonic()
    counter = ProgressCounter(store, layer, shards, partial(job.expected_stamp, store))
    with show_progress(layer, _count_rows(store, parent, shards), counter.count):
        reports = run_job(job, shards, workers, config.executor, stop, pools)
    log.info("%s: %s in %.1f s", layer, _summary(reports) or nothing, time.monotonic() - start)
    return _require_files(store, layer, reports)


def _require_files(store: ShardStore, layer: str, reports: list[ShardReport]) -> list[ShardReport]:
    """Return `reports`, if the files that they report exist."""
    if gaps := [r.shard for r in reports if store.stamp(layer, r.shard) is None]:
        raise StageFailed(
            f"{layer}: {len(gaps)} files are missing although their workers reported them, first that of {gaps[0]}"
        )
    return reports


def _count_rows(store: ShardStore, layer: str, shards: Sequence[str]) -> int:
    stamps = (store.stamp(layer, shard) for shard in shards)
    return sum(stamp.counts.get(State.KEPT, 0) for stamp in stamps if stamp)


def _summary(reports: Sequence[ShardReport]) -> str:
    """Return the counts of rows, reused shards and deaths; empty if all are 0."""
    counts: Counter[str] = Counter()
    for report in reports:
        counts.update(report.counts)
    reused = sum(report.reused for report in reports)
    deaths = sum(report.deaths for report in reports)
    words = [f"{counts[state]:,} {state.value.replace('_', ' ')}" for state in State if counts[state]]
    words += [f"{reused} of {len(reports)} shards reused"] if reused else []
    words += [f"{deaths} processes replaced"] if deaths else []
    return ", ".join(words)
