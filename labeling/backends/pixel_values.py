"""Pixels of an image for a network, by an image processor of transformers."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import BaseImageProcessor
from transformers.image_utils import SizeDict


def prepare_pixels(
    processor: BaseImageProcessor, image: NDArray[np.uint8], size: tuple[int, int] | None = None, **options: object
) -> Tensor:
    """Resize and normalise an upright RGB image [H, W, 3] to [3, h, w], as the processor is configured.

    The processor would first copy the image to channels first, which takes several times as long as resizing it. Here
    its own `resize` gets the image as it lies in memory; the result is the same to the bit.

    Args:
        processor: image processor with the torchvision backend.
        image: the image.
        size: height and width to resize to, in pixels; as configured by default.
        options: arguments of the processor that replace its configuration, such as `do_pad`.
    """
    pixels = torch.from_numpy(np.require(image, requirements=["C", "W"])).permute(2, 0, 1)
    if processor.do_resize:
        to = SizeDict(height=size[0], width=size[1]) if size else processor.size
        pixels = processor.resize(pixels, size=to, resample=processor.resample)
    batch = processor(pixels, do_resize=False, input_data_format="channels_first", return_tensors="pt", **options)
    values: Tensor = batch["pixel_values"][0]
    return values


def input_px(processor: BaseImageProcessor) -> int | None:
    """Return the longer side of what the processor makes of any image, in pixels; None if it depends on the image."""
    sides = processor.size.height, processor.size.width
    return None if None in sides else max(sides)
