"""Masks by SAM and SAM 2, for all backends: preparation of images, decoding of boxes, upscaling of masks.

The two backends of SAM differ only in the network, and agree on the same weights. SAM 2 stretches images where SAM
keeps their aspect ratio and pads them, and upscales masks in one step where SAM takes two.

Choice: `segment.precision` applies to the image encoder, which does nearly all of the work. Prompts and mask decoder
are always float32: bfloat16 has 8 significant bits, too few for a coordinate among 1,024.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from labeling.backends.side_stream import SideStream
from labeling.stages.networks import SegmentedBox

Embeddings = TypeVar("Embeddings")
"""Embeddings of a batch of images, in the form of the network."""
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
    stretches: bool = False
    """Whether images are stretched to a square, as by SAM 2, instead of padded."""

    def prepare(self, image: NDArray[np.uint8]) -> SamImage:
        """Resize `image` [H, W, 3]: to a longest side of `side_px`, or to a square if `stretches`."""
        height, width = image.shape[:2]
        size = self._resized(height, width)
        return SamImage(np.asarray(Image.fromarray(image).resize(size, self.resample)), height, width)

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        """Return width and height after resizing; with a ratio kept, as the original's ResizeLongestSide."""
        if self.stretches:
            return self.side_px, self.side_px
        scale = self.side_px / max(height, width)
        return max(1, int(width * scale + 0.5)), max(1, int(height * scale + 0.5))

    def batch(self, images: Sequence[SamImage], device: torch.device) -> Tensor:
        """Normalise, then pad with zeros on the right and below, to float32 [B, 3, side_px, side_px]."""
        mean, std = (torch.tensor(values, device=device) for values in (self.mean, self.std))
        batch = torch.zeros(len(images), 3, self.side_px, self.side_px, device=device)
        for padded, image in zip(batch, images, strict=True):
            pixels = torch.tensor(image.pixels, device=device)
            height, width = pixels.shape[:2]
            padded[:, :height, :width] = ((pixels - mean) / std).permute(2, 0, 1)
        return batch


class Sam(Protocol[Embeddings]):
    """A loaded network."""

    device: torch.device
    preprocessing: Preprocessing

    def encode(self, pixels: Tensor) -> Embeddings:
        """Return the float32 embeddings of the images of a batch."""

    def decode(self, embeddings: Embeddings, owner: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Return float32 mask logits [n, l, l] and predicted IoU [n] of `boxes` [n, 4] in input pixels.

        Args:
            embeddings: embeddings of the images.
            owner: [n] on the CPU, ascending: box i lies in image `owner[i]`.
            boxes: boxes as x0, y0, x1, y1.
        """


@dataclass(frozen=True, slots=True)
class FoundMasks:
    """Masks of an image's boxes, upscaled while they are iterated over: by any thread, a few at a time."""

    image: SamImage
    logits: Tensor
    """Mask logits [n, l, l]."""
    predicted_iou: Tensor
    """The network's own estimate of each mask's IoU, [n]."""
    preprocessing: Preprocessing
    beside: SideStream
    """Stream of the upscaling on a GPU."""

    def __iter__(self) -> Iterator[SegmentedBox]:
        """Yield the mask of each box."""
        at_once = _masks_at_once(self.image, self.preprocessing)
        for logits, ious in zip(
            torch.split(self.logits, at_once), torch.split(self.predicted_iou, at_once), strict=True
        ):
            with torch.inference_mode(), self.beside.entered():
                masks = upscale(logits, self.image, self.preprocessing)
                stable = stability(logits, self.image, self.preprocessing.side_px)
                scores = ious.tolist(), stable.tolist()
            yield from map(SegmentedBox, masks, *scores)


@torch.inference_mode()
def segment(
    sam: Sam[Embeddings], images: Sequence[SamImage], boxes: Sequence[NDArray[np.float32]]
) -> list[Iterable[SegmentedBox]]:
    """Run the network; return the masks of each image's boxes. Images without boxes are not encoded."""
    counts = [len(own) for own in boxes]
    with_boxes = [image for image, count in zip(images, counts, strict=True) if count]
    if not with_boxes:
        return [() for _ in images]
    embeddings = sam.encode(sam.preprocessing.batch(with_boxes, sam.device))
    owner = torch.repeat_interleave(torch.arange(len(with_boxes)), torch.tensor([count for count in counts if count]))
    at_input = torch.cat([_at_input(own, image) for own, image in zip(boxes, images, strict=True)]).to(sam.device)
    logits, predicted_iou = _decode(sam, embeddings, owner, at_input)
    own_masks = zip(images, torch.split(logits, counts), torch.split(predicted_iou, counts), strict=True)
    beside = SideStream(sam.device)
    return [FoundMasks(image, own, iou, sam.preprocessing, beside) for image, own, iou in own_masks]


def upscale(logits: Tensor, image: SamImage, preprocessing: Preprocessing) -> list[NDArray[np.bool_]]:
    """Return masks [H, W] of the upright image from `logits` [n, l, l].

    As the original SAM: bilinear to the network's input, padding cut off, bilinear to the image, above 0. As the
    original SAM 2, whose images have no padding: bilinear to the image, above 0. Beside the masks themselves it holds
    at most `UPSCALE_BYTES` twice, or one mask's logits at both sizes.
    """
    chunks = torch.split(logits, _masks_at_once(image, preprocessing))
    return [mask for chunk in chunks for mask in _upscale(chunk, image, preprocessing).cpu().numpy()]


def _masks_at_once(image: SamImage, preprocessing: Preprocessing) -> int:
    """Return the number of masks that are upscaled together."""
    bytes_each = 4 * max(preprocessing.side_px**2, image.height_px * image.width_px)
    return max(1, UPSCALE_BYTES // bytes_each)


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


def _decode(sam: Sam[Embeddings], embeddings: Embeddings, owner: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    parts = zip(torch.split(owner, BOXES_AT_ONCE), torch.split(boxes, BOXES_AT_ONCE), strict=True)
    decoded = [sam.decode(embeddings, some_owner, some_boxes) for some_owner, some_boxes in parts]
    return torch.cat([logits for logits, _ in decoded]), torch.cat([predicted_iou for _, predicted_iou in decoded])


def _upscale(logits: Tensor, image: SamImage, preprocessing: Preprocessing) -> Tensor:
    unpadded = logits[:, None]
    if not preprocessing.stretches:
        height, width = image.pixels.shape[:2]
        at_input = interpolate(unpadded, (preprocessing.side_px,) * 2, mode="bilinear", align_corners=False)
        unpadded = at_input[..., :height, :width]
    upright = interpolate(unpadded, (image.height_px, image.width_px), mode="bilinear", align_corners=False)
    return upright[:, 0] > 0
