"""How fast a worker trains: images per second, share of time spent waiting for data, share of the GPU's peak (MFU)."""

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
"""Dense bfloat16, by a part of the GPU's name; of several the first."""


@dataclass(frozen=True)
class Speed:
    """Since the line of metrics before."""

    seconds: float
    images_per_s: float
    """Of all workers."""
    stall: float
    """Share of the time that this worker waited for data."""
    tflops: float | None
    """Of this worker, without what is recomputed; None where no peak is known to compare it with."""
    mfu: float | None
    """Share of its device's peak."""


class Stopwatch:
    """Counts what a worker does between two lines of metrics.

    Args:
        data: what is trained on, of which the cache is not computed.
    """

    def __init__(self, model: ModelConfig, data: DataConfig, device: torch.device) -> None:
        self._model, self._data, self._device, self._peak = model, data, device, peak_tflops(device)
        self._begin()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Time within is time without data."""
        start = time.perf_counter()
        yield
        self._waited += time.perf_counter() - start

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Time within is nobody's."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)  # what was begun before counts
        start = time.perf_counter()
        yield
        self._start += time.perf_counter() - start

    def computed(self, images: int, subjects: int) -> None:
        """Count a batch."""
        self._images[subjects] += images

    def speed(self, workers: int) -> Speed:
        """Since it was last asked. The device must have finished what was counted."""
        seconds, images = time.perf_counter() - self._start, self._images.total()
        tflops = None
        if self._peak is not None:
            per_image = partial(flops_per_image, self._model, self._data)
            flops = sum(count * per_image(subjects) for subjects, count in self._images.items())
            tflops = flops / seconds / 1e12
        found = Speed(
            seconds=seconds,
            images_per_s=workers * images / seconds,
            stall=self._waited / seconds,
            tflops=tflops,
            mfu=None if tflops is None or self._peak is None else tflops / self._peak,
        )
        self._begin()
        return found

    def _begin(self) -> None:
        self._start, self._waited = time.perf_counter(), 0.0
        self._images: Counter[int] = Counter()


def peak_tflops(device: torch.device) -> float | None:
    """Of bfloat16 products on `device`, where it is known."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in PEAK_TFLOPS.items() if part in name), None)


def flops_per_image(model: ModelConfig, data: DataConfig, subjects: int) -> float:
    """Of a training step, forward and backward, with the encoders computed in it but for what comes encoded."""
    latents, features = data.cache is not None, data.cache is not None and data.cache.features
    return float(_budget(model, subjects, data.image_px).flops(cached_latents=latents, cached_features=features))


@cache
def _budget(model: ModelConfig, subjects: int, image_px: int) -> TrainingBudget:
    return training_budget(model, 1, subjects, image_px)
