"""Preprocessing, bit for bit that of the published evaluators, and decoding of all kinds of images."""

import io

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import resize

from evaluation.encoders.preprocess import decode_image, preprocess
from evaluation.encoders.specs import CLIP_VITB32, CLIP_VITL14, DINO_VITS16, SPECS
from evaluation.protocols import EncoderSpec
from labeling.sdd.pixels import UndecodableImage
from model.openclip import open_clip

SIZES = [(300, 400), (400, 301), (256, 256), (97, 120), (259, 1021), (1022, 257)]
"""Height and width of images; some crops start at half a pixel."""


def image(height: int, width: int) -> NDArray[np.uint8]:
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)


def reference(pixels: NDArray[np.uint8], spec: EncoderSpec) -> Tensor:
    """Return Pillow's resize of the shorter side, a central crop rounded half to even, and the normalised values."""
    height, width = pixels.shape[:2]
    short, long = spec.resize_px, int(spec.resize_px * max(height, width) / min(height, width))
    size = (short, long) if width <= height else (long, short)
    resized = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))
    top, left = (round((side - spec.crop_px) / 2) for side in resized.shape[:2])
    crop = resized[top : top + spec.crop_px, left : left + spec.crop_px]
    values = torch.from_numpy(crop.transpose(2, 0, 1).astype(np.float32)) / 255
    return (values - torch.tensor(spec.mean)[:, None, None]) / torch.tensor(spec.std)[:, None, None]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.architecture)
@pytest.mark.parametrize("size", SIZES)
def test_an_image_is_prepared_bit_for_bit_as_the_authors_do(spec: EncoderSpec, size: tuple[int, int]) -> None:
    assert torch.equal(preprocess(image(*size), spec), reference(image(*size), spec))


@pytest.mark.parametrize("spec", [CLIP_VITB32, CLIP_VITL14], ids=lambda spec: spec.architecture)
def test_clips_preprocessing_is_openclips(spec: EncoderSpec) -> None:
    transform = open_clip.image_transform(224, is_train=False, mean=spec.mean, std=spec.std)
    for size in SIZES:
        assert torch.equal(preprocess(image(*size), spec), transform(Image.fromarray(image(*size))))


def test_a_resize_of_tensors_would_give_other_values() -> None:
    pixels = image(1024, 1024)
    resized = resize(torch.from_numpy(pixels).permute(2, 0, 1) / 255, [256], antialias=False)[:, 16:240, 16:240]
    ours = preprocess(pixels, DINO_VITS16) * torch.tensor(DINO_VITS16.std)[:, None, None]
    assert (ours + torch.tensor(DINO_VITS16.mean)[:, None, None] - resized).abs().mean() > 0.05


def encoded(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


GREY = np.arange(48, dtype=np.uint8).reshape(6, 8) * 5


def test_images_of_all_modes_become_rgb() -> None:
    grey = np.repeat(GREY[..., None], 3, axis=2)
    deep = Image.fromarray(GREY.astype(np.uint16) * 257)
    assert np.array_equal(decode_image(encoded(Image.fromarray(GREY))), grey)
    assert np.array_equal(decode_image(encoded(deep)), grey)
    palette = Image.frombytes("P", (8, 6), GREY.tobytes())
    palette.putpalette(bytes(value for value in range(256) for _ in range(3)))
    assert np.array_equal(decode_image(encoded(palette)), grey)
    cmyk = decode_image(encoded(Image.new("CMYK", (8, 6), (0, 255, 255, 0)), "TIFF"))
    assert np.array_equal(cmyk, np.broadcast_to(np.uint8([255, 0, 0]), (6, 8, 3)))


def test_transparent_pixels_are_white_and_exif_is_applied() -> None:
    clear = Image.fromarray(np.dstack([np.zeros((6, 8, 3), np.uint8), 255 * (GREY > 100).astype(np.uint8)]))
    assert np.array_equal(decode_image(encoded(clear))[..., 0], np.where(GREY > 100, 0, 255))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = decode_image(encoded(Image.fromarray(GREY), "PNG", exif=exif))
    assert np.array_equal(turned[..., 0], np.rot90(GREY, -1))


def test_floats_have_no_white_level() -> None:
    with pytest.raises(UndecodableImage, match="32-bit samples"):
        decode_image(encoded(Image.fromarray(GREY.astype(np.float32)), "TIFF"))
