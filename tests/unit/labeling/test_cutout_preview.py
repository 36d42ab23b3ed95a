"""The preview shows outline, box and the numbers of the candidates where they are."""

import numpy as np
import pytest

from labeling.cutout import Cutout, FoundBox, FoundBy
from labeling.cutout_preview import SIDE_PX, draw_cutout
from labeling.sdd.picture import COLOURS

GREY = 128


def cutout(width: int, height: int, candidates: tuple[FoundBox, ...] = (), candidate: int | None = None) -> Cutout:
    """A cut-out of the left half of the middle rows of a grey photo."""
    mask = np.zeros((height, width), bool)
    mask[height // 4 : 3 * height // 4, : width // 2] = True
    return Cutout(
        image=np.full((height, width, 3), GREY, np.uint8),
        mask=mask,
        label="dog",
        box=(0.0, 0.25, 0.5, 0.75),
        found_by=FoundBy.DETECTOR if candidates else FoundBy.MASK,
        candidates=candidates,
        candidate=candidate,
    )


def test_the_subject_is_tinted_and_the_rest_is_not():
    pixels = np.asarray(draw_cutout(cutout(400, 400)), int)
    assert pixels.shape == (400, 400, 3)
    red = pixels[..., 0] - pixels[..., 2] > 30
    assert red[150:290, 60:195].all()
    assert not red[:, 205:].any()
    assert not red[:98].any()
    assert tuple(pixels[299, 150]) == COLOURS[0]


@pytest.mark.parametrize(("width", "height"), [(3000, 1500), (1, 5000), (1, 1)])
def test_a_photo_of_any_size_fits(width, height):
    picture = draw_cutout(cutout(width, height) if min(width, height) > 1 else whole(width, height))
    assert max(picture.size) == min(SIDE_PX, max(width, height))


def whole(width: int, height: int) -> Cutout:
    return Cutout(
        image=np.zeros((height, width, 3), np.uint8),
        mask=np.ones((height, width), bool),
        label="dog",
        box=(0.0, 0.0, 1.0, 1.0),
        found_by=FoundBy.MASK,
    )


def test_every_candidate_has_a_box_in_its_own_colour():
    chosen, other = FoundBox((0.0, 0.25, 0.5, 0.75), 0.9), FoundBox((0.6, 0.1, 0.95, 0.9), 0.4)
    with_other = np.asarray(draw_cutout(cutout(400, 400, (chosen, other), 1)), int)
    alone = np.asarray(draw_cutout(cutout(400, 400, (chosen,), 1)), int)
    rows, columns, _ = np.nonzero(with_other != alone)
    assert (columns.min(), rows.min(), columns.max(), rows.max()) == (240, 40, 380, 360)
    colour = tuple(with_other[200, 240])
    assert colour in COLOURS[1:]
    exchanged = np.asarray(draw_cutout(cutout(400, 400, (other, chosen), 2)), int)
    assert tuple(exchanged[200, 240]) in COLOURS[1:]
