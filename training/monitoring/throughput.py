"""Training speed of a worker: images per second, share of time waiting for data, share of the GPU's peak (MFU)."""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial

import torch

from model.config import ModelConfig
from model.cost.budget import TrainingBudget, training_budget
from training.data.config import DataConfig

PEAK_TFLOPS = {
    "GB200": 2500.0,
    "B200": 2250.0,
    "H200": 989.0,
    "H100 PCIe": 756.0,
    "H100": 989.0,
    "A100": 312.0,
    "L40S": 362.0,
    "L40": 181.0,
    "A10G": 70.0,
    "L4": 121.0,
    "RTX 4090": 165.0,
    "RTX 3090": 71.0,
}
"""Peak of dense bfloat16 products in TFLOP/s, by a part of the GPU's name; the first match counts."""


@dataclass(frozen=True)
class Speed:
    """Speed since the last line of metrics."""

    seconds: float
    """Seconds of training since the last line."""
    images_per_s: float
    """Images per second of all workers."""
    stall: float
    """Share of the time that this worker waited for data, 0 to 1."""
    tflops: float | None
    """TFLOP/s of this worker, without recomputation; None where the device's peak is unknown."""
    mfu: float | None
    """Share of the device's peak, 0 to 1; None where the peak is unknown."""


class Stopwatch:
    """Measures a worker's time and counts its images between two lines of metrics.

    Args:
        data: settings of the data; features that come from a cache are not counted as computed.
    """

    def __init__(self, model: ModelConfig, data: DataConfig, device: torch.device) -> None:
        self._model, self._data, self._device, self._peak = model, data, device, peak_tflops(device)
        self._begin()

    @contextmanager
    def measure_wait(self) -> Iterator[None]:
        """Count the time inside the block as waiting for data."""
        start = time.perf_counter()
        yield
        self._waited += time.perf_counter() - start

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Exclude the time inside the block from the measurement."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)  # work queued before the block counts
        start = time.perf_counter()
        yield
        self._start += time.perf_counter() - start

    def count_batch(self, images: int, subjects: int) -> None:
        """Count a batch of `images` images with `subjects` subjects each."""
        self._images[subjects] += images

    def speed(self, workers: int) -> Speed:
        """Return the speed since the last call. The device must have finished the counted batches."""
        seconds, images = time.perf_counter() - self._start, self._images.total()
        tflops = None
        if self._peak is not None:
            per_image = partial(flops_per_image, self._model, self._data)
            flops = sum(count * per_image(subjects) for subjects, count in self._images.items())
            tflops = flops / seconds / 1e12
        speed = Speed(
            seconds=seconds,
            images_per_s=workers * images / seconds,
            stall=self._waited / seconds,
            tflops=tflops,
            mfu=None if tflops is None or self._peak is None else tflops / self._peak,
        )
        self._begin()
        return speed

    def _begin(self) -> None:
        self._start, self._waited = time.perf_counter(), 0.0
        self._images: Counter[int] = Counter()


def peak_tflops(device: torch.device) -> float | None:
    """Return the peak of bfloat16 products on `device` in TFLOP/s; None where it is unknown."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in PEAK_TFLOPS.items() if part in name), None)


def flops_per_image(model: ModelConfig, data: DataConfig, subjects: int) -> float:
    """Return the FLOPs of a training step per image, forward and backward, without features read from a cache."""
    latents, features = data.cache is not None, data.cache is not None and data.cache.features
    return float(_budget(model, subjects, data.image_px).flops(cached_latents=latents, cached_features=features))


@cache
def _budget(model: ModelConfig, subjects: int, image_px: int) -> TrainingBudget:
    return training_budget(model, 1, subjects, image_px)
