"""Loads the network that a job trains: the base with new adapters, for images of the size in the data settings.

Its trained weights may start from those of a trained model.
"""

from pathlib import Path

import torch

from model.config import ModelConfig
from model.subject_diffusion import SubjectDiffusion
from training.config import TrainingJob
from training.data.config import DataConfig
from training.errors import TrainingError

_HALF_PRECISION = 2e-3
"""Difference of a weight that may come from rounding to half precision, absolute and relative."""


def load_initial_network(job: TrainingJob) -> SubjectDiffusion:
    """Load the network of step 0, the same in all workers; it seeds PyTorch's global generator.

    Raises:
        TrainingError: as `load_network` and `start_from`.
        ModelWeightsError: as `load_network` and `start_from`.
    """
    config = job.training
    torch.manual_seed(config.seed)  # so that all workers create the same new adapters
    net = load_network(job.model, config.data)
    if config.start is not None:
        start_from(net, Path(config.start), config.start_share)
    return net


def load_network(model: ModelConfig, data: DataConfig) -> SubjectDiffusion:
    """Load the base that `model` names, with new adapters, for images of `data.image_px`.

    Raises:
        TrainingError: the sizes of pictures or masks in `data` are not those of the encoders.
        ModelWeightsError: weights are missing, unreadable or do not fit each other.
    """
    net = SubjectDiffusion.from_base(model)
    sizes = {"subject_px": net.image_encoder.side_px, "latent_downsampling": net.latent_downsampling}
    for name, size in sizes.items():
        if (setting := getattr(data, name)) != size:
            part = model.image_encoder if name == "subject_px" else f"the VAE of {model.base}"
            raise TrainingError(f"training.data.{name}={setting}, but that of {part} is {size}: set it to {size}")
    net.set_image_size(data.image_px)
    return net


@torch.no_grad()
def start_from(net: SubjectDiffusion, folder: Path, share: float = 1.0) -> None:
    """Move the weights that `net` trains towards those of a model's folder, in place.

    The interpolated weights of a base and of a model that was trained from it make a usable model between the two
    (Wortsman et al., "Robust fine-tuning of zero-shot models", 2022).

    Args:
        net: the base with new adapters.
        folder: folder of a trained model.
        share: share of the way, 0 to 1; 1 copies the weights.

    Raises:
        TrainingError: the model has other weights to train, or was trained from another base.
        ModelWeightsError: the folder holds no model, or a part of it is missing.
    """
    theirs = dict(SubjectDiffusion.from_pretrained(folder).named_parameters())
    for name, weight in net.named_parameters():
        other = theirs.get(name)
        if other is None or other.shape != weight.shape:
            found = "lacks it" if other is None else f"has the shape {tuple(other.shape)}"
            raise TrainingError(
                f"training.start={folder}: this job has the weight {name} {tuple(weight.shape)}, and that model "
                f"{found}. Set `model` as in its settings.json"
            )
        if weight.requires_grad:
            weight.lerp_(other, share)
        elif not torch.allclose(weight, other, rtol=_HALF_PRECISION, atol=_HALF_PRECISION):
            raise TrainingError(
                f"training.start={folder} was trained from another base than {net.config.base}: {name} differs, and "
                "this job does not train it. Set model.base to that model's base, or model.departures.train_unet=true"
            )
