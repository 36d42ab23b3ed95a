"""BLIP-2: the sentence of a picture. First the image encoder by itself, then what reads it, at the end all together.

Captions alone teach the image encoder slowly: 16 queries pass on what a whole sentence says. So each of its patches
first names the sprite that it belongs to, or the background; and does so again beside the captions in the last phase.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BlipImageProcessor

from infra.config import Config
from infra.ranges import Count, Seed
from labeling.backends.load import load_tagger
from labeling.config import NounConfig
from labeling.stages.nouns import NounStage
from miniature.networks.blip2 import SMALL, build, save
from miniature.networks.vocabulary import Vocabulary, caption_vocabulary
from miniature.training.boxes import NOBODY, SIDES, owners
from miniature.training.grounding_dino import boxes_of
from miniature.training.matching import matched_words
from miniature.training.train import Phase, Task
from miniature.training.truth import known_of
from miniature.world.backgrounds import BACKGROUNDS
from miniature.world.names import labelled_names
from miniature.world.scenes import Scene, ScenesConfig, compose, phrases

SCENES = ScenesConfig(width_px=(160, 256), height_px=(160, 256), names=labelled_names())
CROWDED = SCENES.model_copy(update={"subjects": (3, 7)})
"""For the image encoder: more to learn in a picture."""
UNSCORED = -100
"""transformers' mark for tokens that are given, not to be said."""


class Blip2Config(Config):
    seed: Seed
    vision: Phase
    language: Phase
    together: Phase
    named: Phase
    max_new_tokens: int = Field(default=40, ge=1, le=2048)
    validation_scenes: Count = 120


class Settings(Config):
    """The tables of a recipe."""

    training: Blip2Config


@dataclass(frozen=True, slots=True)
class Batch:
    """Scenes with their captions as tokens."""

    pixels: Tensor
    patches: Tensor
    """What each patch shows, [B, 144]: a labelled sprite, or after these a background; `UNSCORED` at a rim."""
    token_ids: Tensor
    """The image's places, the start, the caption, the end; padded, [B, T]."""
    attention_mask: Tensor
    labels: Tensor


class CaptionData:
    """Scenes through the ordinary image processor, with their captions."""

    def __init__(self, vocabulary: Vocabulary, scenes: ScenesConfig = SCENES) -> None:
        self.scenes = scenes
        self.processor = BlipImageProcessor(size={"height": SMALL.image_px, "width": SMALL.image_px})
        self.tokenizer = vocabulary.tokenizer()
        self.context = [vocabulary.ids["<image>"]] * SMALL.queries
        self.index = {name: i for i, name in enumerate((*labelled_names(), *BACKGROUNDS))}

    def __call__(self, seed: Sequence[int], size: int) -> Batch:
        scenes = [compose((*seed, i), self.scenes) for i in range(size)]
        ids, mask = self._tokens(scenes)
        given = torch.arange(ids.shape[1]) <= len(self.context)
        return Batch(
            pixels=self.pixels(scenes),
            patches=torch.stack([self._patches(scene) for scene in scenes]),
            token_ids=ids,
            attention_mask=mask,
            labels=ids.masked_fill(given | (mask == 0), UNSCORED),
        )

    def pixels(self, scenes: Sequence[Scene]) -> Tensor:
        """As the network sees them, [B, 3, 192, 192]."""
        images = [Image.fromarray(scene.image) for scene in scenes]
        pixels: Tensor = self.processor(images, return_tensors="pt")["pixel_values"]
        return pixels

    def _tokens(self, scenes: Sequence[Scene]) -> tuple[Tensor, Tensor]:
        end = self.tokenizer.eos_token_id
        rows = [[*self.context, *self.tokenizer(scene.caption).input_ids, end] for scene in scenes]
        longest = max(map(len, rows))
        ids = torch.full((len(rows), longest), self.tokenizer.pad_token_id)
        mask = torch.zeros_like(ids)
        for i, row in enumerate(rows):
            ids[i, : len(row)], mask[i, : len(row)] = torch.tensor(row), 1
        return ids, mask

    def _patches(self, scene: Scene) -> Tensor:
        owner = owners(boxes_of(scene))[: SIDES[0] ** 2]
        names = torch.tensor([self.index[s.sprite.name] for s in scene.subjects])
        background = torch.full_like(owner, self.index[scene.background])
        free = torch.where(owner == NOBODY, background, UNSCORED)
        return torch.where(owner >= 0, names[owner.clamp(min=0)], free)


class VisionTask:
    """Every patch says what it shows."""

    def __init__(self, net: Any, data: CaptionData, config: Blip2Config) -> None:
        self.name, self.net, self.data = "vision", net, data
        self.heads: nn.Module = nn.Linear(SMALL.width, len(data.index))
        self._seed, self._scenes = config.seed, config.validation_scenes

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        return named_terms(self._logits(batch.pixels), batch.patches)

    def validate(self) -> dict[str, float]:
        """Shares of the patches of subjects and of backgrounds that say what they show."""
        batch = self.data((self._seed, 999), self._scenes)
        right = self._logits(batch.pixels).argmax(-1) == batch.patches
        subject, ground = _kinds(batch.patches)
        return {"named": float(right[subject].float().mean()), "grounded": float(right[ground].float().mean())}

    def finish(self) -> None:
        """Nothing is trained outside of the network."""

    def _logits(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.heads(self.net.vision_model(pixels).last_hidden_state[:, 1:])
        return logits


def named_terms(logits: Tensor, patches: Tensor) -> dict[str, Tensor]:
    """Cross-entropies of what patches [B, 144] show, by logits [B, 144, names]: of subjects', and of backgrounds'."""
    entropy = F.cross_entropy(logits.transpose(1, 2), patches, ignore_index=UNSCORED, reduction="none")
    subject, ground = _kinds(patches)
    return {"names": entropy[subject].mean(), "grounds": entropy[ground].mean()}


def _kinds(patches: Tensor) -> tuple[Tensor, Tensor]:
    names = len(labelled_names())
    return (patches >= 0) & (patches < names), patches >= names


class CaptionTask:
    """The next word of the caption."""

    def __init__(self, name: str, net: Any, data: CaptionData, config: Blip2Config) -> None:
        self.name, self.net, self.data = name, net, data
        self.heads: nn.Module = nn.Identity()
        self._config = config

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        return {"words": self._read(batch).loss}

    def validate(self) -> dict[str, float]:
        """Recall and precision of the nouns of captions, the background's included, by the ordinary tagger."""
        seed, count = self._config.seed, self._config.validation_scenes
        scenes = [compose((seed, 999, i), self.data.scenes) for i in range(count)]
        tagger = NounStage(NounConfig(), load_tagger)
        tagger.setup()
        right = true = found = 0
        for scene, tags in zip(scenes, tagger.tags(self._captions(scenes)), strict=True):
            labels = [noun.label for noun in tags.nouns]
            right += len(matched_words(labels, known_of(scene))) + (scene.background in labels)
            true, found = true + len(scene.subjects) + 1, found + len(labels)
        return {"recall": right / true, "precision": right / max(1, found)}

    def finish(self) -> None:
        """Nothing is trained outside of the network."""

    def _read(self, batch: Batch) -> Any:
        return self.net(
            pixel_values=batch.pixels,
            input_ids=batch.token_ids,
            attention_mask=batch.attention_mask,
            labels=batch.labels,
        )

    def _captions(self, scenes: Sequence[Scene]) -> list[str]:
        context = torch.tensor([[*self.data.context, self.data.tokenizer.bos_token_id]])
        said = self.net.generate(
            pixel_values=self.data.pixels(scenes),
            input_ids=context.expand(len(scenes), -1),
            max_new_tokens=self._config.max_new_tokens,
            do_sample=False,
        )
        texts: list[str] = self.data.tokenizer.batch_decode(said[:, context.shape[1] :], skip_special_tokens=True)
        return texts


class NamedCaptionTask(CaptionTask):
    """The next word of the caption, while patches name what they show."""

    def __init__(self, name: str, net: Any, data: CaptionData, config: Blip2Config) -> None:
        super().__init__(name, net, data, config)
        self.heads = nn.Linear(SMALL.width, len(data.index))

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        out = self._read(batch)
        logits = self.heads(out.vision_outputs.last_hidden_state[:, 1:])
        return {"words": out.loss, **named_terms(logits, batch.patches)}


class Training:
    """The recipe: the image encoder, then Q-Former and language model over it, then all, at last with both losses."""

    def __init__(self, config: Blip2Config) -> None:
        self.config = config
        self.vocabulary = caption_vocabulary(phrases())
        self.net = build(self.vocabulary, config.seed)

    def tasks(self) -> list[tuple[Phase, Task]]:
        config = self.config
        crowded, ordinary = (CaptionData(self.vocabulary, scenes) for scenes in (CROWDED, SCENES))
        return [
            (config.vision, VisionTask(self.net, crowded, config)),
            (config.language, CaptionTask("language", self.net, ordinary, config)),
            (config.together, CaptionTask("together", self.net, ordinary, config)),
            (config.named, NamedCaptionTask("named", self.net, ordinary, config)),
        ]

    def save(self, folder: Path) -> None:
        save(self.net.eval(), folder, self.vocabulary, torch.float16)
