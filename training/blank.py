"""A blank batch for a worker whose batch has no usable row.

The other workers wait for this worker's gradients, so it cannot skip the step; it computes one that does not count.
"""

import torch

from model.inputs.batch import SubjectBatch
from model.inputs.prompt import Prompt
from model.subject_diffusion import SubjectDiffusion
from training.data.config import DataConfig


def blank_batch(net: SubjectDiffusion, config: DataConfig, subjects: int) -> SubjectBatch:
    """Return a batch of one black image with `subjects` subjects, on the host."""
    side, latent = config.subject_px, config.image_px // config.latent_downsampling
    return SubjectBatch(
        prompts=net.prompts([Prompt("", ["thing"] * subjects)]),
        boxes=torch.tensor([0.0, 0.0, 1.0, 1.0]).expand(1, subjects, 4),
        masks=torch.ones(1, subjects, latent, latent),
        present=torch.ones(1, subjects, dtype=torch.bool),
        images=torch.zeros(1, 3, config.image_px, config.image_px, dtype=torch.uint8),
        subject_images=torch.zeros(1, subjects, 3, side, side, dtype=torch.uint8),
        full=True,
    )
