"""Place fidelity tells pictures whose subject fills its box and its outline from others."""

from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from miniature.networks import base
from miniature.scoring.cases import Case, cases
from miniature.scoring.place_fidelity import PlaceFidelity, load_sam, place_fidelity

COUNT = 6
WEIGHTS = Path(base.__file__).parents[1] / "weights"


@pytest.fixture(scope="module")
def asked() -> list[Case]:
    return list(islice(cases(1), COUNT))


def scored(pictures: list[np.ndarray], asked: list[Case]) -> PlaceFidelity:
    return place_fidelity(load_sam(WEIGHTS / "sam"), pictures, asked)


def tiles(asked: list[Case]) -> list[np.ndarray]:
    """The scenes with their subject's box filled by the subject's mean colour: boxes are right, outlines are not."""
    pictures = []
    for case in asked:
        (subject,), picture = case.subjects, case.picture.image.copy()
        height, width = picture.shape[:2]
        x0, y0, x1, y1 = (round(edge * side) for edge, side in zip(subject.box, (width, height) * 2, strict=True))
        picture[y0:y1, x0:x1] = subject.image[subject.mask].mean(axis=0)
        pictures.append(picture)
    return pictures


def test_the_scenes_themselves_fill_the_boxes_and_others_do_not(asked: list[Case]):
    scenes = [case.picture.image for case in asked]
    real = np.mean(scored(scenes, asked).box)
    moved = np.mean(scored([np.roll(scene, 8, axis=1) for scene in scenes], asked).box)
    others = np.mean(scored([*scenes[1:], scenes[0]], asked).box)
    assert real > 0.9
    assert moved < real - 0.2
    assert others < moved


def test_a_tile_fills_the_box_and_not_the_outline(asked: list[Case]):
    real, tile = scored([case.picture.image for case in asked], asked), scored(tiles(asked), asked)
    assert np.mean(tile.box) > 0.9
    assert np.mean(real.outline) > 0.85
    assert np.mean(tile.outline) < np.mean(real.outline) - 0.1


def test_each_subject_has_values(asked: list[Case]):
    pairs = list(islice(cases(2), 1))
    found = scored([pairs[0].picture.image], pairs)
    for ((first, second),) in (found.box, found.outline):
        assert min(first, second) > 0.5
