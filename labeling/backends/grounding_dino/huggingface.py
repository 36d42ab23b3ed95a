"""Grounding DINO and MM Grounding DINO of transformers, and their checkpoint folders.

The two differ in the bias of their contrastive embedding and in the weights of their heads. LLMDet is an MM Grounding
DINO with other weights.

The checkpoint's own image processor resizes and normalises. Its `do_pad` is not used: see `grounding_dino.detect`.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, float32
from transformers import (
    AutoConfig,
    GroundingDinoForObjectDetection,
    GroundingDinoProcessor,
    MMGroundingDinoForObjectDetection,
    PreTrainedModel,
)

from labeling.backends.grounding_dino.detect import (
    PreparedImage,
    PromptedDetector,
    prepare_image,
    resizing_of,
)
from labeling.backends.grounding_dino.prompt import PromptBatch, PromptWriter
from labeling.backends.runtime import pretrained_source, torch_device
from labeling.config import DetectConfig, DetectorBackend
from labeling.errors import BackendWeightsError
from labeling.stages.networks import DetectedBox

NETWORKS: dict[DetectorBackend, type[PreTrainedModel]] = {
    DetectorBackend.GROUNDING_DINO_HF: GroundingDinoForObjectDetection,
    DetectorBackend.MM_GROUNDING_DINO: MMGroundingDinoForObjectDetection,
}
"""Class of the network of each backend."""


class GroundingDinoHfDetector:
    """Detector that runs Grounding DINO or MM Grounding DINO of transformers."""

    def __init__(self, config: DetectConfig) -> None:
        """Load the weights.

        Raises:
            BackendWeightsError: no such checkpoint, or one of another network.
        """
        processor, net = _load(config)
        self._image_processor = processor.image_processor
        self.resizing = resizing_of(self._image_processor, config)
        self._net = net.eval().to(torch_device(config.device))
        writer = PromptWriter(processor.tokenizer, net.config.max_text_len)
        _check_vocabulary(writer, net, config)
        self._prompted = PromptedDetector(self._forward, writer, torch_device(config.device), config)

    def prepare(self, image: NDArray[np.uint8]) -> PreparedImage:
        """Resize and normalise an image."""
        return prepare_image(self._image_processor, image, self.resizing)

    def detect(self, prepared: Sequence[PreparedImage], labels: Sequence[Sequence[str]]) -> list[list[DetectedBox]]:
        """Return the boxes of each image's labels, best first."""
        return self._prompted.detect(prepared, labels)

    def _forward(self, pixels: Tensor, prompts: PromptBatch) -> tuple[Tensor, Tensor]:
        output = self._net(pixel_values=pixels, input_ids=prompts.token_ids, attention_mask=prompts.attention_mask)
        return output.logits, output.pred_boxes


def _load(config: DetectConfig) -> tuple[GroundingDinoProcessor, PreTrainedModel]:
    name, revision, network = config.checkpoint, config.revision, NETWORKS[config.backend]
    with pretrained_source(name, f"{config.table}.checkpoint") as source:
        described = AutoConfig.from_pretrained(source, revision=revision)
        if not isinstance(described, network.config_class):
            raise BackendWeightsError(
                f"{config.table}.checkpoint={name!r} holds a network of type {described.model_type!r}, but "
                f"{config.table}.backend={config.backend.value!r} loads {network.config_class.model_type!r}: "
                "give other weights or the other backend"
            )
        processor = GroundingDinoProcessor.from_pretrained(source, revision=revision)
        net, loaded = network.from_pretrained(source, revision=revision, dtype=float32, output_loading_info=True)
    if missing := sorted(loaded["missing_keys"]):
        raise BackendWeightsError(
            f"{config.table}.checkpoint={name!r} lacks {len(missing)} weights of Grounding DINO, first {missing[0]}: "
            f"it holds another network"
        )
    return processor, net


def _check_vocabulary(writer: PromptWriter, net: PreTrainedModel, config: DetectConfig) -> None:
    """Check that the delimiters have the token ids that the network expects; otherwise it would see one long phrase."""
    expected = tuple(net.model.special_tokens.tolist())
    if writer.delimiter_ids != expected:
        raise BackendWeightsError(
            f"{config.table}.checkpoint={config.checkpoint!r}: its tokenizer numbers [CLS] [SEP] . ? as "
            f"{writer.delimiter_ids}, its network as {expected}; they are not of one checkpoint"
        )
