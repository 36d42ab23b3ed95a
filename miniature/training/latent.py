"""The latent: a linear code is fitted to scenes at once, then the decoder alone is trained to invert it."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from infra.config import Config
from infra.ranges import Count, Seed
from miniature.networks.latent import build, fit, save
from miniature.training.pictures import SCENES, pixels, shown
from miniature.training.train import Phase, Task
from miniature.world.scenes import Pool

_CODE = {"encoder.": 0.0, "quant_conv.": 0.0}
HELD_OUT = SCENES.model_copy(update={"pool": Pool.HELD_OUT})


class LatentConfig(Config):
    seed: Seed
    decoder: Phase
    fitted_scenes: Count = 384
    """Scenes that the code and the decoder's start are fitted to."""
    validation_scenes: Count = 128


class Settings(Config):
    """The tables of a recipe."""

    training: LatentConfig


class Scenes:
    """Pictures [B, 3, 64, 64] in [-1, 1]."""

    def __call__(self, seed: Sequence[int], size: int) -> Tensor:
        return pixels([shown((*seed, i)).image for i in range(size)])


class DecoderTask:
    """Least squares on pixels."""

    name = "decoder"

    def __init__(self, net: Any, config: LatentConfig) -> None:
        self.net, self.heads, self.data = net, nn.Module(), Scenes()
        seen = [shown((config.seed, 999, i), HELD_OUT).image for i in range(config.validation_scenes)]
        self._unseen = pixels(seen)

    def loss(self, batch: Tensor) -> dict[str, Tensor]:
        with torch.no_grad():
            latents = self.net.encode(batch).latent_dist.mean
        return {"pixels": F.mse_loss(self.net.decode(latents).sample, batch)}

    def validate(self) -> dict[str, float]:
        """The PSNR, in dB, on scenes of held-out sprites."""
        errors = [
            F.mse_loss(self.net.decode(self.net.encode(part).latent_dist.mean).sample, part) * len(part)
            for part in torch.split(self._unseen, 32)
        ]
        return {"psnr_db": psnr_db(float(torch.stack(errors).sum()) / len(self._unseen))}

    def finish(self) -> None:
        """Nothing is trained outside of the network."""


def psnr_db(error: float) -> float:
    """Of a mean square error of pixels in [-1, 1]."""
    return 10 * math.log10(4 / error)


class Training:
    """The recipe: the decoder; its start and the code come with the network."""

    def __init__(self, config: LatentConfig) -> None:
        self.config = config
        self.net = build(config.seed)
        fit(self.net, Scenes()((config.seed, 998), config.fitted_scenes))

    def tasks(self) -> list[tuple[Phase, Task]]:
        phase = self.config.decoder.model_copy(update={"rates": self.config.decoder.rates | _CODE})
        return [(phase, DecoderTask(self.net, self.config))]

    def save(self, folder: Path) -> None:
        save(self.net.eval().half(), folder)
        self.net.float()
