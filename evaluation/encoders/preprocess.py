"""Decoding of image files, and preprocessing for an encoder, in one place for all scores."""

from collections.abc import Callable
from functools import cache

from jaxtyping import Float
from PIL import Image as PillowImage
from torch import Tensor
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from evaluation.encoders.encoder import Image
from evaluation.protocols import EncoderSpec, ResizeFilter
from labeling.sdd.pixels import decode

_MODES = {ResizeFilter.BICUBIC: InterpolationMode.BICUBIC, ResizeFilter.BILINEAR: InterpolationMode.BILINEAR}


def decode_image(encoded: bytes) -> Image:
    """Decode the bytes of an image file to upright RGB: first frame, alpha over white, upper 8 of 16 bits.

    Published evaluators call `Image.open(path).convert("RGB")`, which is the same for RGB without an EXIF orientation.

    Raises:
        UndecodableImage: truncated, not an image, too large, or of 32-bit samples.
    """
    return decode(encoded)


def preprocess(image: Image, spec: EncoderSpec) -> Float[Tensor, "3 crop crop"]:
    """Resize, crop and normalise an image as the encoder's authors do: torchvision's transforms on 8-bit pixels.

    Pillow's resize widens its filter when it shrinks and rounds to 8 bits; a resize of tensors gives other scores.
    transformers' image processors crop one pixel beside torchvision for some sizes.
    """
    prepared: Tensor = _transform(spec)(PillowImage.fromarray(image))
    return prepared


@cache
def _transform(spec: EncoderSpec) -> Callable[[PillowImage.Image], Tensor]:
    composed: Callable[[PillowImage.Image], Tensor] = transforms.Compose(
        [
            transforms.Resize(spec.resize_px, interpolation=_MODES[spec.interpolation]),
            transforms.CenterCrop(spec.crop_px),
            transforms.ToTensor(),
            transforms.Normalize(spec.mean, spec.std),
        ]
    )
    return composed
