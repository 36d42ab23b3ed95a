"""The network that a job trains: its base with new adapters, of the sizes of its data."""

from model.config import ModelConfig
from model.subject_diffusion import SubjectDiffusion
from training.data.config import DataConfig
from training.errors import TrainingError


def network_of(model: ModelConfig, data: DataConfig) -> SubjectDiffusion:
    """The base's network, which from here on is one for images of `data.image_px`.

    Raises:
        TrainingError: pictures or masks of `data` are not of the sizes that its encoders take and give.
        model.errors.CheckpointError: weights are missing, unreadable or do not fit each other.
    """
    net = SubjectDiffusion.from_base(model)
    wanted = {"subject_px": net.image_encoder.side_px, "latent_downsampling": net.latent_downsampling}
    for name, size in wanted.items():
        if (given := getattr(data, name)) != size:
            part = model.image_encoder if name == "subject_px" else f"the VAE of {model.base}"
            raise TrainingError(f"training.data.{name}={given}, but that of {part} is {size}: set it to {size}")
    net.set_image_size(data.image_px)
    return net
