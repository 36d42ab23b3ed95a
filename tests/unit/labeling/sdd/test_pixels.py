"""Reduced decoding: the same picture with fewer pixels, whatever has to be turned. The rest is in test_imaging.py."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from labeling.sdd.pixels import UndecodableImage, decode


def jpeg(width, height, orientation=1, form="JPEG") -> bytes:
    """A smooth picture without symmetry."""
    pixels = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    tags = Image.Exif()
    tags[0x0112] = orientation
    file = io.BytesIO()
    Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC).save(file, form, quality=95, exif=tags)
    return file.getvalue()


@pytest.mark.parametrize("reduction", [2, 4, 8])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_reduced_picture_is_the_same_picture(orientation, reduction):
    encoded = jpeg(320, 192, orientation)
    whole, reduced = decode(encoded), decode(encoded, reduction=reduction)
    assert reduced.shape[:2] == (whole.shape[0] // reduction, whole.shape[1] // reduction)
    by_area = cv2.resize(whole, reduced.shape[1::-1], interpolation=cv2.INTER_AREA)
    assert np.abs(reduced.astype(int) - by_area).mean() < 2


@pytest.mark.parametrize("orientation", range(1, 9))
def test_reduced_blocks_begin_at_the_upright_corner(orientation):
    encoded = jpeg(317, 190, orientation)
    whole, reduced = decode(encoded), decode(encoded, reduction=4)
    if orientation == 1:
        assert reduced.shape[:2] == (48, 80)
        whole = whole[:188, :316]
        reduced = reduced[:47, :79]
    by_area = cv2.resize(whole, reduced.shape[1::-1], interpolation=cv2.INTER_AREA)
    assert np.abs(reduced.astype(int) - by_area).mean() < 2


def test_a_format_that_cannot_be_reduced_is_whole():
    assert decode(jpeg(40, 30, form="PNG"), reduction=4).shape == (30, 40, 3)


def test_a_truncated_picture_is_refused_when_reduced():
    with pytest.raises(UndecodableImage, match="truncated"):
        decode(jpeg(320, 192)[:-3000], reduction=4)
