"""Segment Anything 2 and 2.1 by transformers, from their checkpoint folders or hub ids.

The published checkpoints describe the network of videos, `sam2_video`. The network of images is a part of it.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers import AutoConfig, Sam2Config, Sam2ImageProcessor, Sam2Model

from labeling.backends.runtime import pretrained_source, refuse_incomplete, torch_device, torch_dtype
from labeling.backends.sam.predict import Preprocessing, SamImage, segment
from labeling.config import SegmentConfig
from labeling.errors import BackendWeightsError
from labeling.stages.networks import SegmentedBox

SETTING = "labeling.segment.checkpoint"
MODEL_TYPES = ("sam2", "sam2_video")
"""Types of networks in config.json that hold the network of images."""


class Sam2Segmenter:
    """Segmenter that runs `Sam2Model` of transformers."""

    def __init__(self, config: SegmentConfig) -> None:
        """Load the weights.

        Raises:
            BackendWeightsError: the folder or hub id is missing, is another model's, or lacks weights.
        """
        self.device = torch_device(config.device)
        self.dtype = torch_dtype(config.precision)
        self.net, self.preprocessing = _load(config)
        self.net.vision_encoder.to(self.dtype)
        self.net.to(self.device)

    def prepare(self, image: NDArray[np.uint8]) -> SamImage:
        """Resize an image for the network."""
        return self.preprocessing.prepare(image)

    def segment(
        self, prepared: Sequence[SamImage], boxes: Sequence[NDArray[np.float32]]
    ) -> list[Iterable[SegmentedBox]]:
        """Return the masks of each image's boxes."""
        return segment(self, prepared, boxes)

    def encode(self, pixels: Tensor) -> list[Tensor]:
        """Return feature maps [B, C, h, w], from fine to coarse; only the encoder runs in the settings' precision.

        As `Sam2Model.get_image_embeddings`, which cannot mix precisions.
        """
        fine, middle, coarse = (level.float() for level in self.net.vision_encoder(pixels.to(self.dtype))[1])
        decoder = self.net.mask_decoder
        return [decoder.conv_s0(fine), decoder.conv_s1(middle), coarse + self.net.no_memory_embedding.mT[..., None]]

    def decode(self, embeddings: list[Tensor], owner: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Decode each box as an image with one prompt, which needs no padding for images with few boxes."""
        of_box = [level[owner.to(level.device)] for level in embeddings]
        out = self.net(image_embeddings=of_box, input_boxes=boxes[:, None], multimask_output=False)
        return out.pred_masks[:, 0, 0], out.iou_scores[:, 0, 0]


def _load(config: SegmentConfig) -> tuple[Sam2Model, Preprocessing]:
    name, revision = config.checkpoint, config.revision
    with pretrained_source(name, SETTING) as source:
        if (kind := AutoConfig.from_pretrained(source, revision=revision).model_type) not in MODEL_TYPES:
            raise BackendWeightsError(f"{SETTING}={name!r} holds a model of type {kind!r}, not 'sam2'")
        network = Sam2Config.from_pretrained(source, revision=revision)
        preprocessing = read_preprocessing(source, revision, network, name)
        net, report = Sam2Model.from_pretrained(
            source,
            config=network,
            revision=revision,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    refuse_incomplete(report, name, SETTING, "Sam2Model")
    return net.eval().requires_grad_(False), preprocessing


def read_preprocessing(source: str, revision: str, network: Sam2Config, name: str) -> Preprocessing:
    """Return the preprocessing of a checkpoint.

    Args:
        source: folder or hub id of the checkpoint.
        revision: revision of the hub id.
        network: settings of its network.
        name: name of the checkpoint in messages.

    Raises:
        BackendWeightsError: it makes images of another size than the network takes.
    """
    processor = Sam2ImageProcessor.from_pretrained(source, revision=revision)
    side_px = network.prompt_encoder_config.image_size
    size = [processor.size["height"], processor.size["width"]]
    if not size == [side_px, side_px] == list(network.vision_config.backbone_config.image_size):
        raise BackendWeightsError(
            f"{SETTING}={name!r}: its processor resizes to {size[1]}x{size[0]} pixels, but its network takes "
            f"{side_px}x{side_px}"
        )
    return Preprocessing(
        side_px=side_px,
        mean=tuple(value / processor.rescale_factor for value in processor.image_mean),
        std=tuple(value / processor.rescale_factor for value in processor.image_std),
        resample=Image.Resampling(processor.resample),
        stretches=True,
    )
