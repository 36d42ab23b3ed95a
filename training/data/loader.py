"""Loads a worker's batches ahead of their use, in processes of its own."""

import multiprocessing
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import partial
from typing import TypedDict, TypeVar, cast

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
from training.data.errors import DatasetError, PoisonedRow, catch_poisoned
from training.data.plan import Plan, PlannedBatch, PlannedRow
from training.data.rows import RowReader
from training.data.sample import EncodedPictures, Sample, SampleMaker

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class SkippedRow:
    """A row that cannot be trained on."""

    row: PlannedRow
    key: bytes
    reason: str
    """Reason in one word, by which rows are counted."""
    detail: str
    """Reason in a sentence."""


@dataclass(frozen=True, slots=True)
class LoadedBatch:
    """A batch of the plan, without its poisoned rows."""

    batch: SubjectBatch | None
    """Tensors on the host, pinned if there is a GPU, pictures channels-last; None if all rows were skipped."""
    number: int
    """Number of the batch in the plan."""
    keys: tuple[bytes, ...]
    """Keys of the rows in `batch`, in their order."""
    skipped: tuple[SkippedRow, ...]
    """Rows of the planned batch that are not in `batch`."""

    @property
    def rows(self) -> int:
        """Number of rows in `batch`."""
        return len(self.keys)

    def pin_memory(self) -> "LoadedBatch":
        """Return a copy in pinned memory, from which a GPU copies while it computes."""
        return replace(self, batch=cast("SubjectBatch | None", _pin(self.batch)))


def load_batches(
    plan: Plan,
    config: DataConfig,
    model: ModelConfig,
    prompts: PromptTokenizer,
    mean: Sequence[float],
    numbers: Iterable[int],
    cache: Cache | None = None,
) -> Iterator[LoadedBatch]:
    """Load the batches `numbers` of the plan, in this order.

    Args:
        prompts: the network's tokenizer.
        mean: mean colour of the image encoder, as `ImageEncoder.mean`.
        cache: cache whose views replace the epochs' own draws.

    Raises:
        DatasetError: a shard is missing, damaged, or was rewritten since the plan was read.
    """
    pictures = SubjectPictures(model.subject, config.subject_px, mean, training=True)
    source = _BatchSource(plan, config, SampleMaker(config, model, prompts, pictures, plan.seed), cache)
    return load_ahead(source, map(plan.batch, numbers), config)


def load_ahead(source: "Dataset[T | DatasetError]", items: Iterable[object], config: DataConfig) -> Iterator[T]:
    """Yield the results of `source` for `items`, in this order, computed in loader processes if `config` has any.

    Raises:
        DatasetError: `source` returned it. An error that it raised would arrive wrapped in a traceback.
    """
    in_this_process = map(source.__getitem__, items)
    for result in _receive_ahead(_load_in_processes(source, items, config)) if config.processes else in_this_process:
        if isinstance(result, DatasetError):
            raise result
        yield result


class _BatchSource(Dataset[LoadedBatch | DatasetError]):
    """Makes planned batches, in the worker's process or in one of its loader's."""

    def __init__(self, plan: Plan, config: DataConfig, make: SampleMaker, cache: Cache | None) -> None:
        self._config, self._make, self._cache = config, make, cache
        self._stamps = {shard.name: shard.stamp for shard in plan.shards}
        self._rows: RowReader | None = None
        self._cached: CacheReader | None = None

    def __getitem__(self, planned: PlannedBatch) -> LoadedBatch | DatasetError:
        if self._rows is None:
            self._open()
        try:
            return self._batch(planned)
        except DatasetError as error:
            return error

    def _open(self) -> None:
        """Open the dataset. Each process does this itself, because connections to a store cannot be sent to it."""
        config, cache = self._config, self._cache
        images = cache is None or not cache.config.features
        self._rows = RowReader(config.dataset, self._stamps, config.row_groups_mb << 20, images)
        self._cached = CacheReader(self._rows.groups, cache) if cache else None

    def _batch(self, planned: PlannedBatch) -> LoadedBatch:
        assert self._rows is not None
        samples: list[tuple[bytes, Sample]] = []
        skipped: list[SkippedRow] = []
        for place in planned.rows:
            key = self._rows.key(place)
            sample = catch_poisoned(partial(self._sample, self._rows, place, key, planned))
            if isinstance(sample, PoisonedRow):
                skipped.append(SkippedRow(place, key, sample.reason, str(sample)))
            else:
                samples.append((key, sample))
        batch = self._stack([sample for _, sample in samples]) if samples else None
        return LoadedBatch(batch, planned.number, tuple(key for key, _ in samples), tuple(skipped))

    def _sample(self, rows: RowReader, place: PlannedRow, key: bytes, planned: PlannedBatch) -> Sample:
        if self._cache is None or self._cached is None:
            return self._make(rows.row(place), planned.epoch, planned.subjects)
        view = self._cache.view(planned.epoch)
        encoded = self._cached(place, key, view)
        return self._make(rows.row(place), planned.epoch, planned.subjects, encoded, view)

    def _stack(self, samples: Sequence[Sample]) -> SubjectBatch:
        boxes = _tensor([sample.boxes for sample in samples])
        return SubjectBatch(
            prompts=self._make.prompts.stack([sample.prompt for sample in samples]),
            boxes=boxes,
            masks=_tensor([sample.masks for sample in samples]),
            present=torch.ones(boxes.shape[:2], dtype=torch.bool),
            images=_pixels([sample.image for sample in samples]),
            subject_images=_pixels([sample.subject_images for sample in samples]),
            full=True,
            **_cached_parts([sample.encoded for sample in samples]),
        )


class _CachedParts(TypedDict, total=False):
    latent_moments: Tensor
    image_features: ImageFeatures


def _cached_parts(samples: Sequence[EncodedPictures | None]) -> _CachedParts:
    """Return the fields of a batch that come from a cache."""
    parts = [part for part in samples if part is not None]
    if not parts:
        return {}
    moments = _tensor([part.latent_moments for part in parts])
    features = [(part.cls, part.patches) for part in parts if part.cls is not None and part.patches is not None]
    if not features:
        return {"latent_moments": moments}
    cls, patches = zip(*features, strict=True)
    return {"latent_moments": moments, "image_features": ImageFeatures(_tensor(cls), _tensor(patches))}


def _pixels(pictures: Sequence[NDArray[np.uint8] | None]) -> Tensor | None:
    """Stack pictures, channels first, in channels-last memory; None where there are none."""
    arrays = [np.moveaxis(picture, -1, -3) for picture in pictures if picture is not None]
    return _tensor(arrays) if arrays else None


def _load_in_processes(
    source: "Dataset[T | DatasetError]", items: Iterable[object], config: DataConfig
) -> Iterator[T | DatasetError]:
    # The processes are forked from a server process that has only imported this module. Forking the worker itself would
    # copy locks held by its threads, and spawning would import torch again in each process.
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
            worker_init_fn=_start_process,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),
        )
    )


def _receive_ahead(items: Iterator[T]) -> Iterator[T]:
    """Return `items`, receiving the next one and freeing the last one in a thread while the current one is in use.

    Receiving the shared memory of a batch of 16 images takes some 15 ms, freeing it 7 ms. On a GPU the thread that pins
    memory already does both.
    """
    last: T | None = None
    with ThreadPoolExecutor(max_workers=1) as thread:
        coming = thread.submit(_next_after, items)
        while (item := coming.result()) is not None:
            coming = thread.submit(_next_after, items, last)
            last = item
            yield item


def _next_after(items: Iterator[T], last: T | None = None) -> T | None:
    """Return the next item. The reference to `last` is held meanwhile, so that this thread frees it."""
    return next(items, None)


def _start_process(process: int) -> None:
    cv2.setNumThreads(1)  # the loader does the same for torch
    threading.Thread(target=_exit_with_worker, daemon=True).start()


def _exit_with_worker() -> None:
    """End this process when the worker ends. Torch only watches the fork server, which outlives a killed worker."""
    worker = multiprocessing.parent_process()
    assert worker is not None
    worker.join()
    os._exit(1)


def _tensor(arrays: Sequence[NDArray[np.generic]]) -> Tensor:
    return torch.from_numpy(np.stack(arrays))


def _pin(part: object) -> object:
    """Return a copy of a tensor, or of a dataclass with tensors, in pinned memory; other values are returned as is."""
    if isinstance(part, Tensor):
        return part.pin_memory()
    if is_dataclass(part) and not isinstance(part, type):
        return replace(part, **{field.name: _pin(getattr(part, field.name)) for field in fields(part)})
    return part
