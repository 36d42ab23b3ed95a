"""Estimate of time, CPUs, GPUs, storage and money for a list, from what a pilot has measured.

The time of a stage is a part for each shard, a part for each image, and that of the starts of its processes: one for
each worker and part of the list, and for each shard of images/. The images of a stage are the URLs times the share of
the pilot's URLs that came to it. Intervals hold the spread between the pilot's shards and that of the share; those of
stages are added as if all erred together.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from labeling.config import DownloadWorkers, LabelingConfig, Workers
from labeling.errors import LabelingError
from labeling.execution.usage import StageUsage
from labeling.plan.intervals import Interval, Sums, share, total
from labeling.plan.measured import OPTIONAL_STAGES, STAGES, Measured
from labeling.sdd.schema import Layer

_HOUR_S = 3600


@dataclass(frozen=True, slots=True)
class StagePlan:
    """Estimate of one stage."""

    stage: str
    workers: int
    images: Interval
    """Its input."""
    wall_s: Interval
    """Seconds with all workers, if they share the work evenly."""
    cpu_s: Interval
    gpu_s: Interval
    """Seconds of GPUs; 0 if the pilot used none."""
    storage: Interval
    """Bytes of its files."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Estimate of a build."""

    urls: int
    pilot: str
    pilot_urls: int
    pilot_shards: int
    host: str
    stages: tuple[StagePlan, ...]
    other_cpu_s: float
    """CPU-seconds of no stage: starts of the pool of the download, and supervision."""
    wall_s: Interval
    cpu_s: Interval
    gpu_s: Interval
    storage: Interval
    bottleneck: str
    """Stage that takes most of the time."""
    not_counted: tuple[str, ...]
    """Optional folders of the build whose time and storage are not counted."""

    def cost(self, cpu_price: float, gpu_price: float) -> Interval:
        """Return the price of the build, for prices of a CPU-hour and a GPU-hour."""
        return total([self.cpu_s.times(cpu_price / _HOUR_S), self.gpu_s.times(gpu_price / _HOUR_S)])


def estimate(measured: Measured, config: LabelingConfig, urls: int) -> Plan:
    """Estimate a build of `urls` URLs.

    Args:
        measured: measurements of the pilot.
        config: settings of the planned build, for its workers, shards and parts.
        urls: length of the list.

    Raises:
        LabelingError: the settings ask for an optional stage whose times the pilot has not recorded.
    """
    optional = [stage for stage in OPTIONAL_STAGES if stage in config.optional_folders]
    if missing := [stage for stage in optional if not measured.usage[stage].images]:
        raise LabelingError(
            f"{measured.root}: no run in runs/ records the times of {', '.join(missing)}, for which the settings ask: "
            "run a pilot without --from, or switch them off with --set"
        )
    order = (*STAGES[:-1], *optional, STAGES[-1])
    stages = tuple(_stage_plan(stage, measured, config, urls) for stage in order)
    parts = -(-urls // (config.images_per_shard * config.shards_per_part))
    listed = _storage(measured, (Layer.URLS,), config, urls)
    other = measured.other_cpu_s * parts
    return Plan(
        urls=urls,
        pilot=measured.root,
        pilot_urls=measured.urls,
        pilot_shards=int(measured.usage[Layer.IMAGES].shards),
        host=measured.host,
        stages=stages,
        other_cpu_s=other,
        wall_s=_wall(stages, parts),
        cpu_s=total([stage.cpu_s for stage in stages]).plus(other),
        gpu_s=total([stage.gpu_s for stage in stages]),
        storage=total([*(stage.storage for stage in stages), listed]),
        bottleneck=max(stages, key=lambda stage: stage.wall_s.value).stage,
        not_counted=tuple(folder for folder in config.optional_folders if folder not in OPTIONAL_STAGES),
    )


def _stage_plan(stage: str, measured: Measured, config: LabelingConfig, urls: int) -> StagePlan:
    usage = measured.usage[stage]
    workers = _workers(config, stage)
    images = _images(measured, stage, urls)
    starts = _starts(stage, usage, config, urls, workers)
    start_s, start_cpu_s = (
        spent / usage.starts if usage.starts else 0.0 for spent in (usage.start_s, usage.start_cpu_s)
    )
    shards = -(-urls // config.images_per_shard)
    work_s, cpu_s = _work(usage).cost(shards, images), _cpu(usage).cost(shards, images)
    gpus = _gpus_per_worker(config, stage) if usage.gpu_s else 0.0
    layers = (Layer.SDD, Layer.LEDGER) if stage == Layer.SDD else (stage,)
    return StagePlan(
        stage=stage,
        workers=workers,
        images=images,
        wall_s=work_s.plus(starts * start_s).times(1 / workers),
        cpu_s=cpu_s.plus(starts * start_cpu_s),
        gpu_s=work_s.plus(starts * start_s).times(gpus),
        storage=_storage(measured, layers, config, urls),
    )


def _images(measured: Measured, stage: str, urls: int) -> Interval:
    if stage in (Layer.IMAGES, Layer.SDD):
        return Interval(urls, 0.0)
    reached = share(measured.rows[stage], measured.urls)
    return Interval(reached.value, reached.half_width).times(urls)


def _work(usage: StageUsage) -> Sums:
    """Return images and seconds of the shards, without starts."""
    return Sums(usage.shards, usage.images, usage.work_s, usage.images_squared, usage.images_work, usage.work_squared)


def _cpu(usage: StageUsage) -> Sums:
    """Return images and CPU-seconds of the shards, without starts."""
    return Sums(usage.shards, usage.images, usage.cpu_s, usage.images_squared, usage.images_cpu, usage.cpu_squared)


def _workers(config: LabelingConfig, stage: str) -> int:
    workers: Workers | DownloadWorkers = getattr(config.workers, stage)
    return workers.processes if isinstance(workers, DownloadWorkers) else workers.count


def _gpus_per_worker(config: LabelingConfig, stage: str) -> float:
    workers: Workers = getattr(config.workers, stage)
    return 1.0 if workers.gpus is None else workers.gpus


def _starts(stage: str, usage: StageUsage, config: LabelingConfig, urls: int, workers: int) -> float:
    """Return the processes that start: those of the workers in each part of the list, or one a shard in images/."""
    shards = -(-urls // config.images_per_shard)
    if stage == Layer.IMAGES:
        return shards * usage.starts / usage.shards
    if not usage.starts:
        return 0.0
    parts, rest = divmod(shards, config.shards_per_part)
    return parts * min(workers, config.shards_per_part) + min(workers, rest)


def _storage(measured: Measured, layers: Sequence[str], config: LabelingConfig, urls: int) -> Interval:
    shards = -(-urls // config.images_per_shard)
    return total([measured.bytes_of_urls[layer].cost(shards, Interval(urls, 0.0)) for layer in layers])


def _wall(stages: tuple[StagePlan, ...], parts: int) -> Interval:
    """Return the time of the build: a part is labelled while the next one is downloaded."""
    download, *labelling = (stage.wall_s for stage in stages)
    label = total(labelling)
    longer, other = (download, label) if download.value > label.value else (label, download)
    first = other.times(1 / parts)
    return total([longer, first])
