"""Rates of the networks alone, with their inputs already on the device.

A stage runs once over some rows with a backend that keeps what it gives to the network; the clock then runs while
these calls are repeated. So the batches are those of the pipeline, while decoding, copies to the device, prompts,
overlaps, and the upscaling and encoding of masks are outside of the clock.
"""

import gc
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers import (
    AutoImageProcessor,
    Blip2ForConditionalGeneration,
    GroundingDinoForObjectDetection,
    GroundingDinoProcessor,
)

from infra.precision import Precision
from labeling.backends.blip2 import Blip2Captioner
from labeling.backends.grounding_dino.detect import PreparedImage, PromptedDetector, prepare_image
from labeling.backends.grounding_dino.prompt import PromptBatch, PromptWriter
from labeling.backends.runtime import torch_device, torch_dtype
from labeling.backends.sam.huggingface import SamHfSegmenter
from labeling.backends.sam.predict import SamImage, segment
from labeling.backends.spacy_tagger import SpacyTagger
from labeling.config import CaptionConfig, DetectConfig, NounConfig, SegmentConfig
from labeling.stages.base import AnyStage
from labeling.stages.networks import DetectedBox, NounPhrase, Resizing, SegmentedBox


@dataclass
class Recording:
    """What a network was asked for some rows."""

    calls: list[Callable[[], object]] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)
    """Images, or prompts about images, of each call that takes images."""
    places: Counter[str] = field(default_factory=Counter)
    """Tokens and pixels that the network computes on, by kind."""
    filled: Counter[str] = field(default_factory=Counter)
    """Of these, not padding."""

    def padding(self, kind: str) -> float:
        """Share of the places that are not filled."""
        return 1 - self.filled[kind] / self.places[kind]


class Recorded(Protocol):
    """A stage's backend that keeps what it asks of its network."""

    device: torch.device
    recording: Recording


class RecordedCaptioner:
    """The pipeline's captioner."""

    def __init__(self, config: CaptionConfig) -> None:
        self.captioner = Blip2Captioner(config)
        self.device = torch_device(config.device)
        self.recording = Recording()

    def prepare(self, image: NDArray[np.uint8]) -> Tensor:
        return self.captioner.prepare(image).to(self.device)

    def caption(self, prepared: Sequence[Tensor]) -> list[str]:
        self.recording.calls.append(partial(self.captioner.caption, prepared))
        self.recording.batches.append(len(prepared))
        return self.captioner.caption(prepared)


class LibraryCaptioner:
    """BLIP-2 as transformers loads it, in float16."""

    def __init__(self, config: CaptionConfig) -> None:
        self.device = torch_device(config.device)
        self.images = AutoImageProcessor.from_pretrained(config.checkpoint, backend="torchvision")
        net = Blip2ForConditionalGeneration.from_pretrained(config.checkpoint, dtype=torch.float16)
        self.net = net.eval().to(self.device)
        self.max_new_tokens = config.max_new_tokens
        self.recording = Recording()
        self.tokens = 0
        """Of the longest caption."""

    def prepare(self, image: NDArray[np.uint8]) -> Tensor:
        pixels: Tensor = self.images(Image.fromarray(image), return_tensors="pt")["pixel_values"][0]
        return pixels.to(self.device, torch.float16)

    def caption(self, prepared: Sequence[Tensor]) -> list[str]:
        generate = partial(self._generate, torch.stack(list(prepared)))
        self.recording.calls.append(generate)
        self.recording.batches.append(len(prepared))
        self.tokens = generate().shape[1] - self.net.config.num_query_tokens - 1  # and the start token
        return ["a caption"] * len(prepared)

    @torch.inference_mode()
    def _generate(self, pixels: Tensor) -> Tensor:
        tokens: Tensor = self.net.generate(pixel_values=pixels, do_sample=False, max_new_tokens=self.max_new_tokens)
        return tokens


class RecordedTagger:
    """The pipeline's tagger."""

    device = torch.device("cpu")

    def __init__(self, config: NounConfig) -> None:
        self.tagger = SpacyTagger(config)
        self.recording = Recording()

    def nouns(self, captions: Sequence[str]) -> list[list[NounPhrase]]:
        self.recording.calls.append(partial(self.tagger.nouns, captions))
        self.recording.batches.append(len(captions))
        return self.tagger.nouns(captions)


class RecordedDetector:
    """The pipeline's detector of transformers."""

    resizing: Resizing | None = None

    def __init__(self, config: DetectConfig) -> None:
        self.config = config
        self.device = torch_device(config.device)
        processor = GroundingDinoProcessor.from_pretrained(config.checkpoint)
        net = GroundingDinoForObjectDetection.from_pretrained(config.checkpoint, dtype=torch.float32)
        self.images, self.net = processor.image_processor, net.eval().to(self.device)
        writer = PromptWriter(processor.tokenizer, net.config.max_text_len)
        self.prompted = PromptedDetector(self._ask, writer, self.device, config)
        self.recording = Recording()

    def prepare(self, image: NDArray[np.uint8]) -> PreparedImage:
        prepared = prepare_image(self.images, image)
        return replace(prepared, pixels=prepared.pixels.to(self.device))

    def detect(self, prepared: Sequence[PreparedImage], labels: Sequence[Sequence[str]]) -> list[list[DetectedBox]]:
        return self.prompted.detect(prepared, labels)

    def _ask(self, pixels: Tensor, prompts: PromptBatch) -> tuple[Tensor, Tensor]:
        self.recording.calls.append(partial(self._forward, pixels, prompts))
        self.recording.batches.append(len(pixels))
        self.recording.places["prompt tokens"] += prompts.attention_mask.numel()
        self.recording.filled["prompt tokens"] += int(prompts.attention_mask.sum())
        return self._forward(pixels, prompts)

    def _forward(self, pixels: Tensor, prompts: PromptBatch) -> tuple[Tensor, Tensor]:
        low = self.config.precision is not Precision.FLOAT32
        with torch.autocast(self.device.type, torch_dtype(self.config.precision) if low else None, enabled=low):
            output = self.net(pixel_values=pixels, input_ids=prompts.token_ids, attention_mask=prompts.attention_mask)
        return output.logits, output.pred_boxes


class RecordedSegmenter:
    """The pipeline's segmenter of transformers."""

    def __init__(self, config: SegmentConfig, compiled: bool = False) -> None:
        self.sam = SamHfSegmenter(config)
        if compiled:
            self.sam.net.vision_encoder.compile()
        self.device, self.preprocessing = self.sam.device, self.sam.preprocessing
        self.recording = Recording()

    def prepare(self, image: NDArray[np.uint8]) -> SamImage:
        return self.sam.prepare(image)

    def segment(
        self, prepared: Sequence[SamImage], boxes: Sequence[NDArray[np.float32]]
    ) -> list[Iterable[SegmentedBox]]:
        self.recording.places["pixels"] += len(prepared) * self.preprocessing.side_px**2
        self.recording.filled["pixels"] += sum(image.pixels.shape[0] * image.pixels.shape[1] for image in prepared)
        return segment(self, prepared, boxes)

    def encode(self, pixels: Tensor) -> Tensor:
        self.recording.calls.append(partial(self.sam.encode, pixels))
        self.recording.batches.append(len(pixels))
        return self.sam.encode(pixels)

    def decode(self, embeddings: Tensor, owner: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        self.recording.calls.append(partial(self.sam.decode, embeddings, owner, boxes))
        return self.sam.decode(embeddings, owner, boxes)


@dataclass(frozen=True, slots=True)
class Rate:
    """A network alone."""

    rows_per_s: float
    """Images of the stage, whether or not they reached the network."""
    images_per_s: float
    """Images that reached the network."""
    images_per_call: float
    first_batch_s: float
    """With what the library does once: choosing kernels, allocating memory."""
    peak_gib: float
    """Memory of the device, 0 on the CPU."""


def rate(
    stage: AnyStage, backend: Recorded, batches: Sequence[Sequence[Any]], seconds: float
) -> tuple[Rate, list[Any]]:
    """How fast the network of `backend`, the backend of `stage`, does `batches` of rows; and the rows' outcomes.

    Its calls for all batches are repeated for `seconds` at least, after they have been made once.
    """
    stage.setup()
    _forget(backend.device)
    outcomes: list[Any] = []
    first_batch_s = 0.0
    for batch in batches:
        prepared = [stage.prepare(row) for row in batch]
        start = _now(backend.device)
        outcomes += stage.process(prepared)
        first_batch_s = first_batch_s or _now(backend.device) - start
    recording = backend.recording
    if not recording.calls:
        raise SystemExit(f"{stage.name}: no image needed the network; give more --images")
    passes, elapsed, start = 0, 0.0, _now(backend.device)
    while not passes or elapsed < seconds:
        _repeat(recording.calls)
        passes, elapsed = passes + 1, _now(backend.device) - start
    return Rate(
        rows_per_s=passes * len(outcomes) / elapsed,
        images_per_s=passes * sum(recording.batches) / elapsed,
        images_per_call=sum(recording.batches) / len(recording.batches),
        first_batch_s=first_batch_s,
        peak_gib=torch.cuda.max_memory_allocated() / 2**30 if backend.device.type == "cuda" else 0.0,
    ), outcomes


@torch.inference_mode()
def _repeat(calls: Sequence[Callable[[], object]]) -> None:
    for call in calls:
        call()


def _forget(device: torch.device) -> None:
    """Give back the memory of networks that are gone."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _now(device: torch.device) -> float:
    """Seconds, after the device has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()
