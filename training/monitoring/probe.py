"""Does the network look at the subject it is given, or only at its name? Watched while it trains."""

from dataclasses import replace

import torch
from torch import Tensor

from model.inputs.batch import ImageFeatures, SubjectBatch
from training.parallel import Replica


@torch.no_grad()
def identity_probe(replica: Replica, batch: SubjectBatch, seed: int) -> Tensor:
    """Error of the predicted noise with the subjects of other images, minus that with the images' own.

    0 of a network that does not look, and of a batch of one image; above 0 where the own subjects help. Labels, boxes,
    masks, noise and timesteps are the same in both.
    """
    errors = []
    for shift in (0, 1):
        torch.manual_seed(seed)
        errors.append(replica(with_subjects_of(batch, shift)).denoising)
    return errors[1] - errors[0]


def with_subjects_of(batch: SubjectBatch, shift: int) -> SubjectBatch:
    """Each image with the subjects of the image `shift` places before it."""
    images, features = batch.subject_images, batch.image_features
    if features is not None:
        features = ImageFeatures(features.cls.roll(shift, dims=0), features.patches.roll(shift, dims=0))
    return replace(
        batch,
        subject_images=None if images is None else images.roll(shift, dims=0),
        image_features=features,
    )
