"""Loads the network that a job trains: the base with new adapters, for images of the size in the data settings."""

from model.config import ModelConfig
from model.subject_diffusion import SubjectDiffusion
from training.data.config import DataConfig
from training.errors import TrainingError


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
