"""Use of time by a stage, as sums over the shards that it made, so that the uses of several runs can be added."""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Self

from labeling.execution.report import ShardReport


def cpu_seconds() -> float:
    """Return the CPU-seconds of this process, and of the processes that it has waited for."""
    return sum(os.times()[:4])


@dataclass
class StageUsage:
    """Times of a stage. Those of starts of processes are apart, as they do not grow with the number of images."""

    shards: float = 0.0
    """Shards made."""
    images: float = 0.0
    """Rows of these shards: the stage's input."""
    starts: float = 0.0
    """Processes started."""
    start_s: float = 0.0
    """Seconds in which processes started and loaded their network."""
    start_cpu_s: float = 0.0
    """CPU-seconds of the same."""
    work_s: float = 0.0
    """Seconds of the workers, without starts."""
    cpu_s: float = 0.0
    """CPU-seconds of workers and supervisor, without starts."""
    gpu_s: float = 0.0
    """Seconds of workers that held a GPU, starts included."""
    images_squared: float = 0.0
    """Sum over shards of the square of their rows. With the next four, it gives the spread of the time per image."""
    images_work: float = 0.0
    """Sum over shards of rows times seconds."""
    work_squared: float = 0.0
    """Sum over shards of squared seconds."""
    images_cpu: float = 0.0
    """Sum over shards of rows times CPU-seconds."""
    cpu_squared: float = 0.0
    """Sum over shards of squared CPU-seconds."""

    @classmethod
    def of(cls, recorded: Mapping[str, float]) -> Self:
        """Return the use that `as_record` wrote; unknown entries, of a later version, are ignored."""
        return cls(**{field.name: float(recorded.get(field.name, 0.0)) for field in fields(cls)})

    def as_record(self) -> dict[str, float]:
        """Return the sums by name, rounded."""
        return {name: round(value, 3) for name, value in asdict(self).items()}

    def add(self, report: ShardReport) -> None:
        """Add a shard, unless its file was there already."""
        if report.reused:
            return
        images, work = float(sum(report.counts.values())), max(0.0, report.seconds - report.start_s)
        self.plus(
            StageUsage(
                shards=1,
                images=images,
                starts=report.starts,
                start_s=report.start_s,
                start_cpu_s=report.start_cpu_s,
                work_s=work,
                cpu_s=report.cpu_s,
                gpu_s=report.seconds if report.on_gpu else 0.0,
                images_squared=images**2,
                images_work=images * work,
                work_squared=work**2,
                images_cpu=images * report.cpu_s,
                cpu_squared=report.cpu_s**2,
            )
        )

    def plus(self, other: "StageUsage") -> None:
        """Add another use."""
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))
