"""A metric for whether the network uses the subjects' pictures or only their names."""

from dataclasses import replace

import torch
from torch import Tensor

from model.inputs.batch import ImageFeatures, SubjectBatch
from training.distributed.parallel import Replica


@torch.no_grad()
def identity_probe(replica: Replica, batch: SubjectBatch, seed: int) -> Tensor:
    """Return the error of the predicted noise with the subjects of other images, minus that with the images' own.

    It is 0 for a network that ignores the pictures and for a batch of one image, and positive where the own subjects
    help. Labels, boxes, masks, noise and timesteps are the same in both.
    """
    batch = replica.net.encode_pictures(batch)  # once for both
    errors = []
    for shift in (0, 1):
        torch.manual_seed(seed)
        errors.append(replica(shift_subjects(batch, shift)).denoising)
    return errors[1] - errors[0]


def shift_subjects(batch: SubjectBatch, shift: int) -> SubjectBatch:
    """Return the batch with each image's subjects replaced by those of the image `shift` places before it.

    Args:
        batch: a batch whose pictures are encoded.
        shift: number of places.
    """
    features = batch.image_features
    assert features is not None
    shifted = ImageFeatures(features.cls.roll(shift, dims=0), features.patches.roll(shift, dims=0))
    return replace(batch, image_features=shifted)
