"""Batches for a worker, made ahead by processes of its own."""

import multiprocessing
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from model.batch import SubjectBatch
from model.config import ModelConfig
from model.prompt import PromptTokenizer
from model.subject import SubjectPictures
from training.data.config import DataConfig
from training.data.errors import DatasetError, PoisonedRow
from training.data.plan import Plan, PlannedBatch, PlannedRow
from training.data.rows import RowReader
from training.data.sample import Sample, SampleMaker


@dataclass(frozen=True, slots=True)
class Skipped:
    """A row that cannot be trained on."""

    row: PlannedRow
    key: bytes
    reason: str
    """One countable word."""
    detail: str


@dataclass(frozen=True, slots=True)
class LoadedBatch:
    """A batch of the plan, without its poisoned rows."""

    batch: SubjectBatch | None
    """On the host, pinned where there is a GPU, pictures in channels-last memory; None where every row was skipped."""
    number: int
    """Of the batch, in the plan."""
    keys: tuple[bytes, ...]
    """Of the rows in `batch`, in their order."""
    skipped: tuple[Skipped, ...]

    @property
    def rows(self) -> int:
        """How many rows `batch` has."""
        return len(self.keys)

    def pin_memory(self) -> "LoadedBatch":
        """The same in memory that a GPU copies from while it computes."""
        return replace(self, batch=_pinned(self.batch))


def batches(
    plan: Plan,
    config: DataConfig,
    model: ModelConfig,
    prompts: PromptTokenizer,
    mean: Sequence[float],
    numbers: Iterable[int],
) -> Iterator[LoadedBatch]:
    """The batches `numbers` of the plan, in this order.

    Args:
        prompts: the network's.
        mean: colour of the image encoder, as `ImageEncoder.mean`.

    Raises:
        DatasetError: a shard is gone, damaged, or was made anew since the plan was read.
    """
    pictures = SubjectPictures(model.subject, config.subject_px, mean, training=True)
    source = _Source(plan, config, SampleMaker(config, prompts, pictures, plan.seed))
    planned = map(plan.batch, numbers)
    for loaded in _loaded(source, planned, config) if config.processes else map(source.__getitem__, planned):
        if isinstance(loaded, DatasetError):
            raise loaded
        yield loaded


class _Source(Dataset[LoadedBatch | DatasetError]):
    """Makes the batches that it is asked for, in whichever process.

    An error is returned, as the loader would wrap a raised one in a page of text.
    """

    def __init__(self, plan: Plan, config: DataConfig, make: SampleMaker) -> None:
        self._root, self._kept_bytes = config.dataset, config.row_groups_mb << 20
        self._stamps = {shard.name: shard.stamp for shard in plan.shards}
        self._make = make
        self._reader: RowReader | None = None

    def __getitem__(self, planned: PlannedBatch) -> LoadedBatch | DatasetError:
        if self._reader is None:  # here, as connections to a store do not survive the way into another process
            self._reader = RowReader(self._root, self._stamps, self._kept_bytes)
        try:
            return self._batch(planned, self._reader)
        except DatasetError as error:
            return error

    def _batch(self, planned: PlannedBatch, reader: RowReader) -> LoadedBatch:
        samples: list[tuple[bytes, Sample]] = []
        skipped: list[Skipped] = []
        for place in planned.rows:
            key = reader.key(place)
            try:
                samples.append((key, self._make(reader.row(place), planned.epoch, planned.subjects)))
            except (DatasetError, MemoryError):
                raise
            except PoisonedRow as poison:
                skipped.append(Skipped(place, key, poison.reason, str(poison)))
            except Exception as error:  # what nobody thought of costs a row, too
                skipped.append(Skipped(place, key, type(error).__name__, str(error)))
        batch = self._stacked([sample for _, sample in samples]) if samples else None
        return LoadedBatch(batch, planned.number, tuple(key for key, _ in samples), tuple(skipped))

    def _stacked(self, samples: Sequence[Sample]) -> SubjectBatch:
        boxes = _tensor([sample.boxes for sample in samples])
        return SubjectBatch(
            prompts=self._make.prompts.stacked([sample.prompt for sample in samples]),
            boxes=boxes,
            masks=_tensor([sample.masks for sample in samples]),
            present=torch.ones(boxes.shape[:2], dtype=torch.bool),
            images=_tensor([sample.image.transpose(2, 0, 1) for sample in samples]),
            subject_images=_tensor([sample.subject_images.transpose(0, 3, 1, 2) for sample in samples]),
            full=True,
        )


def _loaded(
    source: _Source, planned: Iterable[PlannedBatch], config: DataConfig
) -> Iterator[LoadedBatch | DatasetError]:
    # Forked from a process that has imported this module and nothing else runs in: forking the worker itself would
    # copy the locks of its threads, and starting afresh would import torch once more in each process.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return iter(
        DataLoader(
            source,
            batch_size=None,
            sampler=planned,
            num_workers=config.processes,
            prefetch_factor=config.prefetch,
            multiprocessing_context=context,
            worker_init_fn=_use_one_core,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),
        )
    )


def _use_one_core(process: int) -> None:
    cv2.setNumThreads(1)  # the loader does the same for torch


def _tensor(arrays: Sequence[NDArray[Any]]) -> Tensor:
    return torch.from_numpy(np.stack(arrays))


def _pinned(part: Any) -> Any:
    if isinstance(part, Tensor):
        return part.pin_memory()
    if is_dataclass(part) and not isinstance(part, type):
        return replace(part, **{field.name: _pinned(getattr(part, field.name)) for field in fields(part)})
    return part
