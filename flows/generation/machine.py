"""The model that makes images, and where it runs."""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from flows.generation.options import Executor

if TYPE_CHECKING:
    from flows.generation.generator import Generator
    from flows.generation.jobs import Outcome, Task, TaskRunner


@dataclass(frozen=True)
class Machine:
    """The model, what runs it, and where its images go."""

    model: Path | None
    device: str | None
    dtype: str | None
    max_batch: int
    executor: Executor
    workers: int | None
    out: Path
    embed: bool
    cutout: str

    @property
    def chunk_images(self) -> int:
        """Images that a worker makes before it returns them: one batch on Ray, so that all workers get some."""
        from flows.generation.jobs import CHUNK_IMAGES

        return CHUNK_IMAGES if self.executor is Executor.LOCAL else self.max_batch

    @property
    def on_gpus(self) -> bool:
        """Whether workers on Ray reserve GPUs, if there are any."""
        return self.device is None or self.device.startswith("cuda")

    def make_generator(self, dtype: str | None = None) -> "Generator":
        """Load the model.

        Args:
            dtype: precision, unless the user chose one.
        """
        from flows.generation.generator import DEFAULT_MODEL, Generator

        precision = self.dtype or dtype or "float32"
        return Generator(self.model or DEFAULT_MODEL, self.device, precision, self.max_batch)

    def make_runner(self) -> "TaskRunner":
        """Load the model, to run tasks."""
        from flows.generation.jobs import TaskRunner

        return TaskRunner(self.make_generator(), self.embed)

    def run_chunks(
        self, chunks: "Iterator[list[Task]]", known: Collection[str], on_progress: Callable[[float], None]
    ) -> "Iterator[Outcome]":
        """Yield the outcomes of tasks, run in this process or on Ray.

        Args:
            chunks: tasks that are run together.
            known: names of files that exist already.
            on_progress: called with the images of the chunk in work that are done, 0 between chunks.
        """
        if self.executor is Executor.RAY:
            from flows.generation.ray_pool import run_on_ray

            make_runner = replace(self, model=self.model and self.model.absolute()).make_runner
            for outcome in run_on_ray(make_runner, chunks, known, self.workers, self.on_gpus):
                yield outcome
                on_progress(0)
        else:
            for chunk in chunks:
                yield from self._runner.run(chunk, known, lambda progress: on_progress(progress.done))
                on_progress(0)

    @cached_property
    def _runner(self) -> "TaskRunner":
        return self.make_runner()
