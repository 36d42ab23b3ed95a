"""Training of BLIP-2, which captions pictures: first the image encoder, then the parts that read it, then all together.

Captions alone train the image encoder slowly, because 16 queries carry a whole sentence. So each patch is first trained
to name its sprite or the background, and again beside the captions in the last phase.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Blip2ForConditionalGeneration, BlipImageProcessor
from transformers.utils import ModelOutput

from infra.config import Config
from infra.ranges import Count, Seed
from labeling.backends.load import load_tagger
from labeling.config import NounConfig
from labeling.stages.nouns import NounStage
from miniature.networks.blip2 import SMALL, build, save
from miniature.networks.vocabulary import Vocabulary, caption_vocabulary
from miniature.training.boxes import NO_OWNER, SIDES, cell_owners
from miniature.training.grounding_dino import scene_boxes
from miniature.training.matching import match_words
from miniature.training.train import Phase, Task
from miniature.training.truth import scene_subjects
from miniature.world.backgrounds import BACKGROUNDS
from miniature.world.names import labelled_names
from miniature.world.scenes import Scene, ScenesConfig, compose, phrases

SCENES = ScenesConfig(width_px=(160, 256), height_px=(160, 256), names=labelled_names())
CROWDED = SCENES.model_copy(update={"subjects": (3, 7)})
"""Scenes for training the image encoder; with more subjects, more patches of each picture show a sprite."""
UNSCORED = -100
"""Label of tokens and patches that the loss ignores, as in transformers."""


class Blip2Config(Config):
    """Settings of BLIP-2's training."""

    seed: Seed
    """Seed of weights and data."""
    vision: Phase
    """Phase that trains the image encoder on patches."""
    language: Phase
    """Phase that trains Q-Former and language model."""
    together: Phase
    """Phase that trains all parts on captions."""
    named: Phase
    """Phase that trains all parts on captions and patches."""
    max_new_tokens: int = Field(default=40, ge=1, le=2048)
    """Largest length of a caption at validation, in tokens."""
    validation_scenes: Count = 120
    """Number of scenes for validation."""


class Settings(Config):
    """Tables of the recipe."""

    training: Blip2Config
    """Settings of the training."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Scenes with their captions as tokens."""

    pixels: Tensor
    """Preprocessed images, [B, 3, 192, 192]."""
    patches: Tensor
    """Index of each patch's content, [B, 144]: first sprites, then backgrounds; `UNSCORED` at the rim of a box."""
    token_ids: Tensor
    """Image tokens, start, caption and end; padded, [B, T]."""
    attention_mask: Tensor
    """1 at tokens, 0 at padding, [B, T]."""
    labels: Tensor
    """Token ids to predict, or `UNSCORED`, [B, T]."""


class CaptionData:
    """Scenes through the ordinary image processor, with their captions."""

    def __init__(self, vocabulary: Vocabulary, scenes: ScenesConfig = SCENES) -> None:
        self.scenes = scenes
        self.processor = BlipImageProcessor(size={"height": SMALL.image_px, "width": SMALL.image_px})
        self.tokenizer = vocabulary.tokenizer()
        self.context = [vocabulary.ids["<image>"]] * SMALL.queries
        self.index = {name: i for i, name in enumerate((*labelled_names(), *BACKGROUNDS))}

    def __call__(self, seed: Sequence[int], size: int) -> Batch:
        """Return a batch."""
        scenes = [compose((*seed, i), self.scenes) for i in range(size)]
        ids, mask = self._tokens(scenes)
        is_context = torch.arange(ids.shape[1]) <= len(self.context)
        return Batch(
            pixels=self.pixels(scenes),
            patches=torch.stack([self._patches(scene) for scene in scenes]),
            token_ids=ids,
            attention_mask=mask,
            labels=ids.masked_fill(is_context | (mask == 0), UNSCORED),
        )

    def pixels(self, scenes: Sequence[Scene]) -> Tensor:
        """Return the preprocessed images, [B, 3, 192, 192]."""
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
        owner = cell_owners(scene_boxes(scene))[: SIDES[0] ** 2]
        names = torch.tensor([self.index[s.sprite.name] for s in scene.subjects])
        background = torch.full_like(owner, self.index[scene.background])
        free = torch.where(owner == NO_OWNER, background, UNSCORED)
        return torch.where(owner >= 0, names[owner.clamp(min=0)], free)


class VisionTask:
    """Trains the image encoder to classify the content of every patch."""

    def __init__(self, net: Blip2ForConditionalGeneration, data: CaptionData, config: Blip2Config) -> None:
        self.name, self.net, self.data = "vision", net, data
        self.heads: nn.Module = nn.Linear(SMALL.width, len(data.index))
        self._seed, self._scenes = config.seed, config.validation_scenes

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return the cross-entropies of the patches."""
        return named_terms(self._logits(batch.pixels), batch.patches)

    def validate(self) -> dict[str, float]:
        """Return the shares of patches of subjects and of backgrounds that are classified correctly."""
        batch = self.data((self._seed, 999), self._scenes)
        right = self._logits(batch.pixels).argmax(-1) == batch.patches
        subject, ground = _kinds(batch.patches)
        return {"named": float(right[subject].float().mean()), "grounded": float(right[ground].float().mean())}

    def finish(self) -> None:
        """Do nothing: all trained weights are in the network."""

    def _logits(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.heads(self.net.vision_model(pixels).last_hidden_state[:, 1:])
        return logits


def named_terms(logits: Tensor, patches: Tensor) -> dict[str, Tensor]:
    """Return the cross-entropies of logits [B, 144, names] for patches [B, 144], of subjects and of backgrounds."""
    entropy = F.cross_entropy(logits.transpose(1, 2), patches, ignore_index=UNSCORED, reduction="none")
    subject, ground = _kinds(patches)
    return {"names": entropy[subject].mean(), "grounds": entropy[ground].mean()}


def _kinds(patches: Tensor) -> tuple[Tensor, Tensor]:
    names = len(labelled_names())
    return (patches >= 0) & (patches < names), patches >= names


class CaptionTask:
    """Trains the network to predict the next word of the caption."""

    def __init__(self, name: str, net: Blip2ForConditionalGeneration, data: CaptionData, config: Blip2Config) -> None:
        self.name, self.net, self.data = name, net, data
        self.heads: nn.Module = nn.Identity()
        self._config = config

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return the cross-entropy of the caption."""
        return {"words": self._outputs(batch).loss}

    def validate(self) -> dict[str, float]:
        """Return recall and precision of the captions' nouns, including the background's, by the ordinary tagger."""
        seed, count = self._config.seed, self._config.validation_scenes
        scenes = [compose((seed, 999, i), self.data.scenes) for i in range(count)]
        tagger = NounStage(NounConfig(), load_tagger)
        tagger.setup()
        right = true = predicted = 0
        for scene, tags in zip(scenes, tagger.tags(self._captions(scenes)), strict=True):
            labels = [noun.label for noun in tags.nouns]
            right += len(match_words(labels, scene_subjects(scene))) + (scene.background in labels)
            true, predicted = true + len(scene.subjects) + 1, predicted + len(labels)
        return {"recall": right / true, "precision": right / max(1, predicted)}

    def finish(self) -> None:
        """Do nothing: all trained weights are in the network."""

    def _outputs(self, batch: Batch) -> ModelOutput:
        return self.net(
            pixel_values=batch.pixels,
            input_ids=batch.token_ids,
            attention_mask=batch.attention_mask,
            labels=batch.labels,
        )

    def _captions(self, scenes: Sequence[Scene]) -> list[str]:
        context = torch.tensor([[*self.data.context, self.data.tokenizer.bos_token_id]])
        tokens = self.net.generate(
            pixel_values=self.data.pixels(scenes),
            input_ids=context.expand(len(scenes), -1),
            max_new_tokens=self._config.max_new_tokens,
            do_sample=False,
        )
        texts: list[str] = self.data.tokenizer.batch_decode(tokens[:, context.shape[1] :], skip_special_tokens=True)
        return texts


class NamedCaptionTask(CaptionTask):
    """Trains the network on captions and on the content of patches."""

    def __init__(self, name: str, net: Blip2ForConditionalGeneration, data: CaptionData, config: Blip2Config) -> None:
        super().__init__(name, net, data, config)
        self.heads = nn.Linear(SMALL.width, len(data.index))

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return the cross-entropies of the caption and of the patches."""
        out = self._outputs(batch)
        logits = self.heads(out.vision_outputs.last_hidden_state[:, 1:])
        return {"words": out.loss, **named_terms(logits, batch.patches)}


class Training:
    """Recipe: the image encoder, then Q-Former and language model, then all parts, finally with both losses."""

    def __init__(self, config: Blip2Config) -> None:
        self.config = config
        self.vocabulary = caption_vocabulary(phrases())
        self.net = build(self.vocabulary, config.seed)

    def tasks(self) -> list[tuple[Phase, Task[Batch]]]:
        """Return the phases with their tasks."""
        config = self.config
        crowded, ordinary = (CaptionData(self.vocabulary, scenes) for scenes in (CROWDED, SCENES))
        return [
            (config.vision, VisionTask(self.net, crowded, config)),
            (config.language, CaptionTask("language", self.net, ordinary, config)),
            (config.together, CaptionTask("together", self.net, ordinary, config)),
            (config.named, NamedCaptionTask("named", self.net, ordinary, config)),
        ]

    def save(self, folder: Path) -> None:
        """Write the network in half precision."""
        save(self.net.eval(), folder, self.vocabulary, torch.float16)
