"""Batches for a worker, made ahead by processes of its own."""

import multiprocessing
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import partial
from typing import Any, TypeVar

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from model.config import ModelConfig
from model.inputs.batch import ImageFeatures, SubjectBatch
from model.inputs.prompt import PromptTokenizer
from model.inputs.subject import SubjectPictures
from training.data.cached import Cache, CacheReader
from training.data.config import DataConfig
from training.data.errors import DatasetError, PoisonedRow, unless_poisoned
from training.data.plan import Plan, PlannedBatch, PlannedRow
from training.data.rows import RowReader
from training.data.sample import Encoded, Sample, SampleMaker

T = TypeVar("T")


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
    cache: Cache | None = None,
) -> Iterator[LoadedBatch]:
    """The batches `numbers` of the plan, in this order.

    Args:
        prompts: the network's.
        mean: colour of the image encoder, as `ImageEncoder.mean`.
        cache: whose views take the place of the epochs' own draws.

    Raises:
        DatasetError: a shard is gone, damaged, or was made anew since the plan was read.
    """
    pictures = SubjectPictures(model.subject, config.subject_px, mean, training=True)
    source = _Source(plan, config, SampleMaker(config, model, prompts, pictures, plan.seed), cache)
    return made_ahead(source, map(plan.batch, numbers), config)


def made_ahead(source: "Dataset[T | DatasetError]", items: Iterable[Any], config: DataConfig) -> Iterator[T]:
    """What `source` makes of each of `items`, in this order, in processes of its own where `config` has any.

    Raises:
        DatasetError: `source` returned it; what is raised there comes wrapped in a page of text.
    """
    in_turn = map(source.__getitem__, items)
    for made in _received_ahead(_made_in_processes(source, items, config)) if config.processes else in_turn:
        if isinstance(made, DatasetError):
            raise made
        yield made


class _Source(Dataset[LoadedBatch | DatasetError]):
    """Makes the batches that it is asked for, in whichever process."""

    def __init__(self, plan: Plan, config: DataConfig, make: SampleMaker, cache: Cache | None) -> None:
        self._config, self._make, self._cache = config, make, cache
        self._stamps = {shard.name: shard.stamp for shard in plan.shards}
        self._rows: RowReader | None = None
        self._encoded: CacheReader | None = None

    def __getitem__(self, planned: PlannedBatch) -> LoadedBatch | DatasetError:
        if self._rows is None:
            self._open()
        try:
            return self._batch(planned)
        except DatasetError as error:
            return error

    def _open(self) -> None:
        """Here, as connections to a store do not survive the way into another process."""
        config, cache = self._config, self._cache
        images = cache is None or not cache.config.features
        self._rows = RowReader(config.dataset, self._stamps, config.row_groups_mb << 20, images)
        self._encoded = CacheReader(self._rows.groups, cache) if cache else None

    def _batch(self, planned: PlannedBatch) -> LoadedBatch:
        assert self._rows is not None
        samples: list[tuple[bytes, Sample]] = []
        skipped: list[Skipped] = []
        for place in planned.rows:
            key = self._rows.key(place)
            made = unless_poisoned(partial(self._sample, self._rows, place, key, planned))
            if isinstance(made, PoisonedRow):
                skipped.append(Skipped(place, key, made.reason, str(made)))
            else:
                samples.append((key, made))
        batch = self._stacked([sample for _, sample in samples]) if samples else None
        return LoadedBatch(batch, planned.number, tuple(key for key, _ in samples), tuple(skipped))

    def _sample(self, rows: RowReader, place: PlannedRow, key: bytes, planned: PlannedBatch) -> Sample:
        if self._cache is None or self._encoded is None:
            return self._make(rows.row(place), planned.epoch, planned.subjects)
        view = self._cache.view(planned.epoch)
        encoded = self._encoded(place, key, view)
        return self._make(rows.row(place), planned.epoch, planned.subjects, encoded, view)

    def _stacked(self, samples: Sequence[Sample]) -> SubjectBatch:
        boxes = _tensor([sample.boxes for sample in samples])
        return SubjectBatch(
            prompts=self._make.prompts.stack([sample.prompt for sample in samples]),
            boxes=boxes,
            masks=_tensor([sample.masks for sample in samples]),
            present=torch.ones(boxes.shape[:2], dtype=torch.bool),
            images=_pixels([sample.image for sample in samples]),
            subject_images=_pixels([sample.subject_images for sample in samples]),
            full=True,
            **_encoded([sample.encoded for sample in samples]),
        )


def _encoded(samples: Sequence[Encoded | None]) -> dict[str, Any]:
    """Those parts of a batch that are encoded, by name."""
    parts = [part for part in samples if part is not None]
    if not parts:
        return {}
    found: dict[str, Any] = {"latent_moments": _tensor([part.latent_moments for part in parts])}
    features = [(part.cls, part.patches) for part in parts if part.cls is not None and part.patches is not None]
    if features:
        cls, patches = zip(*features, strict=True)
        found["image_features"] = ImageFeatures(_tensor(cls), _tensor(patches))
    return found


def _pixels(pictures: Sequence[NDArray[np.uint8] | None]) -> Tensor | None:
    """Channels first, in channels-last memory; None where there are no pictures."""
    arrays = [np.moveaxis(picture, -1, -3) for picture in pictures if picture is not None]
    return _tensor(arrays) if arrays else None


def _made_in_processes(
    source: "Dataset[T | DatasetError]", items: Iterable[Any], config: DataConfig
) -> Iterator[T | DatasetError]:
    # Forked from a process that has imported this module and nothing else runs in: forking the worker itself would
    # copy the locks of its threads, and starting afresh would import torch once more in each process.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return iter(
        DataLoader(
            source,
            batch_size=None,
            sampler=items,
            num_workers=config.processes,
            prefetch_factor=config.prefetch,
            multiprocessing_context=context,
            worker_init_fn=_start,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),
        )
    )


def _received_ahead(items: Iterator[T]) -> Iterator[T]:
    """The same, the next one taken over and the last one let go while this one is worked on: the memory that a batch
    of 16 images is shared in takes some 15 ms to hand over and 7 ms to give back. On a GPU the thread that pins
    memory does both already."""
    last: T | None = None
    with ThreadPoolExecutor(max_workers=1) as thread:
        coming = thread.submit(_next_after, items)
        while (item := coming.result()) is not None:
            coming = thread.submit(_next_after, items, last)
            last = item
            yield item


def _next_after(items: Iterator[T], last: T | None = None) -> T | None:
    """The next one; `last` is held until it has come, so that it ends in this thread and not in its user's."""
    return next(items, None)


def _start(process: int) -> None:
    cv2.setNumThreads(1)  # the loader does the same for torch
    threading.Thread(target=_end_with_the_worker, daemon=True).start()


def _end_with_the_worker() -> None:
    """The loader watches who forked this process, which is the fork server: it outlives a worker that was killed."""
    worker = multiprocessing.parent_process()
    assert worker is not None
    worker.join()
    os._exit(1)


def _tensor(arrays: Sequence[NDArray[Any]]) -> Tensor:
    return torch.from_numpy(np.stack(arrays))


def _pinned(part: Any) -> Any:
    if isinstance(part, Tensor):
        return part.pin_memory()
    if is_dataclass(part) and not isinstance(part, type):
        return replace(part, **{field.name: _pinned(getattr(part, field.name)) for field in fields(part)})
    return part
