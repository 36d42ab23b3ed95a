"""Detection by Florence-2, which writes boxes as words: four of a thousand bins of the image's width and height.

Choices:
    Florence-2 has no scores. The score of a box is the geometric mean of the probabilities of its four bins, under
    greedy search. They are small where neighbouring bins compete, so thresholds are lower than for other detectors.
    A prompt shares a batch only with prompts of its own length, so a result does not depend on the batch.
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import Florence2Processor, LogitsProcessor, LogitsProcessorList

from labeling.backends.florence2.network import load_florence2
from labeling.backends.grounding_dino.detect import PreparedImage
from labeling.backends.pixel_values import prepare_pixels
from labeling.backends.runtime import torch_device
from labeling.backends.selection import keep_boxes
from labeling.config import DetectConfig, FlorenceDetection
from labeling.stages.networks import DetectedBox, Resizing

_PHRASE = re.compile(r"([^<]+)((?:<loc_\d+>){4,})")
"""A phrase and its boxes, as the processor of transformers finds them."""
_BOX = re.compile(r"(?:<loc_\d+>){4}")


@dataclass(frozen=True, slots=True)
class _Query:
    """One prompt for one image."""

    image: int
    tokens: tuple[int, ...]
    label: int | None
    """Index of the only label that the prompt names; None if the answer names the label of each box."""


class FoundBox(NamedTuple):
    """A box of an answer."""

    phrase: str
    score: float
    box: tuple[float, float, float, float]
    """x0, y0, x1, y1 in pixels of the upright image."""


class Florence2Detector:
    """Detector that asks Florence-2 for one noun at a time, for all nouns of an image, or for all objects."""

    resizing: Resizing | None = None
    """None, as all images have one size."""

    def __init__(self, config: DetectConfig) -> None:
        """Load the weights.

        Raises:
            BackendWeightsError: the checkpoint does not load, is not Florence-2, or lacks weights.
        """
        self._config = config
        self._device = torch_device(config.device)
        self._net, self._processor = load_florence2(
            config.checkpoint, config.revision, config.precision, f"{config.table}.checkpoint", self._device
        )

    def prepare(self, image: NDArray[np.uint8]) -> PreparedImage:
        """Resize and normalise an upright RGB image [H, W, 3]."""
        return PreparedImage(
            prepare_pixels(self._processor.image_processor, image), width_px=image.shape[1], height_px=image.shape[0]
        )

    def detect(self, prepared: Sequence[PreparedImage], labels: Sequence[Sequence[str]]) -> list[list[DetectedBox]]:
        """Return the boxes of each image's labels, best first."""
        found: list[list[tuple[int, FoundBox]]] = [[] for _ in prepared]
        for batch in _batches(self._queries(labels), len(prepared)):
            for query, boxes in zip(batch, self._answer(batch, prepared), strict=True):
                names = [name.lower() for name in labels[query.image]]
                found[query.image] += [
                    (label, box) for box in boxes if (label := _label_of(query, box, names)) is not None
                ]
        return [_select(boxes, nouns, self._config) for boxes, nouns in zip(found, labels, strict=True)]

    def _queries(self, labels: Sequence[Sequence[str]]) -> Iterator[_Query]:
        task = self._config.task
        for image, nouns in enumerate(labels):
            if task is FlorenceDetection.ONE_NOUN:
                yield from (_Query(image, self._tokens(noun), label) for label, noun in enumerate(nouns))
            elif nouns:
                yield _Query(image, self._tokens(". ".join(nouns) if task is FlorenceDetection.NOUNS else ""), None)

    def _tokens(self, text: str) -> tuple[int, ...]:
        """Return the tokens of a prompt as the processor lays them out: places of the image, then the question."""
        processor, task = self._processor, self._config.task.value
        with_input, without_input = processor.task_prompts_with_input, processor.task_prompts_without_inputs
        question = with_input[task].format(input=text) if task in with_input else without_input[task]
        tokenizer = processor.tokenizer
        whole = f"{processor.image_token * processor.num_image_tokens}{tokenizer.bos_token}{question}"
        ids: list[int] = tokenizer(f"{whole}{tokenizer.eos_token}", add_special_tokens=False)["input_ids"]
        return tuple(ids)

    @torch.inference_mode()
    def _answer(self, batch: Sequence[_Query], images: Sequence[PreparedImage]) -> list[list[FoundBox]]:
        """Return the boxes that the network writes for each prompt."""
        prompts = torch.tensor([query.tokens for query in batch], device=self._device)
        pixels = torch.stack([images[query.image].pixels for query in batch])
        chosen = ChosenProbabilities()
        written = self._net.generate(
            pixel_values=pixels.to(self._device, self._net.dtype),
            input_ids=prompts,
            attention_mask=torch.ones_like(prompts),
            do_sample=False,
            num_beams=1,
            max_new_tokens=self._config.max_new_tokens,
            logits_processor=LogitsProcessorList([chosen]),
        )
        return [
            boxes_of_answer(self._processor, self._config.task, ids, logs, images[query.image])
            for query, ids, logs in zip(batch, written[:, 1:].tolist(), chosen.logs(written).tolist(), strict=True)
        ]


class ChosenProbabilities(LogitsProcessor):  # type: ignore[misc]  # transformers types it as Any
    """Recorder of the logarithms of the probabilities of chosen tokens, which keeps one step's logits at a time."""

    def __init__(self) -> None:
        self._chosen: list[Tensor] = []
        self._last: Tensor | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Record the token that was chosen last, and return the logits [B, V] unchanged."""
        self._record(input_ids)
        self._last = scores.float().log_softmax(dim=-1)
        return scores

    def logs(self, written: Tensor) -> Tensor:
        """Return the logarithms [B, T - 1] of all tokens of the result [B, T] but the first, which is not chosen."""
        self._record(written)
        return torch.stack(self._chosen, dim=1)

    def _record(self, ids: Tensor) -> None:
        if self._last is not None:
            self._chosen.append(self._last.gather(1, ids[:, -1:])[:, 0])


def boxes_of_answer(
    processor: Florence2Processor,
    task: FlorenceDetection,
    ids: Sequence[int],
    logs: Sequence[float],
    image: PreparedImage,
) -> list[FoundBox]:
    """Return the boxes in the tokens of an answer, as the processor reads them, with their scores.

    Args:
        processor: processor of the checkpoint.
        task: question that was answered.
        ids: tokens of the answer.
        logs: logarithms of the probabilities of these tokens.
        image: the image.
    """
    tokenizer, reader = processor.tokenizer, processor.post_processor
    ends = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}
    kept = [(token, log) for token, log in zip(ids, logs, strict=True) if token not in ends]
    text, spans = reader.decode_with_spans([token for token, _ in kept])
    size = (image.width_px, image.height_px)
    answer = processor.post_process_generation(text=text, task=task.value, image_size=size)[task.value]
    phrases = answer["labels"] if "labels" in answer else answer["bboxes_labels"]
    banned = reader.banned_grounding_tokens if task is FlorenceDetection.NOUNS else set()
    places = [] if "<poly>" in text else list(_places(text, banned))
    found: list[FoundBox] = []
    for phrase, box, (start, end) in zip(phrases, answer["bboxes"] if places else [], places, strict=bool(places)):
        own = [log for (_, log), (first, last) in zip(kept, spans, strict=True) if start <= first and last <= end]
        found.append(FoundBox(phrase, math.exp(sum(own) / len(own)), _clipped(box, image)))
    return found


def _places(text: str, banned: set[str]) -> Iterator[tuple[int, int]]:
    """Yield the span of each box in an answer, in the order in which the processor returns them."""
    for phrase in _PHRASE.finditer(text):
        if phrase[1].strip() not in banned and "\n" not in phrase[1].lstrip():
            yield from (box.span() for box in _BOX.finditer(text, *phrase.span(2)))


def _clipped(box: Sequence[float], image: PreparedImage) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = box
    width, height = float(image.width_px), float(image.height_px)
    return min(x0, width), min(y0, height), min(x1, width), min(y1, height)


def _label_of(query: _Query, box: FoundBox, names: Sequence[str]) -> int | None:
    """Return the label of a box; None if the answer names none of the image's labels."""
    if query.label is not None:
        return query.label
    phrase = box.phrase.lower()
    return names.index(phrase) if phrase in names else None


def _batches(queries: Iterator[_Query], size: int) -> Iterator[list[_Query]]:
    """Yield batches of at most `size` prompts of one length."""
    by_length: dict[int, list[_Query]] = defaultdict(list)
    for query in queries:
        by_length[len(query.tokens)].append(query)
    for same_length in by_length.values():
        for start in range(0, len(same_length), size):
            yield same_length[start : start + size]


def _select(found: Sequence[tuple[int, FoundBox]], nouns: Sequence[str], config: DetectConfig) -> list[DetectedBox]:
    if not found:
        return []
    return keep_boxes(
        torch.tensor([box.score for _, box in found]),
        torch.tensor([label for label, _ in found]),
        torch.tensor([box.box for _, box in found]).float(),
        nouns,
        config,
    )
