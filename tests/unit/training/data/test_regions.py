"""Boxes and masks of a crop as the released code makes them: painted, cropped, and resized to the nearest pixel."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from labeling.sdd import masks
from model.config import ModelConfig, SubjectConfig
from tests.factories import entity
from training.data.config import DataConfig
from training.data.crop import crop_boxes
from training.data.placement import Square
from training.data.regions import SubjectRegions

PX = 64
OFFICIAL = ModelConfig(box_edges="pixels", attention_mask_resize="bilinear", subject=SubjectConfig(fill_cavities=True))


def resized(painted, square):
    """The crop of a picture of zeros and ones, at the size that is trained on."""
    crop = painted[square.top : square.top + square.side, square.left : square.left + square.side]
    return np.asarray(Image.fromarray(crop.astype(np.uint8)).resize((PX, PX), Image.Resampling.NEAREST)).astype(bool)


def painted_box(box, square, size):
    """The bounds, in pixels of the crop, of a box painted from the pixel of its first corner to that of its last."""
    x0, y0, x1, y1 = (int(edge) for edge in box)
    painted = np.zeros(size[::-1])
    painted[y0 : y1 + 1, x0 : x1 + 1] = 1
    rows, columns = np.nonzero(resized(painted, square))
    return columns.min(), rows.min(), columns.max(), rows.max()


@pytest.mark.parametrize("seed", range(12))
def test_as_the_released_code(seed):
    rng = np.random.default_rng(seed)
    side = (PX, 100, 160, 48)[seed % 4]
    size, square = (side + 30, side), Square(int(rng.integers(0, 31)), 0, side)
    start = rng.uniform(0, side / 2, 2)
    start[0] += square.left
    box = tuple(np.float32([*start, *(start + rng.uniform(8, side / 2 - 1, 2))]).tolist())
    x0, y0, x1, y1 = (int(edge) for edge in box)
    inside = np.zeros(size[::-1], bool)
    inside[y0:y1, x0:x1] = rng.random((y1 - y0, x1 - x0)) < 0.9
    one = dataclasses.replace(entity(box, size=size), mask=masks.encode(inside))
    data = DataConfig(dataset="unused", image_px=PX)

    regions = SubjectRegions(data, OFFICIAL)
    assert (regions.boxes([one], square)[0] * PX).tolist() == list(painted_box(box, square, size))
    pixels = resized(inside, square)
    across, down = pixels.cumsum(1), pixels.cumsum(0)
    filled = (across > 0) & (across < across[:, -1:]) & (down > 0) & (down < down[-1:])
    (mask,) = regions.masks([one], square)
    assert mask.dtype == np.float32
    assert np.array_equal(mask, filled)

    unfilled = SubjectRegions(data, OFFICIAL.model_copy(update={"subject": SubjectConfig()}))
    assert np.array_equal(unfilled.masks([one], square)[0], pixels)
    paper = SubjectRegions(data, ModelConfig())
    assert paper.masks([one], square).shape == (1, PX // 8, PX // 8)
    assert np.array_equal(paper.boxes([one], square), crop_boxes(np.array([box], np.float32), square))
