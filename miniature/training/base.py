"""The base, text to image: velocities of noisy latents from captions, UNet and text encoder together."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from pydantic import Field, PositiveInt
from torch import Tensor
from torch.nn import functional as F

from infra.config import Config
from miniature.networks.base import SCHEDULER, build, save
from miniature.networks.text import tokenizer
from miniature.scenes import Pool, ScenesConfig, phrases
from miniature.train import Phase, Task
from miniature.training.average import Average
from miniature.training.pictures import SCENES, pixels, shown
from model.noise import NoiseSchedule

_FROZEN = {"average.": 0.0}


class BasePhase(Phase):
    """The phase with what is particular to denoising."""

    no_caption: float = Field(default=0.1, ge=0, le=1)
    """Share of pictures whose caption is the empty one, for classifier-free guidance."""
    average_decay: float = Field(default=0.998, ge=0, lt=1)
    """Of the running average that is kept."""


class BaseConfig(Config):
    seed: int
    latent: Path = Path("out/weights/latent/weights")
    """Folder of the autoencoder. Only its encoder matters here; the decoder may be trained further meanwhile."""
    class_word_share: float = Field(default=0.5, ge=0, le=1)
    """Share of subjects that captions call by their class word."""
    everything: BasePhase
    validation_scenes: PositiveInt = 64


class Settings(Config):
    """The tables of a recipe."""

    training: BaseConfig


class Captioned:
    """Pictures [B, 3, 64, 64] in [-1, 1] and their captions' tokens [B, T], some of them of the empty caption."""

    def __init__(self, tokens: Any, scenes: ScenesConfig, no_caption: float) -> None:
        self.tokens, self.scenes, self.no_caption = tokens, scenes, no_caption

    def __call__(self, seed: Sequence[int], size: int) -> tuple[Tensor, Tensor]:
        dropped = np.random.default_rng([*seed, 1]).random(size) < self.no_caption
        seen = [shown((*seed, i), self.scenes) for i in range(size)]
        texts = ["" if drop else one.scene.caption for drop, one in zip(dropped, seen, strict=True)]
        return pixels([one.image for one in seen]), token_ids(self.tokens, texts)


class DenoisingTask:
    """The one phase. What is kept and validated is the running average."""

    name = "everything"

    def __init__(self, net: Any, tokens: Any, vae: Any, config: BaseConfig) -> None:
        scenes = SCENES.model_copy(update={"class_word_share": config.class_word_share})
        self.net, self.vae, self.noise = net, vae, NoiseSchedule(SCHEDULER)
        self.heads: Any = Average(net, config.everything.average_decay)
        self.data = Captioned(tokens, scenes, config.everything.no_caption)
        unseen = Captioned(tokens, scenes.model_copy(update={"pool": Pool.HELD_OUT, "class_word_share": 1.0}), 0.0)
        self._unseen = unseen((config.seed, 999), config.validation_scenes)

    def loss(self, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        self.heads.follow(self.net)
        z_0 = self._latents(batch[0])
        eps, t = torch.randn_like(z_0), torch.randint(self.noise.steps, (len(z_0),))
        return {"velocity": self._error(self.net, z_0, eps, t, batch[1])}

    def validate(self) -> dict[str, float]:
        """The loss on scenes of held-out sprites, called by their class words, with fixed noise and even timesteps."""
        images, ids = self._unseen
        z_0, fixed = self._latents(images), torch.Generator().manual_seed(0)
        t = torch.linspace(0, self.noise.steps - 1, len(images)).long()
        eps = torch.randn(z_0.shape, generator=fixed)
        return {"velocity": float(self._error(self.heads.average, z_0, eps, t, ids))}

    def finish(self) -> None:
        """The average takes the place of the last step's weights."""
        self.heads.give(self.net)

    @torch.no_grad()
    def _latents(self, images: Tensor) -> Tensor:
        latents: Tensor = self.vae.encode(images).latent_dist.mean * self.vae.config.scaling_factor
        return latents

    def _error(self, net: Any, z_0: Tensor, eps: Tensor, t: Tensor, ids: Tensor) -> Tensor:
        condition = net.text_encoder(ids).last_hidden_state
        predicted = net.unet(self.noise.noisy(z_0, eps, t), t, condition).sample
        return F.mse_loss(predicted, self.noise.target(z_0, eps, t))


def token_ids(tokens: Any, texts: Sequence[str]) -> Tensor:
    """Of each text, padded to the text encoder's length, as `StableDiffusionPipeline` has them."""
    padded = tokens(list(texts), padding="max_length", truncation=True, return_tensors="pt")
    ids: Tensor = padded.input_ids
    return ids


class Training:
    """The recipe: one phase."""

    def __init__(self, config: BaseConfig) -> None:
        self.config = config
        self.tokens = tokenizer(phrases())
        self.net = build(self.tokens, config.seed)
        self.vae = AutoencoderKL.from_pretrained(config.latent).float().requires_grad_(False)

    def tasks(self) -> list[tuple[Phase, Task]]:
        phase = self.config.everything.model_copy(update={"rates": self.config.everything.rates | _FROZEN})
        return [(phase, DenoisingTask(self.net, self.tokens, self.vae, self.config))]

    def save(self, folder: Path) -> None:
        save(self.net.eval().half(), self.tokens, self.vae.half(), folder)
        self.net.float()
        self.vae.float()
