"""Training images are the pixels that the labelling stages saw, however they are decoded."""

import io

import numpy as np
import pytest
from PIL import Image

from labeling.sdd.pixels import UndecodableImage, decode
from training.data.decoding import decode_reduced

UPRIGHT, UPSIDE_DOWN = 1, 3


def saved(mode="RGB", form="JPEG", orientation=UPRIGHT, size=(53, 38), **options) -> bytes:
    colours = np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    tags = Image.Exif()
    tags[0x0112] = orientation
    file = io.BytesIO()
    Image.fromarray(colours).resize(size, Image.Resampling.BICUBIC).convert(mode).save(file, form, exif=tags, **options)
    return file.getvalue()


IMAGES = {
    "progressive": saved(progressive=True),
    "full colour": saved(subsampling=0),
    "half colour": saved(subsampling=2),
    "grey": saved("L"),
    "CMYK": saved("CMYK"),
    "turned": saved(orientation=UPSIDE_DOWN, size=(64, 48)),
    "with bytes after its end": saved() + b"more",
    "PNG": saved(form="PNG"),
}


@pytest.mark.parametrize("reduction", [1, 2, 4, 8])
@pytest.mark.parametrize("name", IMAGES)
def test_pixels_are_those_of_the_labelling_stages(name, reduction):
    encoded = IMAGES[name]
    assert np.array_equal(decode_reduced(encoded, reduction), decode(encoded, reduction=reduction))


@pytest.mark.parametrize("encoded", [saved()[:-30], saved()[:200] + saved()[-2:], b"no image\xff\xd9"])
def test_damaged_images_have_the_same_error(encoded):
    with pytest.raises(UndecodableImage) as expected:
        decode(encoded)
    with pytest.raises(UndecodableImage) as error:
        decode_reduced(encoded, 1)
    assert (error.value.reason, str(error.value)) == (expected.value.reason, str(expected.value))
