"""Grounding DINO of transformers, and its checkpoint folders.

The checkpoint's own image processor resizes and normalises. Its `do_pad` is not used: see `grounding_dino.detect`.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, float32
from transformers import GroundingDinoForObjectDetection, GroundingDinoProcessor

from labeling.backends.grounding_dino.detect import PreparedImage, PromptedDetector, prepare_image
from labeling.backends.grounding_dino.prompt import PromptBatch, PromptWriter
from labeling.backends.runtime import pretrained_source, torch_device
from labeling.config import DetectConfig
from labeling.errors import BackendWeightsError
from labeling.stages.networks import DetectedBox

SETTING = "labeling.detect.checkpoint"


class GroundingDinoHfDetector:
    """Detector that runs Grounding DINO of transformers."""

    def __init__(self, config: DetectConfig) -> None:
        """Load the weights.

        Raises:
            BackendWeightsError: no such checkpoint, or one of another network.
        """
        processor, net = _load(config)
        self._image_processor = processor.image_processor
        self._net = net.eval().to(torch_device(config.device))
        writer = PromptWriter(processor.tokenizer, net.config.max_text_len)
        _check_vocabulary(writer, net, config)
        self._prompted = PromptedDetector(self._forward, writer, torch_device(config.device), config)

    def prepare(self, image: NDArray[np.uint8]) -> PreparedImage:
        """Resize and normalise an image."""
        return prepare_image(self._image_processor, image)

    def detect(self, prepared: Sequence[PreparedImage], labels: Sequence[Sequence[str]]) -> list[list[DetectedBox]]:
        """Return the boxes of each image's labels, best first."""
        return self._prompted.detect(prepared, labels)

    def _forward(self, pixels: Tensor, prompts: PromptBatch) -> tuple[Tensor, Tensor]:
        output = self._net(pixel_values=pixels, input_ids=prompts.token_ids, attention_mask=prompts.attention_mask)
        return output.logits, output.pred_boxes


def _load(config: DetectConfig) -> tuple[GroundingDinoProcessor, GroundingDinoForObjectDetection]:
    name, revision = config.checkpoint, config.revision
    with pretrained_source(name, SETTING) as source:
        processor = GroundingDinoProcessor.from_pretrained(source, revision=revision)
        net, loaded = GroundingDinoForObjectDetection.from_pretrained(
            source, revision=revision, dtype=float32, output_loading_info=True
        )
    if missing := sorted(loaded["missing_keys"]):
        raise BackendWeightsError(
            f"{SETTING}={name!r} lacks {len(missing)} weights of Grounding DINO, first {missing[0]}: "
            f"it holds another network"
        )
    return processor, net


def _check_vocabulary(writer: PromptWriter, net: GroundingDinoForObjectDetection, config: DetectConfig) -> None:
    """Check that the delimiters have the token ids that the network expects; otherwise it would see one long phrase."""
    expected = tuple(net.model.special_tokens.tolist())
    if writer.delimiter_ids != expected:
        raise BackendWeightsError(
            f"{SETTING}={config.checkpoint!r}: its tokenizer numbers [CLS] [SEP] . ? as "
            f"{writer.delimiter_ids}, its network as {expected}; they are not of one checkpoint"
        )
