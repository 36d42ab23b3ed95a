"""Training of the autoencoder: a linear code is fitted to scenes, then only the decoder is trained to invert it."""

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn import functional as F

from infra.config import Config
from infra.ranges import Count, Seed
from miniature.networks.latent import SHAPE, LatentShape, build, fit, save
from miniature.training.pictures import SCENES, scene_pixels
from miniature.training.train import Phase, Task
from miniature.world.scenes import Pool, compose

_CODE = {"encoder.": 0.0, "quant_conv.": 0.0}
HELD_OUT = SCENES.model_copy(update={"pool": Pool.HELD_OUT})


class LatentConfig(Config):
    """Settings of the autoencoder's training."""

    seed: Seed
    """Seed of weights and data."""
    shape: LatentShape = SHAPE
    """Sizes of the autoencoder."""
    decoder: Phase
    """The only phase, which trains the decoder."""
    fitted_scenes: Count = 384
    """Number of scenes that the code and the decoder's initial weights are fitted to."""
    validation_scenes: Count = 128
    """Number of scenes for validation."""


class Settings(Config):
    """Tables of the recipe."""

    training: LatentConfig
    """Settings of the training."""


class Scenes:
    """Training data: pictures of scenes, [B, 3, S, S] in [-1, 1]."""

    def __init__(self, side_px: int = SHAPE.side_px) -> None:
        self.side_px = side_px

    def __call__(self, seed: Sequence[int], size: int) -> Tensor:
        """Return a batch."""
        return scene_pixels([compose((*seed, i), SCENES) for i in range(size)], self.side_px)


class DecoderTask:
    """Trains the decoder to minimise the squared error of pixels."""

    name = "decoder"

    def __init__(self, net: AutoencoderKL, config: LatentConfig) -> None:
        self.net, self.heads, self.data = net, nn.Module(), Scenes(config.shape.side_px)
        scenes = [compose((config.seed, 999, i), HELD_OUT) for i in range(config.validation_scenes)]
        self._validation = scene_pixels(scenes, config.shape.side_px)

    def loss(self, batch: Tensor) -> dict[str, Tensor]:
        """Return the mean squared error of the pixels."""
        with torch.no_grad():
            latents = self.net.encode(batch).latent_dist.mean
        return {"pixels": F.mse_loss(self.net.decode(latents).sample, batch)}

    def validate(self) -> dict[str, float]:
        """Return the PSNR in dB on scenes of held-out sprites."""
        errors = [
            F.mse_loss(self.net.decode(self.net.encode(part).latent_dist.mean).sample, part) * len(part)
            for part in torch.split(self._validation, 32)
        ]
        return {"psnr_db": psnr_db(float(torch.stack(errors).sum()) / len(self._validation))}

    def finish(self) -> None:
        """Do nothing: all trained weights are in the network."""


def psnr_db(error: float) -> float:
    """Return the PSNR in dB for a mean squared error of pixels in [-1, 1]."""
    return 10 * math.log10(4 / error)


class Training:
    """Recipe with one phase for the decoder; code and initial weights are fitted before it."""

    def __init__(self, config: LatentConfig) -> None:
        self.config = config
        self.net = build(config.seed, config.shape)
        fit(self.net, Scenes(config.shape.side_px)((config.seed, 998), config.fitted_scenes))

    def tasks(self) -> list[tuple[Phase, Task[Tensor]]]:
        """Return the phase with its task."""
        phase = self.config.decoder.model_copy(update={"rates": self.config.decoder.rates | _CODE})
        return [(phase, DecoderTask(self.net, self.config))]

    def save(self, folder: Path) -> None:
        """Write the autoencoder in half precision."""
        save(self.net.eval().half(), folder)
        self.net.float()
