"""Pictures and masks in users' forms are converted, or refused in one line if ambiguous."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from model.inputs.pictures import cutout_layers, mask_pixels, rgb_pixels

RGB = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
GREY = RGB[..., :1]
DEEP = RGB.astype(np.uint16) * 257
MASK = RGB[..., 0] > 127


@pytest.mark.parametrize(
    "picture",
    [
        RGB,
        np.dstack([RGB, MASK * np.uint8(255)]),
        RGB[:, ::-1][:, ::-1],
        RGB / 255,
        (RGB / 255).astype(np.float32),
        DEEP,
        DEEP.astype(">u2"),
        Image.fromarray(RGB),
        Image.fromarray(np.dstack([RGB, MASK * np.uint8(255)])),
    ],
)
def test_colours_are_the_same_in_every_form(picture: object) -> None:
    pixels = rgb_pixels(picture, "it")
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    assert np.array_equal(pixels, RGB)


@pytest.mark.parametrize(
    "picture",
    [
        GREY,
        GREY[..., 0],
        (GREY[..., 0] / 255).astype(np.float16),
        Image.fromarray(GREY[..., 0]),
        Image.fromarray(DEEP[..., 0]),
        Image.fromarray(GREY[..., 0] / np.float32(255)),
        Image.fromarray(np.dstack([GREY, MASK * np.uint8(255)]), "LA"),
    ],
)
def test_grey_is_repeated(picture: object) -> None:
    assert np.array_equal(rgb_pixels(picture, "it"), GREY.repeat(3, axis=2))


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (RGB[0, 0], r"it has the shape \(3,\): give \[height, width, channels\] with 1 or 3 or 4 channels"),
        (RGB.transpose(2, 0, 1), r"shape \(3, 5, 7\)"),
        (RGB[:0], r"shape \(0, 7, 3\)"),
        (RGB[..., :2], r"shape \(5, 7, 2\)"),
        (RGB.astype(np.int64), "it holds int64: give uint8, uint16, or floats from 0 to 1"),
        (MASK, "it holds bool"),
        (RGB.astype(object), "it holds object"),
        (RGB.astype(np.float32), r"it holds values from 0\.0 to 2\d\d\.0: give .* floats from 0 to 1"),
        (RGB / 255 - 0.5, "it holds values from -0"),
        (np.full((2, 2), np.nan), "it holds values from nan"),
        (RGB.astype(np.uint16), "none above 255 of 65535: give them as uint8"),
        (torch.zeros(3, 5, 7), "it is a Tensor: give a Pillow image or a NumPy array"),
        ("dog.png", "it is a str"),
        (Image.fromarray(RGB[..., 0].astype(np.int32)), "it holds int32"),
    ],
)
def test_an_ambiguous_picture_is_refused(picture: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rgb_pixels(picture, "it")


@pytest.mark.parametrize(
    "mask",
    [
        MASK,
        MASK[..., None],
        MASK.astype(np.uint8),
        MASK.astype(np.int64),
        MASK * np.uint8(255),
        RGB[..., 0],
        MASK * np.uint16(65535),
        MASK.astype(np.float32),
        np.where(MASK, 0.5, 0.49),
        Image.fromarray(MASK),
        Image.fromarray(RGB[..., 0]),
        Image.fromarray(MASK * np.uint16(65535)),
    ],
)
def test_masks_are_the_same_in_every_form(mask: object) -> None:
    assert np.array_equal(mask_pixels(mask, "it"), MASK)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (RGB, r"it has the shape \(5, 7, 3\): give .* with 1 channels"),
        (Image.fromarray(RGB), "it has the mode 'RGB': give one channel"),
        (Image.fromarray(MASK * np.uint8(255)).convert("P"), "it has the mode 'P'"),
        (MASK * 2.0, r"it holds values from 0\.0 to 2\.0: give bool, integers from 0 to 255, or floats from 0 to 1"),
        (MASK * np.int64(-1), "it holds values from -1 to 0"),
        (np.where(MASK, 1.0, np.nan), "it holds values from nan"),
        (MASK.astype(str), "it holds <U5"),
        (torch.ones(5, 7), "it is a Tensor"),
        (None, "it is a NoneType"),
    ],
)
def test_an_ambiguous_mask_is_refused(mask: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mask_pixels(mask, "it")


def rotated(pixels: NDArray[np.uint8], folder: Path) -> Image.Image:
    """Open a file with `pixels` turned by 90 degrees and an EXIF orientation that turns them back."""
    lying = Image.fromarray(np.rot90(pixels))
    exif = Image.Exif()
    exif[0x0112] = 6
    lying.save(folder / "lying.png", exif=exif)
    return Image.open(folder / "lying.png")


def test_pictures_masks_and_cut_outs_are_turned_upright(tmp_path: Path) -> None:
    assert np.array_equal(rgb_pixels(rotated(RGB, tmp_path), "it"), RGB)
    assert np.array_equal(mask_pixels(rotated(RGB[..., 0], tmp_path), "it"), MASK)
    image, mask = cutout_layers(rotated(np.dstack([RGB, MASK * np.uint8(255)]), tmp_path), "it")
    assert np.array_equal(rgb_pixels(image, "it"), RGB)
    assert np.array_equal(mask_pixels(mask, "it"), MASK)


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 4), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "whole.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "whole.png").read_bytes()[:4000])
    for read in (rgb_pixels, cutout_layers):
        with pytest.raises(ValueError, match="it cannot be decoded: image file is truncated"):
            read(Image.open(tmp_path / "half.png"), "it")


@pytest.mark.parametrize("picture", [RGB, GREY[..., 0], Image.fromarray(RGB), None])
def test_a_cut_out_has_to_be_transparent(picture: object) -> None:
    with pytest.raises(ValueError, match="it has no transparency: cut the subject out first"):
        cutout_layers(picture, "it")
