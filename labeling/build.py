"""The build, Fig. 2 from top to bottom, as a chain of coarse calls: one per stage and part of the list.

Who makes the calls is the caller's choice (`Caller`): this process, or Prefect tasks. A run that stopped goes on
where it stopped, as each shard of each layer is a file, and a file that is there is not made again.
"""

import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

from infra.storage import refuse_unwritable, storage_path
from labeling.config import Executor, LabelingConfig, NounConfig, Stale, WeightsConfig, WeightsKind, Workers
from labeling.download.image_shards import images_stamp
from labeling.download.stage import download_shards
from labeling.download.url_list import plan_urls
from labeling.download.work_files import former_stamps
from labeling.errors import ShardStale, StageFailed
from labeling.execution.gpus import gpu_share
from labeling.execution.network_job import NetworkJob
from labeling.execution.progress import ProgressCounter, show_progress
from labeling.execution.record import RunRecord, record_run
from labeling.execution.report import ShardReport
from labeling.execution.run import ShardJob, gpus_per_node, run_job, torch_threads
from labeling.finish import FinishJob, finish_stamp
from labeling.sdd.membership import refuse_other_datasets, refuse_unlisted_files
from labeling.sdd.schema import Layer, State
from labeling.sdd.shards import ShardStore
from labeling.steps import Step, steps_of

log = logging.getLogger(__name__)
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class Result(Protocol[R_co]):
    """What a submitted call will give."""

    def result(self) -> R_co:
        """Wait for it; raises what the call raised."""


class Caller(Protocol):
    """Runs the calls of the chain and shows them to whoever watches."""

    def submit(self, name: str, function: Callable[..., R], *args: Any) -> Result[R]:
        """Start `function(*args)`; it may be tried again, and finds then what is done already."""


class LocalCaller:
    """Runs the calls in threads of this process, once each. They keep no process alive: Ray cannot be stopped."""

    def submit(self, name: str, function: Callable[..., R], *args: Any) -> Result[R]:
        log.debug("%s begins", name)
        future: Future[R] = Future()
        threading.Thread(target=_call, args=(future, function, args), name=name, daemon=True).start()
        return future


def _call(future: "Future[R]", function: Callable[..., R], args: Sequence[Any]) -> None:
    try:
        future.set_result(function(*args))
    except BaseException as error:
        future.set_exception(error)


def build(config: LabelingConfig, caller: Caller) -> dict[str, int]:
    """Make every file of the dataset that is not there yet; the input URLs by state.

    Raises:
        SettingsError: the folder of the dataset cannot be written.
        BadInput: the list of URLs cannot be used.
        ShardCorrupt: a file is damaged, or is not the dataset's.
        DeviceError: a stage asks for GPUs that the Ray cluster lacks.
        ShardStale: files were made under other settings and `config.stale` is refuse; nothing has been done.
        StageFailed: a stage could not make its files.
    """
    config = with_absolute_paths(config)
    refuse_unwritable(storage_path(config.root), "labeling.root")
    steps = steps_of(config)
    refuse_missing_gpus(config, steps)
    shards = caller.submit("plan", plan_urls, config).result()
    refuse_unlisted_files(ShardStore(config.root))
    refuse_stale(config, steps, shards)
    stop = threading.Event()
    with record_run(config, steps, len(shards)) as record:
        try:
            _make_parts(config, caller, steps, shards, record, stop)
        except BaseException:  # an interrupt too
            stop.set()  # what is under way beside it
            raise
    return record.counts.get(Layer.SDD, {})


def _make_parts(
    config: LabelingConfig,
    caller: Caller,
    steps: Sequence[Step],
    shards: Sequence[str],
    record: RunRecord,
    stop: threading.Event,
) -> None:
    parts = [shards[i : i + config.shards_per_part] for i in range(0, len(shards), config.shards_per_part)]
    download = caller.submit("download, part 1", download_part, config, parts[0], stop) if parts else None
    for n, part in enumerate(parts, start=1):
        assert download is not None
        record.add(Layer.IMAGES, download.result())
        if n < len(parts):  # the next part comes in while this one is labelled
            download = caller.submit(f"download, part {n + 1}", download_part, config, parts[n], stop)
        for step in steps:
            name = f"{step.stage.name}, part {n}"
            call = caller.submit(name, label_part, config, step, part, record.name, stop)
            record.add(step.stage.name, call.result())
        record.add(Layer.SDD, caller.submit(f"rules, part {n}", finish_part, config, steps, part, stop).result())


def with_absolute_paths(config: LabelingConfig) -> LabelingConfig:
    """Return `config` with absolute paths for local files, as workers may have another working directory."""
    tables = {name: _with_absolute_weights(table) for name, table in config.weights_tables.items()}
    urls = config.urls and str(storage_path(config.urls))
    return config.model_copy(update={"root": str(storage_path(config.root)), "urls": urls, **tables})


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
    """Make images/ of these shards."""
    store = ShardStore(config.root)
    counter = ProgressCounter(store, Layer.IMAGES, shards)
    with show_progress(Layer.IMAGES, _rows(store, Layer.URLS, shards), counter.count):
        reports = download_shards(config, shards, stop)
    return _checked(store, Layer.IMAGES, reports)


def label_part(
    config: LabelingConfig, step: Step, shards: Sequence[str], run: str, stop: threading.Event | None = None
) -> list[ShardReport]:
    """Make the files of one stage for these shards."""
    workers: Workers = getattr(config.workers, step.stage.name)
    job = NetworkJob(
        step=step,
        root=config.root,
        workers=workers,
        run=run,
        torch_threads=torch_threads(workers, config.executor),
        replace=_may_replace(config),
    )
    return _run(config, job, step.stage.name, step.reads[-1], shards, workers, stop)


def finish_part(
    config: LabelingConfig, steps: Sequence[Step], shards: Sequence[str], stop: threading.Event | None = None
) -> list[ShardReport]:
    """Make sdd/ and ledger/ of these shards."""
    layers = (Layer.IMAGES, *(step.stage.name for step in steps))
    job = FinishJob(root=config.root, rules=config.rules, layers=layers, replace=_may_replace(config))
    return _run(config, job, Layer.LEDGER, Layer.URLS, shards, config.workers.sdd, stop)


def refuse_missing_gpus(config: LabelingConfig, steps: Sequence[Step]) -> None:
    """Compare the settings of all stages with the cards of the Ray cluster before anything is done.

    Raises:
        DeviceError: a stage asks for GPUs that the cluster lacks, or that the stage would not use.
    """
    if config.executor is Executor.RAY:
        available = gpus_per_node()
        for step in steps:
            workers: Workers = getattr(config.workers, step.stage.name)
            gpu_share(step.stage.name, step.device, workers, workers.count, available)


def refuse_stale(config: LabelingConfig, steps: Sequence[Step], shards: Sequence[str]) -> None:
    """Look at the footers of all files before anything is done.

    Raises:
        ShardStale: some were made under other settings, and `config.stale` is refuse; says which stages would run.
        ShardCorrupt: a file that these settings would not have made is of another dataset.
    """
    if config.stale is Stale.REBUILD:
        return
    counts = _stale(config, steps, shards)
    if counts:
        refuse_other_datasets(ShardStore(config.root), shards)
        download = config.download.model_copy(update={"retry_failed": True})
        if not _stale(config.model_copy(update={"download": download}), steps, shards):
            raise ShardStale(
                f"{config.root}: shards gained images in a run that tried failed URLs again and has not ended: go on "
                "with it, by --set labeling.download.retry_failed=true"
            )
        if not _stale(config, [_before_stop_lists(step) for step in steps], shards):
            raise ShardStale(
                f"{config.root} was begun before nouns had stop lists: resume it with "
                "--set 'labeling.nouns.stop_words=[]' --set 'labeling.nouns.stop_phrases=[]' "
                "--set labeling.nouns.singular=false --set 'labeling.nouns.renamed={}', or let the stages run again "
                "with --set labeling.stale=rebuild"
            )
        order = [Layer.IMAGES, *(step.stage.name for step in steps), Layer.SDD]
        layers = ", ".join(f"{layer}/ ({counts[layer]} shards)" for layer in order if layer in counts)
        raise ShardStale(
            f"{config.root} holds files made under other settings: {layers}. Give a new root, or let the stages "
            "run again with --set labeling.stale=rebuild"
        )


def _before_stop_lists(step: Step) -> Step:
    """The step as it was before nouns were left out, renamed or made singular; other steps are what they were."""
    config = step.stage.config
    if not isinstance(config, NounConfig):
        return step
    former = config.model_copy(update={"stop_words": (), "stop_phrases": (), "singular": False, "renamed": {}})
    return replace(step, identity=step.identity.replace(config.fingerprint(), former.fingerprint()))


def _stale(config: LabelingConfig, steps: Sequence[Step], shards: Sequence[str]) -> Counter[str]:
    """How many shards of each layer are stale."""
    store = ShardStore(config.root)
    with ThreadPoolExecutor(16) as pool:
        found = pool.map(lambda shard: stale_layers(store, config, steps, shard), shards)
        return Counter(layer for layers in found for layer in layers)


def stale_layers(store: ShardStore, config: LabelingConfig, steps: Sequence[Step], shard: str) -> list[str]:
    """The layers of a shard whose files these settings would not have made; an absent file is not stale, and without
    its images nothing is known of a shard: who makes a later file looks at the stamp again."""
    stale: list[str] = []
    images = store.stamp(Layer.IMAGES, shard)
    if images is None:
        return []
    stamp = images_stamp(config.download, store, shard)
    if not images.stamp.startswith(stamp):
        stale.append(Layer.IMAGES)
    parents = {stamp if stale else images.stamp}
    if config.download.retry_failed:  # files from before the shard gained images were made under the same settings
        parents |= {former for former in former_stamps(store, shard) if former.startswith(stamp)}
    for step in steps:
        parents = {step.stamp(parent) for parent in parents}
        if (found := store.stamp(step.stage.name, shard)) and found.stamp not in parents:
            stale.append(step.stage.name)
    finished = {finish_stamp(config.rules, parent) for parent in parents}
    if (found := store.stamp(Layer.LEDGER, shard)) and found.stamp not in finished:
        stale.append(Layer.SDD)
    return stale


def _may_replace(config: LabelingConfig) -> bool:
    """Whether a file with another stamp is made again; `refuse_stale` has looked before."""
    return config.stale is Stale.REBUILD or config.download.retry_failed


def _run(
    config: LabelingConfig,
    job: ShardJob,
    layer: str,
    parent: str,
    shards: Sequence[str],
    workers: Workers,
    stop: threading.Event | None,
) -> list[ShardReport]:
    store = ShardStore(config.root)
    start = time.monotonic()
    counter = ProgressCounter(store, layer, shards, job.expected_stamp)
    with show_progress(layer, _rows(store, parent, shards), counter.count):
        reports = run_job(job, shards, workers, config.executor, stop)
    log.info("%s: %s in %.1f s", layer, _summary(reports), time.monotonic() - start)
    return _checked(store, layer, reports)


def _checked(store: ShardStore, layer: str, reports: list[ShardReport]) -> list[ShardReport]:
    """Reports are words; files are what counts."""
    if gaps := [r.shard for r in reports if store.stamp(layer, r.shard) is None]:
        raise StageFailed(
            f"{layer}: {len(gaps)} shards are not there although they were reported made, {gaps[0]} first"
        )
    return reports


def _rows(store: ShardStore, layer: str, shards: Sequence[str]) -> int:
    stamps = (store.stamp(layer, shard) for shard in shards)
    return sum(stamp.counts.get(State.KEPT, 0) for stamp in stamps if stamp)


def _summary(reports: Sequence[ShardReport]) -> str:
    counts: Counter[str] = Counter()
    for report in reports:
        counts.update(report.counts)
    reused = sum(report.reused for report in reports)
    deaths = sum(report.deaths for report in reports)
    words = [f"{counts[state]:,} {state.value.replace('_', ' ')}" for state in State if counts[state]]
    words += [f"{reused} of {len(reports)} shards reused"] if reused else []
    words += [f"{deaths} processes replaced"] if deaths else []
    return ", ".join(words) or "nothing to do"
