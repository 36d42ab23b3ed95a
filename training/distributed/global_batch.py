"""Computes the number of images of a step over all workers, and warns if it differs from `training.images_per_step`."""

import logging

from training.config import TrainingConfig

log = logging.getLogger(__name__)


def actual_images_per_step(config: TrainingConfig, workers: int) -> int:
    """Return the images of a step, over all batches of all workers."""
    return workers * config.data.batch_size * config.accumulation


def fitting_accumulation(config: TrainingConfig, workers: int) -> int:
    """Return the accumulation with which `workers` workers come closest to `training.images_per_step`."""
    wanted = config.images_per_step or actual_images_per_step(config, workers)
    return max(1, round(wanted / (workers * config.data.batch_size)))


def warn_if_batch_differs(config: TrainingConfig, workers: int) -> None:
    """Warn if a step has another number of images than `training.images_per_step`, and name the remedy."""
    images = actual_images_per_step(config, workers)
    if config.images_per_step in (None, images):
        return
    log.warning(
        "a step has %d images (%d workers x batch size %d x accumulation %d), but training.images_per_step=%d: %s",
        images,
        workers,
        config.data.batch_size,
        config.accumulation,
        config.images_per_step,
        _cure(config, workers),
    )


def _cure(config: TrainingConfig, workers: int) -> str:
    assert config.images_per_step is not None
    size, accumulation = config.data.batch_size, fitting_accumulation(config, workers)
    if accumulation != config.accumulation:
        return f"--set training.accumulation={accumulation} makes it {workers * size * accumulation}"
    fitting = max(1, round(config.images_per_step / (workers * accumulation)))
    if fitting != size:
        return f"--set training.data.batch_size={fitting} makes it {workers * fitting * accumulation}"
    return "no whole number of batches comes closer"
