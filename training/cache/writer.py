"""Writes the files of a cache: the outputs of the frozen networks for all pictures, computed before training.

A file is computed as a job computes its batches: the same draws, by the same networks, at the same precision. Training
from the cache therefore differs from training without it only by the rounding to float16.

Axes: B images, S subjects' pictures.
"""

import logging
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import UInt8
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from infra.precision import Precision
from infra.storage import sweep
from labeling.sdd.lock import shard_lock
from labeling.sdd.schema import State, Verdict
from labeling.sdd.shards import Refused, ShardStore
from model.inputs.subject import SubjectPictures
from model.subject_diffusion import SubjectDiffusion
from training.cache.spec import cache_identity
from training.config import TrainingJob
from training.data.cached import Array16, CachedRow, cache_stamp, is_current, view_layer
from training.data.config import CacheConfig, DataConfig
from training.data.errors import CacheError, DatasetError, PoisonedRow, catch_poisoned
from training.data.loader import load_ahead
from training.data.pictures import PictureMaker, Pictures
from training.data.plan import PlannedRow, PlannedShard, plan_shard
from training.data.rows import RowReader
from training.errors import TrainingError
from training.monitoring.metrics import format_rate
from training.network import load_network

log = logging.getLogger(__name__)
LOG_INTERVAL_S = 10.0
"""Seconds between progress lines of a file."""
_Half = NDArray[np.float16]


@dataclass(frozen=True, slots=True)
class CacheReport:
    """Result of writing one file."""

    view: int
    shard: str
    rows: int
    """Rows of the file, including those left out."""
    left_out: int
    """Rows without features, because their pictures could not be made."""
    seconds: float
    """Seconds that writing took; 0 where the file existed."""


class CacheWriter:
    """Writes the files of a job's cache, one at a time.

    Args:
        job: a job whose settings name a cache.
        rebuild: write stale and damaged files again.

    Raises:
        ModelWeightsError: weights are missing, unreadable or do not fit each other.
    """

    def __init__(self, job: TrainingJob, device: torch.device, rebuild: bool) -> None:
        assert job.training.data.cache is not None
        self._data, self._config, self._seed = job.training.data, job.training.data.cache, job.training.seed
        self._store, self._rebuild = ShardStore(self._data.dataset), rebuild
        net = load_network(job.model, self._data)
        self._identity = cache_identity(job, net)
        mean = net.image_encoder.mean.flatten().tolist()
        subjects = SubjectPictures(job.model.subject, self._data.subject_px, mean, training=True)
        self._make = PictureMaker(self._data, subjects, self._seed)
        self._encode = _FrozenNetworks(net, job, device)

    def write(self, view: int, shard: str) -> CacheReport:
        """Write the file of a view and a shard, unless it exists.

        Raises:
            CacheError: the file exists, but is stale or damaged.
            DatasetError: the shard is missing, damaged or of another version.
            TrainingError: the file cannot be written, or the device has too little memory.
        """
        start, layer = time.monotonic(), view_layer(self._config, view)
        planned = plan_shard(self._store, self._data.max_subjects, shard)
        stamp = cache_stamp(self._identity, self._seed, view, planned.stamp)
        with shard_lock(self._store.root, layer, shard):
            if self._is_made(layer, shard, stamp):
                return CacheReport(view, shard, len(planned.subjects), 0, 0.0)
            sweep(self._store.path(layer, shard))
            rows = self._rows_with_progress(view, planned)
            try:
                counts = self._store.write_outcomes(layer, shard, rows, CachedRow, stamp, replace=self._rebuild)
            except OSError as error:
                raise TrainingError(f"{self._store.path(layer, shard)} cannot be written: {error}") from error
        left_out = counts.get(State.FAILED, 0)
        return CacheReport(view, shard, len(planned.subjects), left_out, time.monotonic() - start)

    def _is_made(self, layer: str, shard: str, stamp: str) -> bool:
        try:
            return is_current(self._store, layer, shard, stamp)
        except CacheError:
            if not self._rebuild:
                raise
            return False

    def _rows_with_progress(self, view: int, shard: PlannedShard) -> Iterator[CachedRow | Refused]:
        """Yield the rows, and log the progress and the reasons for rows left out."""
        left_out: Counter[str] = Counter()
        start = last = time.monotonic()
        for done, row in enumerate(self._rows(view, shard)):
            if isinstance(row, Refused):
                left_out[row.verdict.reason] += 1
            if (now := time.monotonic()) - last > LOG_INTERVAL_S:
                rate = format_rate(done / (now - start))
                log.info("view %d, %s: %d of %d images, %s/s", view, shard.name, done, len(shard.subjects), rate)
                last = now
            yield row
        if left_out:
            log.warning("view %d, %s: skipped rows by reason: %s", view, shard.name, dict(left_out))

    def _rows(self, view: int, shard: PlannedShard) -> Iterator[CachedRow | Refused]:
        source = _ChunkSource(self._data, self._config, self._make, view, shard)
        places = [PlannedRow(shard.name, group, row) for group, n in enumerate(shard.rows_by_group) for row in range(n)]
        items, size = list(zip(places, shard.subjects.tolist(), strict=True)), self._data.batch_size
        chunks = [items[start : start + size] for start in range(0, len(items), size)]
        for chunk in load_ahead(source, chunks, self._data):
            yield from self._encode(chunk)


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Consecutive rows, before they are encoded."""

    outcomes: tuple[bytes | Refused, ...]
    """Key of each row that has pictures, and the reason for each other row."""
    subjects: tuple[int, ...]
    """Number of subjects of each row that has pictures."""
    images: UInt8[Tensor, "B 3 _px _px"] | None
    subject_images: UInt8[Tensor, "S 3 _s _s"] | None
    """Pictures of the subjects of all rows, one row after the other."""


class _ChunkSource(Dataset[_Chunk | DatasetError]):
    """Makes the pictures of chunks, in the writer's process or in one of the loader's."""

    def __init__(
        self, data: DataConfig, cache: CacheConfig, make: PictureMaker, view: int, shard: PlannedShard
    ) -> None:
        self._data, self._make, self._view, self._features = data, make, view, cache.features
        self._stamps = {shard.name: shard.stamp}
        self._rows: RowReader | None = None

    def __getitem__(self, places: Sequence[tuple[PlannedRow, int]]) -> _Chunk | DatasetError:
        if self._rows is None:
            self._rows = RowReader(self._data.dataset, self._stamps, self._data.row_groups_mb << 20)
        try:
            return self._chunk(self._rows, places)
        except DatasetError as error:
            return error

    def _chunk(self, rows: RowReader, places: Sequence[tuple[PlannedRow, int]]) -> _Chunk:
        outcomes: list[bytes | Refused] = []
        usable: list[tuple[int, Pictures]] = []
        for place, count in places:
            key = rows.key(place)
            pictures = catch_poisoned(partial(self._pictures, rows, place, count))
            if isinstance(pictures, PoisonedRow):
                verdict = Verdict(state=State.FAILED, reason=pictures.reason, detail=str(pictures))
                outcomes.append(Refused(key=key, verdict=verdict))
            else:
                outcomes.append(key)
                usable.append((count, pictures))
        return _Chunk(
            outcomes=tuple(outcomes),
            subjects=tuple(count for count, _ in usable),
            images=_pixels([one.image[None] for _, one in usable if one.image is not None]),
            subject_images=_pixels([one.subjects for _, one in usable if one.subjects is not None]),
        )

    def _pictures(self, rows: RowReader, place: PlannedRow, count: int) -> Pictures:
        row = rows.row(place)
        draw = self._make.draw(row, self._view, count)
        return self._make(row, self._view, draw, subjects=self._features)


class _FrozenNetworks:
    """The frozen networks of a job, with the precision that they have in training."""

    def __init__(self, net: SubjectDiffusion, job: TrainingJob, device: torch.device) -> None:
        self._fast = job.training.precision is Precision.BFLOAT16
        if self._fast:
            net.cast_frozen(job.model.frozen_precision)
        del net.unet, net.text_encoder  # not needed here, and most of the network's memory
        self._net, self._device = net.to(device), device

    def __call__(self, chunk: _Chunk) -> Iterator[CachedRow | Refused]:
        """Yield the cached rows of a chunk.

        Raises:
            TrainingError: an output is too large for float16, or the device has too little memory.
        """
        try:
            encoded = iter(self._encoded(chunk))
        except torch.OutOfMemoryError as error:
            raise TrainingError(
                f"{self._device} has too little memory to encode a batch ({str(error).splitlines()[0]}). Lower "
                "training.data.batch_size"
            ) from error
        for outcome in chunk.outcomes:
            if isinstance(outcome, Refused):
                yield outcome
            else:
                moments, cls, patches = next(encoded)
                yield CachedRow(
                    key=outcome, moments=Array16.of(moments), cls=_to_array16(cls), patches=_to_array16(patches)
                )

    def _encoded(self, chunk: _Chunk) -> Iterable[tuple[_Half, _Half | None, _Half | None]]:
        """Return moments, CLS and patches of each row that has pictures."""
        if chunk.images is None:
            return []
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._fast):
            moments = _half(self._net.latent_moments(chunk.images.to(self._device)), "the VAE")
            cls, patches = self._features(chunk)
        return zip(moments, cls, patches, strict=True)

    def _features(self, chunk: _Chunk) -> tuple[Sequence[_Half | None], Sequence[_Half | None]]:
        """Return CLS and patches of each row's subjects; None where the cache does not keep them."""
        if chunk.subject_images is None:
            absent = [None] * len(chunk.subjects)
            return absent, absent
        features = self._net.image_encoder(chunk.subject_images[None].to(self._device))
        ends = np.cumsum(chunk.subjects)[:-1]
        cls, patches = (_half(part[0], "the image encoder") for part in (features.cls, features.patches))
        return np.split(cls, ends), np.split(patches, ends)


def _to_array16(array: _Half | None) -> Array16 | None:
    return None if array is None else Array16.of(array)


def _half(values: Tensor, network: str) -> _Half:
    half = values.to(torch.float16)
    if not half.isfinite().all():
        raise TrainingError(f"{network} gives values too large for float16. Train without training.data.cache")
    array: _Half = half.cpu().numpy()
    return array


def _pixels(pictures: Sequence[NDArray[np.uint8]]) -> Tensor | None:
    """Return all pictures, channels first, in channels-last memory; None where there are none."""
    return torch.from_numpy(np.concatenate(pictures)).permute(0, 3, 1, 2) if pictures else None
