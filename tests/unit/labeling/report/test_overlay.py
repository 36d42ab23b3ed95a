"""Drawings of boxes and masks."""

import re

import numpy as np
import pytest

from labeling.report.overlay import Mark, draw_marks
from labeling.sdd import masks
from labeling.sdd.schema import Box, Mask

BOX = Box(x0=10.0, y0=20.0, x1=50.0, y1=60.0)


def mask_with_a_hole() -> Mask:
    inside = np.zeros((100, 100), bool)
    inside[20:60, 10:50] = True
    inside[30:40, 20:30] = False
    return masks.encode(inside)


def test_a_mask_is_drawn_in_its_place_with_its_hole() -> None:
    svg = draw_marks([Mark("a<b", "about & more", BOX, mask_with_a_hole())], 100, 100)
    (path,) = re.findall(r'<path d="([^"]*)"', svg)
    points = [[int(number) for number in pair.split()] for pair in re.findall(r"\d+ \d+", path)]
    assert path.count("M") == 2
    assert np.min(points, axis=0).tolist() == [10, 20]
    assert np.max(points, axis=0).tolist() == [49, 59]
    assert "a&lt;b" in svg
    assert "<title>about &amp; more</title>" in svg


@pytest.mark.parametrize("counts", [b"", b"\xfc\xf2l(\xd7f", b"oooooooo4", b"0X", b"P7"])
def test_a_damaged_mask_is_left_out_and_its_box_drawn(counts: bytes) -> None:
    damaged = Mask(counts=counts, x0=0, y0=0, width_px=8, height_px=8)
    svg = draw_marks([Mark("a", "a", BOX, damaged, refused=True)], 100, 100)
    assert "<path" not in svg
    assert 'stroke-dasharray="6 4"' in svg
