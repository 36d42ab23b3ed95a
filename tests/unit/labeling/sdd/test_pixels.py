"""Reduced decoding: the same picture with fewer pixels, whatever has to be turned; and decoding with alpha.

The rest is in test_imaging.py.
"""

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from labeling.sdd.pixels import UndecodableImage, decode, decode_reduced, decode_with_alpha


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


@pytest.mark.parametrize(("min_side_px", "height"), [(24, 24), (25, 48), (48, 48), (96, 96), (97, 192), (500, 192)])
def test_a_picture_is_reduced_as_far_as_its_shorter_side_may_shrink(min_side_px, height):
    assert decode_reduced(jpeg(320, 192), min_side_px).shape[0] == height


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_reduced_picture_is_upright(orientation):
    encoded = jpeg(320, 192, orientation)
    np.testing.assert_array_equal(decode_reduced(encoded, 48), decode(encoded, reduction=4))


@pytest.mark.parametrize("form", ["PNG", "WEBP", "TIFF"])
def test_formats_without_reduced_decoding_are_decoded_as_ever(form):
    encoded = jpeg(320, 192, form=form)
    np.testing.assert_array_equal(decode_reduced(encoded, 24), decode(encoded))


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_the_colours_of_other_modes_stay_when_reduced(mode):
    file = io.BytesIO()
    Image.open(io.BytesIO(jpeg(320, 192))).convert(mode).save(file, "JPEG", quality=95)
    whole, reduced = decode(file.getvalue()), decode_reduced(file.getvalue(), 48)
    assert reduced.shape == (48, 80, 3)
    assert np.abs(reduced.astype(int) - cv2.resize(whole, (80, 48), interpolation=cv2.INTER_AREA)).mean() < 2


def test_a_picture_of_many_strips_is_copied_whole(monkeypatch):
    encoded = jpeg(317, 190)
    whole = decode(encoded)
    monkeypatch.setattr("labeling.sdd.pixels._STRIP_PIXELS", 1000)
    np.testing.assert_array_equal(decode(encoded), whole)


def test_a_truncated_picture_is_refused_when_reduced():
    with pytest.raises(UndecodableImage, match="truncated"):
        decode(jpeg(320, 192)[:-3000], reduction=4)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_colours_under_transparency_are_kept(mode):
    """Also where alpha is 0, and in strips: the picture is taller than one strip of conversion."""
    picture = Image.new("RGB", (600, 2000), (200, 100, 0)).convert(mode)
    picture.putalpha(Image.linear_gradient("L").resize((600, 2000)))
    file = io.BytesIO()
    picture.save(file, "PNG")
    pixels, alpha = decode_with_alpha(file.getvalue())
    assert (pixels == np.asarray(picture.convert("RGB"))).all()
    assert pixels[0, 0, 0] > 100
    np.testing.assert_array_equal(alpha, np.asarray(picture.getchannel("A")))


def test_the_transparent_colour_of_a_palette_is_kept():
    palette = Image.fromarray(np.array([[0, 1], [1, 0]], np.uint8), "P")
    palette.putpalette([10, 20, 30, 40, 50, 60])
    file = io.BytesIO()
    palette.save(file, "PNG", transparency=1)
    pixels, alpha = decode_with_alpha(file.getvalue())
    assert pixels[0].tolist() == [[10, 20, 30], [40, 50, 60]]
    assert alpha.tolist() == [[255, 0], [0, 255]]


@pytest.mark.parametrize("side", [64, 2300])
def test_pixels_are_pillows_whether_it_stores_them_in_one_block_or_in_several(side):
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).resize((side, side + 3)).save(file, "PNG", compress_level=1)
    np.testing.assert_array_equal(decode(file.getvalue()), np.array(Image.open(file)))


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_an_opaque_picture_has_no_alpha(mode):
    file = io.BytesIO()
    Image.new(mode, (8, 6), 90 if mode == "L" else (90, 20, 30, 0)[: len(mode)]).save(file, "JPEG")
    pixels, alpha = decode_with_alpha(file.getvalue())
    assert alpha is None
    np.testing.assert_array_equal(pixels, decode(file.getvalue()))
