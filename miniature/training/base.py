"""The base, text to image: velocities of noisy latents from captions, UNet and text encoder together.

Its pictures are distributed as pictures of the web are: what a class word mostly means is its commonest thing, large
and near the middle. Other things are seen too, anywhere and in twos, and are mostly called by their names.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from pydantic import Field, field_validator
from torch import Tensor

from infra.config import Config
from infra.ranges import Count, Seed, Share, ShareBelowOne
from miniature.networks.base import SCHEDULER, build, save
from miniature.networks.latent import PATCH_PX
from miniature.networks.text import tokenizer
from miniature.training.average import Average
from miniature.training.pictures import SCENES, SIDE_PX, pixels, pool, shown
from miniature.training.train import Phase, Task
from miniature.world.scenes import Pool, Scene, phrases
from miniature.world.sprites import LIST
from model.objective.noise import NoiseSchedule

COMMONEST = SCENES.model_copy(
    update={
        "subjects": (1, 1),
        "box_share": (0.3, 0.5),
        "spread": 0.5,
        "flip_share": 0.0,
        "max_rotation_deg": 6.0,
        "max_perspective": 0.1,
        "class_word_share": 1.0,
    }
)
"""How the commonest things are shown: alone, large and near the middle, nearly upright."""
_FROZEN = {"average.": 0.0}


class BasePhase(Phase):
    """The phase with what is particular to denoising."""

    no_caption: Share = 0.1
    """Share of pictures whose caption is the empty one, for classifier-free guidance."""
    average_decay: ShareBelowOne = 0.998
    """Of the running average that is kept."""
    noise_power: float = Field(default=1.0, gt=0, le=100)
    """Timesteps are drawn as u to this power of all: below 1, more of those with much noise, where it is decided what
    is drawn."""
    subject_weight: float = Field(default=1.0, ge=1, le=1000)
    """Of the error where subjects are, against that of the place around them."""


class CommonestConfig(Config):
    """Pictures of the commonest thing of each class word, which their captions call by that word."""

    share: Share = 0.7
    """Of all pictures."""
    names: tuple[str, ...]
    """Of the sprites, one for each class word."""

    @field_validator("names")
    @classmethod
    def _one_for_each_class_word(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        trained = {sprite.name: sprite.class_word for sprite in pool(Pool.TRAINED)}
        if unknown := sorted(set(names) - set(trained)):
            raise ValueError(f"training.commonest.names: no trained sprites: {', '.join(unknown)} (see {LIST.name})")
        counts = Counter(trained[name] for name in names)
        if wrong := ", ".join(sorted(word for word in set(trained.values()) if counts[word] != 1)):
            raise ValueError(f"training.commonest.names: one sprite for each class word; none or several for: {wrong}")
        return names


class BaseConfig(Config):
    seed: Seed
    latent: Path = Path("out/weights/latent/weights")
    """Folder of the autoencoder. Only its encoder matters here; the decoder may be trained further meanwhile."""
    commonest: CommonestConfig
    everything: BasePhase
    validation_scenes: Count = 64


class Settings(Config):
    """The tables of a recipe."""

    training: BaseConfig


class BaseBatch(NamedTuple):
    """Pictures and what is said of them."""

    images: Tensor
    """Pixels in [-1, 1], [B, 3, 64, 64]."""
    token_ids: Tensor
    """Of the captions, some of which are empty, [B, T]."""
    covered: Tensor
    """Share of each cell of the latent that subjects cover, [B, 16, 16]."""


class Captioned:
    """The corpus."""

    def __init__(self, tokens: Any, commonest: CommonestConfig, no_caption: float) -> None:
        self.tokens, self.share, self.no_caption = tokens, commonest.share, no_caption
        self.common = COMMONEST.model_copy(update={"names": commonest.names})

    def __call__(self, seed: Sequence[int], size: int) -> BaseBatch:
        rng = np.random.default_rng([*seed, 1])
        dropped, common = rng.random(size) < self.no_caption, rng.random(size) < self.share
        seen = [shown((*seed, i), self.common if is_common else SCENES) for i, is_common in enumerate(common)]
        texts = ["" if drop else one.scene.caption for drop, one in zip(dropped, seen, strict=True)]
        covered = torch.from_numpy(np.stack([_covered(one.scene) for one in seen]))
        return BaseBatch(pixels([one.image for one in seen]), token_ids(self.tokens, texts), covered)


class DenoisingTask:
    """The one phase. What is kept and validated is the running average."""

    name = "everything"

    def __init__(self, net: Any, tokens: Any, vae: Any, config: BaseConfig) -> None:
        self.net, self.vae, self.noise = net, vae, NoiseSchedule(SCHEDULER)
        self.phase = config.everything
        self.heads: Any = Average(net, self.phase.average_decay)
        self.data = Captioned(tokens, config.commonest, self.phase.no_caption)
        self._unseen = _unseen(tokens, (config.seed, 999), config.validation_scenes)

    def loss(self, batch: BaseBatch) -> dict[str, Tensor]:
        self.heads.follow(self.net)
        z_0 = self._latents(batch.images)
        eps = torch.randn_like(z_0)
        u = torch.rand(len(z_0)).pow(self.phase.noise_power)
        t = (u * self.noise.steps).long().clamp(max=self.noise.steps - 1)  # u may be rounded to 1
        weight = 1 + (self.phase.subject_weight - 1) * batch.covered
        error = self._error(self.net, z_0, eps, t, batch.token_ids).mean(dim=1)
        return {"velocity": (error * weight / weight.mean()).mean()}

    def validate(self) -> dict[str, float]:
        """The loss on scenes of held-out sprites, called by their class words, with fixed noise and even timesteps."""
        images, ids = self._unseen
        z_0, fixed = self._latents(images), torch.Generator().manual_seed(0)
        t = torch.linspace(0, self.noise.steps - 1, len(images)).long()
        eps = torch.randn(z_0.shape, generator=fixed)
        return {"velocity": float(self._error(self.heads.average, z_0, eps, t, ids).mean())}

    def finish(self) -> None:
        """The average takes the place of the last step's weights."""
        self.heads.give(self.net)

    @torch.no_grad()
    def _latents(self, images: Tensor) -> Tensor:
        latents: Tensor = self.vae.encode(images).latent_dist.mean * self.vae.config.scaling_factor
        return latents

    def _error(self, net: Any, z_0: Tensor, eps: Tensor, t: Tensor, ids: Tensor) -> Tensor:
        condition = net.text_encoder(ids).last_hidden_state
        predicted: Tensor = net.unet(self.noise.add_noise(z_0, eps, t), t, condition).sample
        return (predicted - self.noise.target(z_0, eps, t)).square()


def _covered(scene: Scene) -> NDArray[np.float32]:
    """Share of each cell of the latent that subjects cover, [16, 16]."""
    seen = np.any([subject.mask for subject in scene.subjects], axis=0).astype(np.float32)
    side = SIDE_PX // PATCH_PX
    shares: NDArray[np.float32] = cv2.resize(seen, (side, side), interpolation=cv2.INTER_AREA)
    return shares


def _unseen(tokens: Any, seed: Sequence[int], size: int) -> tuple[Tensor, Tensor]:
    """Pixels and token ids of scenes of held-out sprites, called by their class words."""
    scenes = SCENES.model_copy(update={"pool": Pool.HELD_OUT, "class_word_share": 1.0})
    seen = [shown((*seed, i), scenes) for i in range(size)]
    return pixels([one.image for one in seen]), token_ids(tokens, [one.scene.caption for one in seen])


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
