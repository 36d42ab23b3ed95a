"""Masks by SAM, for both backends: preparation of images, decoding of boxes, upscaling of masks.

The backends differ only in the network, and agree on the same weights.

Choice: `segment.precision` applies to the image encoder, which does nearly all of the work. Prompts and mask decoder
are always float32: bfloat16 has 8 significant bits, too few for a coordinate among 1,024.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from labeling.stages.networks import SegmentedBox

BOXES_AT_ONCE = 32
"""Number of boxes that are decoded together, across images: 1.3 GB of activations at full size."""
UPSCALE_BYTES = 128 * 2**20
"""Largest size of the logits that are upscaled together, in bytes; one mask above 33 million pixels exceeds it."""


@dataclass(frozen=True, slots=True)
class SamImage:
    """An image resized for the network, not yet normalised or padded: uint8 takes a quarter of the memory."""

    pixels: NDArray[np.uint8]
    """Pixels [h, w, 3], the longest side at the network's input size."""
    height_px: int
    """Height of the upright image."""
    width_px: int
    """Width of the upright image."""


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """Conversion of pixels to the network's square input; the defaults are those of the original checkpoints."""

    side_px: int
    mean: tuple[float, ...] = (123.675, 116.28, 103.53)
    std: tuple[float, ...] = (58.395, 57.12, 57.375)
    resample: Image.Resampling = Image.Resampling.BILINEAR

    def prepare(self, image: NDArray[np.uint8]) -> SamImage:
        """Resize `image` [H, W, 3] to a longest side of `side_px`, as the original's ResizeLongestSide."""
        height, width = image.shape[:2]
        scale = self.side_px / max(height, width)
        size = max(1, int(width * scale + 0.5)), max(1, int(height * scale + 0.5))
        return SamImage(np.asarray(Image.fromarray(image).resize(size, self.resample)), height, width)

    def batch(self, images: Sequence[SamImage], device: torch.device) -> Tensor:
        """Normalise, then pad with zeros on the right and below, to float32 [B, 3, side_px, side_px]."""
        mean, std = (torch.tensor(values, device=device) for values in (self.mean, self.std))
        batch = torch.zeros(len(images), 3, self.side_px, self.side_px, device=device)
        for padded, image in zip(batch, images, strict=True):
            pixels = torch.tensor(image.pixels, device=device)
            height, width = pixels.shape[:2]
            padded[:, :height, :width] = ((pixels - mean) / std).permute(2, 0, 1)
        return batch


class Sam(Protocol):
    """A loaded network."""

    device: torch.device
    preprocessing: Preprocessing

    def encode(self, pixels: Tensor) -> Tensor:
        """Return one float32 embedding per image of the batch."""

    def decode(self, embeddings: Tensor, owner: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Return float32 mask logits [n, l, l] and predicted IoU [n] of `boxes` [n, 4] in input pixels.

        Args:
            owner: [n] on the CPU, ascending: box i lies in the image of `embeddings[owner[i]]`.
        """


@torch.inference_mode()
def segment(sam: Sam, images: Sequence[SamImage], boxes: Sequence[NDArray[np.float32]]) -> list[list[SegmentedBox]]:
    """Return the masks of each image's boxes; images without boxes are not encoded."""
    counts = [len(own) for own in boxes]
    with_boxes = [image for image, count in zip(images, counts, strict=True) if count]
    if not with_boxes:
        return [[] for _ in images]
    embeddings = sam.encode(sam.preprocessing.batch(with_boxes, sam.device))
    owner = torch.repeat_interleave(torch.arange(len(with_boxes)), torch.tensor([count for count in counts if count]))
    at_input = torch.cat([_at_input(own, image) for own, image in zip(boxes, images, strict=True)]).to(sam.device)
    logits, predicted_iou = _decode(sam, embeddings, owner, at_input)
    own_masks = zip(images, torch.split(logits, counts), torch.split(predicted_iou, counts), strict=True)
    return [_segmented(image, own, iou, sam.preprocessing.side_px) for image, own, iou in own_masks]


def upscale(logits: Tensor, image: SamImage, side_px: int) -> list[NDArray[np.bool_]]:
    """Return masks [H, W] of the upright image from `logits` [n, l, l].

    As the original: bilinear to the network's input, padding cut off, bilinear to the image, above 0. Beside the
    masks themselves it holds at most `UPSCALE_BYTES` twice, or one mask's logits at both sizes.
    """
    bytes_each = 4 * max(side_px**2, image.height_px * image.width_px)
    chunks = torch.split(logits, max(1, UPSCALE_BYTES // bytes_each))
    return [mask for chunk in chunks for mask in _upscale(chunk, image, side_px).cpu().numpy()]


def stability(logits: Tensor, image: SamImage, side_px: int) -> Tensor:
    """Return the IoU of each mask's thresholds at logit +1 and -1 (SAM's stability score with its offset of 1), [n].

    Choices: on the logits as decoded, not upscaled, and without the padding; 0 where even the lower threshold
    leaves nothing.
    """
    per_pixel = logits.shape[-1] / side_px
    height, width = (int(np.ceil(side * per_pixel)) for side in image.pixels.shape[:2])
    inside = logits[:, :height, :width].flatten(1)
    return (inside > 1).sum(1) / (inside > -1).sum(1).clamp(min=1)


def _at_input(boxes: NDArray[np.float32], image: SamImage) -> Tensor:
    height, width = image.pixels.shape[:2]
    x, y = width / image.width_px, height / image.height_px
    return torch.from_numpy((boxes.astype(np.float64) * (x, y, x, y)).astype(np.float32))


def _decode(sam: Sam, embeddings: Tensor, owner: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    parts = zip(torch.split(owner, BOXES_AT_ONCE), torch.split(boxes, BOXES_AT_ONCE), strict=True)
    decoded = [sam.decode(embeddings, some_owner, some_boxes) for some_owner, some_boxes in parts]
    return torch.cat([logits for logits, _ in decoded]), torch.cat([predicted_iou for _, predicted_iou in decoded])


def _segmented(image: SamImage, logits: Tensor, predicted_iou: Tensor, side_px: int) -> list[SegmentedBox]:
    masks = upscale(logits, image, side_px)
    scores = zip(masks, predicted_iou.tolist(), stability(logits, image, side_px).tolist(), strict=True)
    return [SegmentedBox(mask, iou, stable) for mask, iou, stable in scores]


def _upscale(logits: Tensor, image: SamImage, side_px: int) -> Tensor:
    height, width = image.pixels.shape[:2]
    at_input = interpolate(logits[:, None], (side_px, side_px), mode="bilinear", align_corners=False)
    unpadded = at_input[..., :height, :width]
    upright = interpolate(unpadded, (image.height_px, image.width_px), mode="bilinear", align_corners=False)
    return upright[:, 0] > 0
