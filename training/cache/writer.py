"""What the frozen networks say of all pictures, written ahead of training: one file of a cache after the other.

A file is made as a job would make its batches: the same draws, by the same networks at the same precision. So training
from it differs from training without it by the rounding to float16 alone.

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
from training.cache.spec import identity_of
from training.config import TrainingJob
from training.data.cached import Array16, CachedRow, is_made, layer_of, stamp_of
from training.data.config import CacheConfig, DataConfig
from training.data.errors import CacheError, DatasetError, PoisonedRow, unless_poisoned
from training.data.loader import made_ahead
from training.data.pictures import PictureMaker, Pictures
from training.data.plan import PlannedRow, PlannedShard, planned_shard
from training.data.rows import RowReader
from training.errors import TrainingError
from training.monitoring.metrics import per_second
from training.network import network_of

log = logging.getLogger(__name__)
LINE_S = 10.0
"""Between lines that say how far a file is."""
_Half = NDArray[np.float16]


@dataclass(frozen=True, slots=True)
class Written:
    """What became of one file."""

    view: int
    shard: str
    rows: int
    left_out: int
    """Of `rows`, as their pictures cannot be made."""
    seconds: float
    """0 where the file was there."""


class CacheWriter:
    """Writes the files of a job's cache, one at a time.

    Args:
        job: with a cache.
        rebuild: make files anew that are stale or damaged.

    Raises:
        model.errors.CheckpointError: weights are missing, unreadable or do not fit each other.
    """

    def __init__(self, job: TrainingJob, device: torch.device, rebuild: bool) -> None:
        assert job.training.data.cache is not None
        self._data, self._config, self._seed = job.training.data, job.training.data.cache, job.training.seed
        self._store, self._rebuild = ShardStore(self._data.dataset), rebuild
        net = network_of(job.model, self._data)
        self._identity = identity_of(job, net)
        mean = net.image_encoder.mean.flatten().tolist()
        subjects = SubjectPictures(job.model.subject, self._data.subject_px, mean, training=True)
        self._make = PictureMaker(self._data, subjects, self._seed)
        self._encode = _Encoders(net, job, device)

    def write(self, view: int, shard: str) -> Written:
        """Write the file of a view and a shard, unless it is there.

        Raises:
            CacheError: it is there, but stale or damaged.
            DatasetError: the shard is gone, damaged or of another version.
            TrainingError: the file cannot be written, or the device has too little memory.
        """
        start, layer = time.monotonic(), layer_of(self._config, view)
        planned = planned_shard(self._store, self._data.max_subjects, shard)
        stamp = stamp_of(self._identity, self._seed, view, planned.stamp)
        with shard_lock(self._store.root, layer, shard):
            if self._is_made(layer, shard, stamp):
                return Written(view, shard, len(planned.subjects), 0, 0.0)
            sweep(self._store.path(layer, shard))
            rows = self._told(view, planned)
            try:
                counts = self._store.write_outcomes(layer, shard, rows, CachedRow, stamp, replace=self._rebuild)
            except OSError as error:
                raise TrainingError(f"{self._store.path(layer, shard)} cannot be written: {error}") from error
        left_out = counts.get(State.FAILED, 0)
        return Written(view, shard, len(planned.subjects), left_out, time.monotonic() - start)

    def _is_made(self, layer: str, shard: str, stamp: str) -> bool:
        try:
            return is_made(self._store, layer, shard, stamp)
        except CacheError:
            if not self._rebuild:
                raise
            return False

    def _told(self, view: int, shard: PlannedShard) -> Iterator[CachedRow | Refused]:
        """The rows, with a line now and then; and in the end the reasons of those that are left out."""
        left_out: Counter[str] = Counter()
        start = last = time.monotonic()
        for done, row in enumerate(self._rows(view, shard)):
            if isinstance(row, Refused):
                left_out[row.verdict.reason] += 1
            if (now := time.monotonic()) - last > LINE_S:
                rate = per_second(done / (now - start))
                log.info("view %d, %s: %d of %d images, %s/s", view, shard.name, done, len(shard.subjects), rate)
                last = now
            yield row
        if left_out:
            log.warning("view %d, %s: left out %s", view, shard.name, dict(left_out))

    def _rows(self, view: int, shard: PlannedShard) -> Iterator[CachedRow | Refused]:
        source = _Source(self._data, self._config, self._make, view, shard)
        places = [PlannedRow(shard.name, group, row) for group, n in enumerate(shard.rows_by_group) for row in range(n)]
        items, size = list(zip(places, shard.subjects.tolist(), strict=True)), self._data.batch_size
        chunks = [items[start : start + size] for start in range(0, len(items), size)]
        for chunk in made_ahead(source, chunks, self._data):
            yield from self._encode(chunk)


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Rows next to each other, before they are encoded."""

    outcomes: tuple[bytes | Refused, ...]
    """Keys of those that have pictures."""
    subjects: tuple[int, ...]
    """Of each row that has pictures."""
    images: UInt8[Tensor, "B 3 _px _px"] | None
    subject_images: UInt8[Tensor, "S 3 _s _s"] | None
    """Of all rows, one after the other."""


class _Source(Dataset[_Chunk | DatasetError]):
    """Makes the pictures of chunks, in whichever process."""

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
        made: list[tuple[int, Pictures]] = []
        for place, count in places:
            key = rows.key(place)
            pictures = unless_poisoned(partial(self._pictures, rows, place, count))
            if isinstance(pictures, PoisonedRow):
                verdict = Verdict(state=State.FAILED, reason=pictures.reason, detail=str(pictures))
                outcomes.append(Refused(key=key, verdict=verdict))
            else:
                outcomes.append(key)
                made.append((count, pictures))
        return _Chunk(
            outcomes=tuple(outcomes),
            subjects=tuple(count for count, _ in made),
            images=_pixels([one.image[None] for _, one in made if one.image is not None]),
            subject_images=_pixels([one.subjects for _, one in made if one.subjects is not None]),
        )

    def _pictures(self, rows: RowReader, place: PlannedRow, count: int) -> Pictures:
        row = rows.row(place)
        drawn = self._make.drawn(row, self._view, count)
        return self._make(row, self._view, drawn, subjects=self._features)


class _Encoders:
    """The frozen networks of a job, computing as they do in it."""

    def __init__(self, net: SubjectDiffusion, job: TrainingJob, device: torch.device) -> None:
        self._fast = job.training.precision is Precision.BFLOAT16
        if self._fast:
            net.cast_frozen(job.model.frozen_precision)
        del net.unet, net.text_encoder  # most of its memory
        self._net, self._device = net.to(device), device

    def __call__(self, chunk: _Chunk) -> Iterator[CachedRow | Refused]:
        """The rows of a chunk.

        Raises:
            TrainingError: what a network says is too large for float16, or the device has too little memory.
        """
        try:
            encoded = iter(self._encoded(chunk))
        except torch.OutOfMemoryError as error:
            raise TrainingError(
                f"{self._device} has too little memory to encode: lower training.data.batch_size "
                f"({str(error).splitlines()[0]})"
            ) from error
        for outcome in chunk.outcomes:
            if isinstance(outcome, Refused):
                yield outcome
            else:
                moments, cls, patches = next(encoded)
                yield CachedRow(key=outcome, moments=Array16.of(moments), cls=_kept(cls), patches=_kept(patches))

    def _encoded(self, chunk: _Chunk) -> Iterable[tuple[_Half, _Half | None, _Half | None]]:
        """Moments, CLS and patches of each row that has pictures."""
        if chunk.images is None:
            return []
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._fast):
            moments = _half(self._net.latent_moments(chunk.images.to(self._device)), "the VAE")
            cls, patches = self._features(chunk)
        return zip(moments, cls, patches, strict=True)

    def _features(self, chunk: _Chunk) -> tuple[Sequence[_Half | None], Sequence[_Half | None]]:
        """CLS and patches of each row's subjects; None where they are not kept."""
        if chunk.subject_images is None:
            nothing = [None] * len(chunk.subjects)
            return nothing, nothing
        features = self._net.image_encoder(chunk.subject_images[None].to(self._device))
        ends = np.cumsum(chunk.subjects)[:-1]
        cls, patches = (_half(part[0], "the image encoder") for part in (features.cls, features.patches))
        return np.split(cls, ends), np.split(patches, ends)


def _kept(array: _Half | None) -> Array16 | None:
    return None if array is None else Array16.of(array)


def _half(values: Tensor, network: str) -> _Half:
    half = values.to(torch.float16)
    if not half.isfinite().all():
        raise TrainingError(f"{network} gives values that float16 does not hold: train without training.data.cache")
    found: _Half = half.cpu().numpy()
    return found


def _pixels(pictures: Sequence[NDArray[np.uint8]]) -> Tensor | None:
    """All pictures, channels first, in channels-last memory; None where there are none."""
    return torch.from_numpy(np.concatenate(pictures)).permute(0, 3, 1, 2) if pictures else None
