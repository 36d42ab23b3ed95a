"""Segment Anything by transformers, from its checkpoint folders or hub ids."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers import AutoConfig, SamConfig, SamImageProcessor, SamModel

from labeling.backends.runtime import pretrained_source, refuse_incomplete, torch_device, torch_dtype
from labeling.backends.sam.predict import Preprocessing, SamImage, segment
from labeling.config import SegmentConfig
from labeling.errors import BackendWeightsError
from labeling.stages.networks import SegmentedBox

SETTING = "labeling.segment.checkpoint"


class SamHfSegmenter:
    """Segmenter that runs `SamModel` of transformers."""

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

    def encode(self, pixels: Tensor) -> Tensor:
        """Return embeddings [B, C, g, g], computed in the precision of the settings."""
        embeddings: Tensor = self.net.vision_encoder(pixels.to(self.dtype)).last_hidden_state
        return embeddings.float()

    def decode(self, embeddings: Tensor, owner: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Decode each box as an image with one prompt, which needs no padding for images with few boxes."""
        of_box = embeddings[owner.to(embeddings.device)]
        out = self.net(image_embeddings=of_box, input_boxes=boxes[:, None], multimask_output=False)
        return out.pred_masks[:, 0, 0], out.iou_scores[:, 0, 0]


def _load(config: SegmentConfig) -> tuple[SamModel, Preprocessing]:
    name, revision = config.checkpoint, config.revision
    with pretrained_source(name, SETTING) as source:
        network = AutoConfig.from_pretrained(source, revision=revision)
        if not isinstance(network, SamConfig):
            raise BackendWeightsError(f"{SETTING}={name!r} holds a model of type {network.model_type!r}, not 'sam'")
        preprocessing = read_preprocessing(source, revision, network.vision_config.image_size, name)
        net, report = SamModel.from_pretrained(
            source, revision=revision, dtype=torch.float32, output_loading_info=True, ignore_mismatched_sizes=True
        )
    refuse_incomplete(report, name, SETTING, "SamModel")
    return net.eval().requires_grad_(False), preprocessing


def read_preprocessing(source: str, revision: str, side_px: int, name: str) -> Preprocessing:
    """Return the preprocessing of a checkpoint.

    Args:
        source: folder or hub id of the checkpoint.
        revision: revision of the hub id.
        side_px: side of the images that its network takes, in pixels.
        name: name of the checkpoint in messages.

    Raises:
        BackendWeightsError: it makes images of another size than the network takes.
    """
    processor = SamImageProcessor.from_pretrained(source, revision=revision)
    longest, pad = processor.size["longest_edge"], processor.pad_size
    if {longest, pad["height"], pad["width"]} != {side_px}:
        raise BackendWeightsError(
            f"{SETTING}={name!r}: its processor resizes to {longest} and pads to {pad['width']}x{pad['height']} "
            f"pixels, but its network takes {side_px}x{side_px}"
        )
    return Preprocessing(
        side_px=side_px,
        mean=tuple(value / processor.rescale_factor for value in processor.image_mean),
        std=tuple(value / processor.rescale_factor for value in processor.image_std),
        resample=Image.Resampling(processor.resample),
    )
