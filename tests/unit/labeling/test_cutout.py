"""Cut-outs by alpha and mask run no network, and bad input is refused before one is loaded."""

import numpy as np
import pytest

from labeling.config import DetectConfig, SegmentConfig
from labeling.cutout import Cutter, FoundBy
from labeling.errors import BackendWeightsError, CutoutError
from labeling.photo import DecodedPhoto

PIXELS = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
INSIDE = np.zeros((60, 80), bool)
INSIDE[15:45, 20:60] = True
OPAQUE = DecodedPhoto("dog.jpg", PIXELS, None)
TRANSPARENT = DecodedPhoto("dog.png", PIXELS, INSIDE)


@pytest.fixture
def cutter() -> Cutter:
    """A cutter whose weights do not exist, so that it fails as soon as it loads a network."""
    return Cutter(DetectConfig(checkpoint="no/such/detector"), SegmentConfig(checkpoint="no/such/segmenter"))


@pytest.mark.parametrize("given", [{}, {"candidate": 1}, {"box": (0.1, 0.1, 0.9, 0.9)}])
def test_the_cutter_of_these_tests_fails_at_the_first_network(cutter, given):
    with pytest.raises(BackendWeightsError, match="no/such/"):
        cutter.cut(OPAQUE, "dog", **given)


def test_transparency_is_used_without_a_network(cutter):
    cutout = cutter.cut(TRANSPARENT, "dog")
    assert (cutout.found_by, cutout.label) == (FoundBy.ALPHA, "dog")
    assert cutout.mask is INSIDE
    assert cutout.box == (0.25, 0.25, 0.75, 0.75)
    assert (cutout.score, cutout.predicted_iou, cutout.candidates) == (None, None, ())


def test_a_mask_is_used_without_a_network_and_replaces_transparency(cutter):
    mask = np.zeros((60, 80), bool)
    mask[59, 79] = True
    cutout = cutter.cut(TRANSPARENT, "dog", mask=mask)
    assert cutout.found_by is FoundBy.MASK
    assert cutout.box == (79 / 80, 59 / 60, 1.0, 1.0)


@pytest.mark.parametrize("given", [{"candidate": 1}, {"box": (0.1, 0.1, 0.9, 0.9)}])
def test_a_box_or_a_candidate_replaces_transparency(cutter, given):
    with pytest.raises(BackendWeightsError):
        cutter.cut(TRANSPARENT, "dog", **given)


def test_the_cut_out_is_the_whole_photo_transparent_around_the_subject(cutter):
    rgba = cutter.cut(TRANSPARENT, "dog").rgba()
    np.testing.assert_array_equal(rgba[..., :3], PIXELS)
    np.testing.assert_array_equal(rgba[..., 3], INSIDE * 255)


def test_a_label_loses_its_spaces(cutter):
    assert cutter.cut(TRANSPARENT, " fire\t hydrant\n").label == "fire hydrant"


BOX = (0.1, 0.2, 0.5, 0.9)
BAD = {
    "blank label": ({"label": " \n"}, "the label ' \\\\n' is blank: name the subject"),
    "mask and box": ({"mask": INSIDE, "box": BOX}, "dog.jpg: give one of mask, box and candidate"),
    "box and candidate": ({"box": BOX, "candidate": 1}, "dog.jpg: give one of mask, box and candidate"),
    "mask of another size": ({"mask": INSIDE.T}, "dog.jpg is 80x60, its mask 60x80: give"),
    "empty mask": ({"mask": INSIDE & False}, "dog.jpg has a mask without a pixel inside: give"),
    "crossed box": ({"box": (0.5, 0.2, 0.1, 0.9)}, "the box .* does not lie in the photo: give left, top"),
    "flat box": ({"box": (0.1, 0.2, 0.1, 0.9)}, "the box .* does not lie in the photo"),
    "box outside": ({"box": (0.1, 0.2, 0.5, 1.1)}, "the box .* does not lie in the photo: .* such as 0.1,0.3,0.5,0.9"),
    "box of pixels": ({"box": (20, 15, 60, 45)}, "0.25,0.25,0.75,0.75 if these are pixels of 80x60"),
    "box of three": ({"box": (0.1, 0.2, 0.5)}, "the box .* does not lie in the photo"),
    "box of words": ({"box": "left"}, "the box left does not lie in the photo"),
    "box that is no number": ({"box": (0.1, 0.2, float("nan"), 0.9)}, "the box .* does not lie in the photo"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_input_is_refused_before_a_network_is_loaded(cutter, kind):
    given, message = BAD[kind]
    with pytest.raises(CutoutError, match=message):
        cutter.cut(OPAQUE, **{"label": "dog", **given})


def test_a_photo_that_is_transparent_everywhere_is_refused(cutter):
    with pytest.raises(CutoutError, match=r"dog\.png is transparent everywhere: give"):
        cutter.cut(DecodedPhoto("dog.png", PIXELS, INSIDE & False), "dog")


@pytest.mark.parametrize(("width", "height"), [(101, 1), (1, 101)])
def test_a_photo_that_is_too_narrow_for_a_network_is_refused(cutter, width, height):
    photo = DecodedPhoto("line.png", np.zeros((height, width, 3), np.uint8), None)
    for given in ({}, {"box": BOX}):
        with pytest.raises(CutoutError, match=rf"line\.png is {width}x{height}: .* crop it, or give a mask"):
            cutter.cut(photo, "line", **given)
    assert cutter.cut(photo, "line", mask=np.ones((height, width), bool)).mask.all()
