"""Detection with Grounding DINO, for all its backends: from prepared images and their nouns to boxes.

Choices:
    A noun's score for a box is the highest probability among the noun's own tokens, as the released code takes the
    highest of all tokens; a box belongs only to the noun with the highest score. Suppression ignores labels, as in the
    released code: of two overlapping boxes the one with the higher score stays, even if their labels differ.
    Images share a batch only with images of their own size. Padding to a common size, as the libraries do,
    changes the input of the Swin backbone near the edge, so a result would depend on the other images of the batch.
    The supervisor therefore sends images of one size together (`Resizing`). `detect.size_step_px` makes sizes equal
    that are nearly so.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import BaseImageProcessor

from infra.precision import Precision
from labeling.backends.grounding_dino.prompt import Prompt, PromptBatch, PromptWriter, collate
from labeling.backends.pixel_values import prepare_pixels
from labeling.backends.runtime import torch_dtype
from labeling.backends.selection import keep_boxes
from labeling.config import DetectConfig
from labeling.stages.networks import DetectedBox, Resizing


@dataclass(frozen=True, slots=True)
class PreparedImage:
    """An image that is ready for the network, with its original size."""

    pixels: Tensor
    """Pixels [3, H, W], resized and normalised."""
    width_px: int
    """Width of the upright image, before resizing."""
    height_px: int
    """Height of the upright image, before resizing."""


def resizing_of(image_processor: BaseImageProcessor, config: DetectConfig) -> Resizing | None:
    """Return how an image processor of transformers resizes images; None if it makes all of one size."""
    size = image_processor.size
    if not (size.shortest_edge and size.longest_edge):
        return None
    return Resizing(size.shortest_edge, size.longest_edge, config.size_step_px)


def prepare_image(
    image_processor: BaseImageProcessor, image: NDArray[np.uint8], resizing: Resizing | None = None
) -> PreparedImage:
    """Resize and normalise an upright RGB image [H, W, 3] with an image processor of transformers, without padding."""
    height, width = image.shape[:2]
    size = resizing.size_of(height, width) if resizing and resizing.step_px > 1 else None
    return PreparedImage(prepare_pixels(image_processor, image, size, do_pad=False), width_px=width, height_px=height)


class Network(Protocol):
    """Grounding DINO of any library."""

    def __call__(self, pixels: Tensor, prompts: PromptBatch) -> tuple[Tensor, Tensor]:
        """Return logits [B, Q, at least T] of Q boxes and T tokens, and boxes [B, Q, 4] (cx, cy, w, h in [0, 1])."""


@dataclass(frozen=True, slots=True)
class _ImagePrompt:
    """One prompt for one image."""

    image: int
    prompt: Prompt


class PromptedDetector:
    """Detector of any number of nouns in images of any size."""

    def __init__(self, network: Network, writer: PromptWriter, device: torch.device, config: DetectConfig) -> None:
        self._network = network
        self._writer = writer
        self._device = device
        self._config = config

    @torch.inference_mode()
    def detect(self, images: Sequence[PreparedImage], labels: Sequence[Sequence[str]]) -> list[list[DetectedBox]]:
        """Return the boxes of each image's labels, best first. Suppression covers all prompts of an image."""
        queries = [_ImagePrompt(i, prompt) for i, nouns in enumerate(labels) for prompt in self._writer.write(nouns)]
        answers: list[list[Tensor]] = [[] for _ in images]
        for batch in _batches(queries, images):
            for query, answer in zip(batch, self._run_network(batch, images), strict=True):
                answers[query.image].append(answer)
        return [
            select_boxes(torch.cat(answer), image, nouns, self._config) if answer else []
            for answer, image, nouns in zip(answers, images, labels, strict=True)
        ]

    def _run_network(self, batch: Sequence[_ImagePrompt], images: Sequence[PreparedImage]) -> Tensor:
        """Return [B, Q, 6] on the CPU: score, label, cx, cy, w, h."""
        prompts = collate([q.prompt for q in batch]).to(self._device)
        pixels = torch.stack([images[q.image].pixels for q in batch]).to(self._device)
        # Weights stay in float32, because the networks also compute coordinates, which need more than 8 bits.
        low = self._config.precision is not Precision.FLOAT32
        with torch.autocast(self._device.type, torch_dtype(self._config.precision) if low else None, enabled=low):
            logits, boxes = self._network(pixels, prompts)
        last_label = max(owner for q in batch for owner in q.prompt.owners)
        scores, labels = best_labels(logits.float(), prompts.owners, last_label + 1)
        return torch.cat([scores[..., None], labels[..., None].float(), boxes.float()], dim=-1).cpu()


def _batches(queries: Sequence[_ImagePrompt], images: Sequence[PreparedImage]) -> Iterator[list[_ImagePrompt]]:
    """Yield batches of prompts for images of one size, sorted by length; each has at most `len(images)` prompts."""
    by_size: dict[torch.Size, list[_ImagePrompt]] = defaultdict(list)
    for query in queries:
        by_size[images[query.image].pixels.shape].append(query)
    for same_size in by_size.values():
        same_size.sort(key=lambda q: len(q.prompt.token_ids))
        for start in range(0, len(same_size), len(images)):
            yield same_size[start : start + len(images)]


def best_labels(logits: Tensor, owners: Tensor, labels: int) -> tuple[Tensor, Tensor]:
    """Return score and label [B, Q] of each box: the label with the highest logit among its own tokens.

    Args:
        logits: [B, Q, at least T].
        owners: [B, T], the label of each token, below `labels`; every row has at least one label.
    """
    batch, queries, _ = logits.shape
    slots = (owners + 1)[:, None].expand(-1, queries, -1)  # slot 0 collects the tokens of no label
    empty = logits.new_full((batch, queries, labels + 1), -torch.inf)
    best = empty.scatter_reduce(2, slots, logits[..., : owners.shape[1]], "amax")[..., 1:].max(dim=-1)
    return best.values.sigmoid(), best.indices


def select_boxes(answer: Tensor, image: PreparedImage, nouns: Sequence[str], config: DetectConfig) -> list[DetectedBox]:
    """Return the boxes of one image that pass threshold and suppression.

    Args:
        answer: [n, 6], as `score, label, cx, cy, w, h`; `label` is an index among `nouns`.
        image: the image.
        nouns: its labels.
        config: thresholds and suppression.
    """
    finite = answer[answer.isfinite().all(dim=1)]
    return keep_boxes(finite[:, 0], finite[:, 1].int(), _pixels(finite[:, 2:], image), nouns, config)


def _pixels(boxes: Tensor, image: PreparedImage) -> Tensor:
    """Return boxes [n, 4] as x0, y0, x1, y1 in pixels, clipped to the image."""
    size = boxes.new_tensor([image.width_px, image.height_px])
    centre, half = boxes[:, :2], boxes[:, 2:] / 2
    low, high = (centre - half) * size, (centre + half) * size
    return torch.cat([low.clamp(min=0).minimum(size), high.clamp(min=0).minimum(size)], dim=1)
