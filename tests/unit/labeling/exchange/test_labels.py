"""Boxes and masks that people gave, placed in their image."""

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from labeling.exchange.labels import GivenLabel, RunLengths, mask_of, place
from labeling.sdd.schema import Box

RECTANGLE = np.zeros((40, 60), bool)
RECTANGLE[10:20, 5:25] = True


def label(**fields: object) -> GivenLabel:
    return GivenLabel.model_validate({"label": "dog", "box": (5, 10, 25, 20)} | fields)


@pytest.mark.parametrize(
    ("fields", "refusal"),
    [
        ({}, ""),
        ({"box": (0.1, 0.25, 0.5, 0.5), "is_relative": True}, ""),
        ({"box": (-1.5, 0, 61, 41)}, ""),
        ({"box": (-3, 0, 20, 20)}, "box_outside"),
        ({"box": (40, 10, 70, 20)}, "box_outside"),
        ({"box": (25, 10, 5, 20)}, "empty_box"),
        ({"box": (5, 10, 5, 20)}, "empty_box"),
        ({"box": (60.5, 10, 61, 20)}, "empty_box"),
        ({"box": (float("nan"), 10, 25, 20)}, "box_not_finite"),
        ({"image_size": (40, 60)}, "other_size"),
        ({"image_size": (60, 40)}, ""),
        ({"refusal": "group"}, "group"),
    ],
)
def test_a_label_is_placed_or_has_a_reason(fields, refusal):
    assert place(label(**fields), 60, 40).refusal == refusal


def test_shares_become_pixels_and_sides_are_clipped():
    relative = label(box=(0.1, 0.25, 0.5, 0.5), is_relative=True)
    assert place(relative, 60, 40).box == Box(x0=6.0, y0=10.0, x1=30.0, y1=20.0)
    assert place(label(box=(-1.5, 0, 61, 41)), 60, 40).box == Box(x0=0.0, y0=0.0, x1=60.0, y1=40.0)


def forms(tmp_path) -> dict[str, GivenLabel]:
    """The same rectangle in each form of a mask."""
    compressed = coco.encode(np.asfortranarray(RECTANGLE, dtype=np.uint8))["counts"].decode()
    counts = (5 * 40 + 10, *(10, 30) * 19, 10, 20 + 35 * 40)
    Image.fromarray(RECTANGLE).save(tmp_path / "mask.png")
    return {
        "polygon": label(polygons=((5, 10, 25, 10, 25, 20, 5, 20),)),
        "compressed run lengths": label(run_lengths=RunLengths(size=(40, 60), counts=compressed)),
        "run lengths": label(run_lengths=RunLengths(size=(40, 60), counts=counts)),
        "file": label(mask_file=str(tmp_path / "mask.png")),
    }


@pytest.mark.parametrize("form", ["polygon", "compressed run lengths", "run lengths", "file"])
def test_each_form_of_a_mask_gives_its_pixels(tmp_path, form):
    np.testing.assert_array_equal(mask_of(forms(tmp_path)[form], 60, 40), RECTANGLE)


def test_a_mask_in_a_file_of_another_size_is_scaled(tmp_path):
    half = RECTANGLE[::2, ::2]
    Image.fromarray(half).save(tmp_path / "mask.png")
    mask = mask_of(label(mask_file=str(tmp_path / "mask.png")), 60, 40)
    np.testing.assert_array_equal(mask, half.repeat(2, axis=0).repeat(2, axis=1))


def test_parts_of_a_mask_are_joined():
    parts = ((0, 0, 4, 0, 4, 4, 0, 4), (10, 10, 14, 10, 14, 14, 10, 14))
    mask = mask_of(label(polygons=parts), 60, 40)
    assert mask is not None
    assert (mask.sum(), mask[2, 2], mask[12, 12], mask[7, 7]) == (32, True, True, False)


def test_there_may_be_no_mask(tmp_path):
    assert mask_of(label(), 60, 40) is None
    assert mask_of(label(mask_file=str(tmp_path / "none.png")), 60, 40) is None


def test_a_mask_of_another_image_is_refused():
    runs = RunLengths(size=(4, 6), counts=(24,))
    with pytest.raises(ValueError, match="the mask has 6x4 pixels, its image 60x40"):
        mask_of(label(run_lengths=runs), 60, 40)
