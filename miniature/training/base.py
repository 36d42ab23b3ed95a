"""Training of the base, a text-to-image model: UNet and text encoder predict velocities of noisy latents from captions.

The pictures imitate the distribution of web images: a class word mostly refers to its most common sprite, large and
near the middle. Other sprites appear too, anywhere and in pairs, and are mostly called by their names.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from pydantic import Field, field_validator
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPTokenizer

from infra.config import Config
from infra.ranges import Count, Seed, Share, ShareBelowOne
from miniature.networks.base import HEADS, SCHEDULER, Base, build, save
from miniature.networks.latent import SHAPE, LatentShape, encoder_code, shape_of
from miniature.networks.text import tokenizer
from miniature.training.average import Average
from miniature.training.pictures import SCENES, pool, scene_pixels
from miniature.training.train import Phase, Task
from miniature.world.scenes import Pool, Scene, compose, phrases
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
"""Appearance of the most common sprites: one subject, large and near the middle, nearly upright."""
_FROZEN = {"average.": 0.0}


class BasePhase(Phase):
    """Settings of a denoising phase."""

    no_caption: Share = 0.1
    """Share of pictures with an empty caption, 0 to 1, for classifier-free guidance."""
    average_decay: ShareBelowOne = 0.998
    """Decay per step of the running average of the weights, which is saved."""
    noise_power: float = Field(default=1.0, gt=0, le=100)
    """Exponent p: timesteps are u^p of the schedule's length, with u uniform from 0 to 1. If p is below 1, noisy
    timesteps, which determine the content of the image, are more frequent."""
    subject_weight: float = Field(default=1.0, ge=1, le=1000)
    """Weight of the error on subjects relative to that on the background; 1 weights both equally."""


class CommonestConfig(Config):
    """Pictures of the most common sprite of each class word, which captions call by that word."""

    share: Share = 0.7
    """Share of these pictures among all pictures, 0 to 1."""
    names: tuple[str, ...]
    """Names of the sprites, one for each class word."""

    @field_validator("names")
    @classmethod
    def _one_for_each_class_word(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        trained = {sprite.name: sprite.class_word for sprite in pool(Pool.TRAINED)}
        if unknown := sorted(set(names) - set(trained)):
            raise ValueError(f"training.commonest.names: no trained sprites: {', '.join(unknown)} (see {LIST.name})")
        counts = Counter(trained[name] for name in names)
        if wrong := ", ".join(sorted(word for word in set(trained.values()) if counts[word] != 1)):
            raise ValueError(
                f"training.commonest.names needs one sprite for each class word, but has none or several for: {wrong}"
            )
        return names


class BaseConfig(Config):
    """Settings of the base's training."""

    seed: Seed
    """Seed of weights and data."""
    heads: tuple[Count, Count, Count] = HEADS
    """Attention heads of each resolution, from the highest."""
    latent: Path = Path("out/weights/latent/weights")
    """Folder of the autoencoder. Only its encoder is used for training."""
    commonest: CommonestConfig
    """Pictures of the most common sprites."""
    everything: BasePhase
    """The only phase."""
    validation_scenes: Count = 64
    """Number of scenes for validation."""


class Settings(Config):
    """Tables of the recipe."""

    training: BaseConfig
    """Settings of the training."""


class BaseBatch(NamedTuple):
    """Pictures with their captions."""

    images: Tensor
    """Pixels in [-1, 1], [B, 3, S, S]."""
    token_ids: Tensor
    """Token ids of the captions, some of which are empty, [B, T]."""
    covered: Tensor
    """Share of each position of the latent that subjects cover, 0 to 1, [B, 16, 16]."""


class CaptionedPictures:
    """Training data: pictures of scenes with their captions."""

    def __init__(
        self, tokens: CLIPTokenizer, commonest: CommonestConfig, no_caption: float, shape: LatentShape = SHAPE
    ) -> None:
        self.tokens, self.share, self.no_caption, self.shape = tokens, commonest.share, no_caption, shape
        self.common = COMMONEST.model_copy(update={"names": commonest.names})

    def __call__(self, seed: Sequence[int], size: int) -> BaseBatch:
        """Return a batch."""
        rng = np.random.default_rng([*seed, 1])
        dropped, common = rng.random(size) < self.no_caption, rng.random(size) < self.share
        scenes = [compose((*seed, i), self.common if is_common else SCENES) for i, is_common in enumerate(common)]
        texts = ["" if drop else scene.caption for drop, scene in zip(dropped, scenes, strict=True)]
        covered = torch.from_numpy(np.stack([_covered(scene, self.shape) for scene in scenes]))
        return BaseBatch(scene_pixels(scenes, self.shape.side_px), token_ids(self.tokens, texts), covered)


class DenoisingTask:
    """The only phase. The running average of the weights is validated and saved."""

    name = "everything"

    def __init__(self, net: Base, tokens: CLIPTokenizer, vae: AutoencoderKL, config: BaseConfig) -> None:
        self.net, self.noise, shape = net, NoiseSchedule(SCHEDULER), shape_of(vae)
        code, self._offset = encoder_code(vae)
        self._code = code.reshape(-1, 3, shape.patch_px, shape.patch_px) * vae.config.scaling_factor
        self.phase = config.everything
        self.heads = Average(net, self.phase.average_decay)
        self.data = CaptionedPictures(tokens, config.commonest, self.phase.no_caption, shape)
        self._validation = _held_out_batch(tokens, (config.seed, 999), config.validation_scenes, shape.side_px)

    def loss(self, batch: BaseBatch) -> dict[str, Tensor]:
        """Return the error of the predicted velocity, and update the running average."""
        self.heads.update(self.net)
        z_0 = self._latents(batch.images)
        eps = torch.randn_like(z_0)
        u = torch.rand(len(z_0)).pow(self.phase.noise_power)
        t = (u * self.noise.steps).long().clamp(max=self.noise.steps - 1)  # u can round up to 1
        weight = 1 + (self.phase.subject_weight - 1) * batch.covered
        error = self._error(self.net, z_0, eps, t, batch.token_ids).mean(dim=1)
        return {"velocity": (error * weight / weight.mean()).mean()}

    def validate(self) -> dict[str, float]:
        """Return the loss on scenes of held-out sprites, called by class words, with fixed noise and even timesteps."""
        images, ids = self._validation
        z_0, fixed = self._latents(images), torch.Generator().manual_seed(0)
        t = torch.linspace(0, self.noise.steps - 1, len(images)).long()
        eps = torch.randn(z_0.shape, generator=fixed)
        return {"velocity": float(self._error(self.heads.average, z_0, eps, t, ids).mean())}

    def finish(self) -> None:
        """Replace the weights of the last step by the average."""
        self.heads.copy_to(self.net)

    def _latents(self, images: Tensor) -> Tensor:
        """Apply the linear code of the autoencoder, which takes a thirtieth of the time of its encoder."""
        return F.conv2d(images, self._code, self._offset, stride=self._code.shape[-1])

    def _error(self, net: Base, z_0: Tensor, eps: Tensor, t: Tensor, ids: Tensor) -> Tensor:
        condition = net.text_encoder(ids).last_hidden_state
        predicted: Tensor = net.unet(self.noise.add_noise(z_0, eps, t), t, condition).sample
        return (predicted - self.noise.target(z_0, eps, t)).square()


def _covered(scene: Scene, shape: LatentShape) -> NDArray[np.float32]:
    """Return the share of each position of the latent that subjects cover, [16, 16]."""
    union = np.any([subject.mask for subject in scene.subjects], axis=0).astype(np.float32)
    side = shape.side_px // shape.patch_px
    shares: NDArray[np.float32] = cv2.resize(union, (side, side), interpolation=cv2.INTER_AREA)
    return shares


def _held_out_batch(tokens: CLIPTokenizer, seed: Sequence[int], size: int, side_px: int) -> tuple[Tensor, Tensor]:
    """Return pictures and token ids of scenes of held-out sprites, called by their class words."""
    config = SCENES.model_copy(update={"pool": Pool.HELD_OUT, "class_word_share": 1.0})
    scenes = [compose((*seed, i), config) for i in range(size)]
    return scene_pixels(scenes, side_px), token_ids(tokens, [scene.caption for scene in scenes])


def token_ids(tokens: CLIPTokenizer, texts: Sequence[str]) -> Tensor:
    """Return the token ids of each text, padded to the text encoder's length as in `StableDiffusionPipeline`."""
    padded = tokens(list(texts), padding="max_length", truncation=True, return_tensors="pt")
    ids: Tensor = padded.input_ids
    return ids


class Training:
    """Recipe with one phase."""

    def __init__(self, config: BaseConfig) -> None:
        self.config = config
        self.tokens = tokenizer(phrases())
        self.vae = AutoencoderKL.from_pretrained(config.latent).float().requires_grad_(False)
        self.net = build(self.tokens, config.seed, shape_of(self.vae), config.heads)

    def tasks(self) -> list[tuple[Phase, Task[BaseBatch]]]:
        """Return the phase with its task."""
        phase = self.config.everything.model_copy(update={"rates": self.config.everything.rates | _FROZEN})
        return [(phase, DenoisingTask(self.net, self.tokens, self.vae, self.config))]

    def save(self, folder: Path) -> None:
        """Write the base in half precision."""
        save(self.net.eval().half(), self.tokens, self.vae.half(), folder)
        self.net.float()
        self.vae.float()
