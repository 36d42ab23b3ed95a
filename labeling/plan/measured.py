"""What a pilot has measured: times of its stages from `runs/`, and rows and bytes of its files."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from pydantic import ValidationError

from infra.storage import storage_path
from labeling.config import LabelingConfig
from labeling.errors import LabelingError
from labeling.execution.record import RecordFile, read_runs
from labeling.execution.usage import StageUsage
from labeling.plan.intervals import Sums
from labeling.sdd.schema import CONFIRMATIONS, EMBEDDINGS, Layer
from labeling.sdd.shards import ShardStore

STAGES = (Layer.IMAGES, Layer.CAPTIONS, Layer.NOUNS, Layer.DETECTIONS, Layer.ENTITIES, Layer.SDD)
OPTIONAL_STAGES = (CONFIRMATIONS, EMBEDDINGS)
"""Stages that a plan counts if settings ask for them. The search for similar images is none: its time grows with the
square of the number of images."""
_READERS = 16


@dataclass(frozen=True, slots=True)
class Measured:
    """Measurements of a pilot."""

    root: str
    host: str
    urls: int
    """URLs of its finished shards."""
    usage: Mapping[str, StageUsage]
    """Use of time by stage."""
    rows: Mapping[str, int]
    """Rows of each stage's input in the finished shards."""
    bytes_of_urls: Mapping[str, Sums]
    """URLs of the shards, and bytes of their files, by layer."""
    other_cpu_s: float
    """CPU-seconds of a part of the list that belong to no shard: starts of processes, and supervision."""


def measure(root: str) -> Measured:
    """Read what the runs of a dataset have measured.

    Raises:
        LabelingError: no run has recorded the times of a stage, or no shard is finished.
    """
    store = ShardStore(root)
    runs = [run for run in read_runs(store.root) if run.get("usage")]
    usage: dict[str, StageUsage] = {stage: _sum_of(runs, stage) for stage in (*STAGES, *OPTIONAL_STAGES)}
    if missing := [stage.value for stage in STAGES if not usage[stage].images]:
        raise LabelingError(
            f"{root}: no run in runs/ records the times of {', '.join(missing)}: give a build of this version, or run "
            "a pilot without --from"
        )
    shards = store.shards(Layer.LEDGER)
    if not shards:
        raise LabelingError(f"{root} has no finished shard: resume its build")
    folders = (*Layer, *OPTIONAL_STAGES)
    files = {folder: _files(store, folder, shards) for folder in folders}
    urls = [rows for rows, _ in files[Layer.URLS]]
    rows: dict[str, int] = {
        stage: sum(count for count, _ in files[stage]) for stage in (*STAGES[:-1], *OPTIONAL_STAGES)
    }
    sizes: dict[str, Sums] = {folder: Sums.of(urls, [size for _, size in files[folder]]) for folder in folders}
    host = str(runs[-1].get("host", ""))
    return Measured(
        root, host, sum(urls), usage, rows | {Layer.SDD: sum(urls)}, sizes, sum(map(_other_cpu_s, runs)) / _parts(runs)
    )


def settings_of(root: str) -> LabelingConfig:
    """Return the settings of the last recorded run of a dataset.

    Raises:
        LabelingError: there is none, or this version does not read its settings.
    """
    runs = read_runs(storage_path(root))
    if not runs:
        raise LabelingError(f"{root}: no run is recorded in runs/: run a pilot without --from")
    try:
        return LabelingConfig.model_validate(runs[-1].get("settings"))
    except ValidationError as error:
        raise LabelingError(
            f"{root}: the settings of its last run are not those of this version ({error.error_count()} differ): give "
            "them with --config"
        ) from None


def _sum_of(runs: list[RecordFile], stage: str) -> StageUsage:
    usage = StageUsage()
    for run in runs:
        usage.plus(StageUsage.of(run.get("usage", {}).get(stage, {})))
    return usage


def _other_cpu_s(run: RecordFile) -> float:
    """Return the CPU-seconds of a run that none of its shards used; 0 on Ray, whose workers are not its children."""
    own = sum(usage.get("cpu_s", 0.0) + usage.get("start_cpu_s", 0.0) for usage in run.get("usage", {}).values())
    return max(0.0, run.get("cpu_s", 0.0) - own)


def _parts(runs: list[RecordFile]) -> int:
    """Return the parts of the list over all runs."""
    sizes = []
    for run in runs:
        settings = run.get("settings")
        per_part = settings.get("shards_per_part", 64) if isinstance(settings, dict) else 64
        sizes.append(-(-run.get("shards", 1) // per_part))
    return max(1, sum(sizes))


def _files(store: ShardStore, layer: str, shards: list[str]) -> list[tuple[int, int]]:
    """Return rows and bytes of each shard's file; zeros for a missing one."""
    with ThreadPoolExecutor(_READERS) as readers:
        return list(readers.map(lambda shard: _file(store, layer, shard), shards))


def _file(store: ShardStore, layer: str, shard: str) -> tuple[int, int]:
    stamp = store.stamp(layer, shard)
    if stamp is None:
        return 0, 0
    return sum(stamp.counts.values()), store.path(layer, shard).stat().st_size
