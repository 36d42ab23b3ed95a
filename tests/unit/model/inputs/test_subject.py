"""The picture of a subject shows the whole subject alone, on the background of the settings."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from model.config import SubjectBackground, SubjectConfig
from model.errors import ModelError
from model.inputs.subject import SubjectPictures

MEAN = (0.2, 0.4, 0.6)
RED = (200, 10, 10)


def scene(height: int = 60, width: int = 80) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """A red subject of 40 by 20 px on noise."""
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    mask = np.zeros((height, width), dtype=bool)
    mask[10:30, 20:60] = True
    image[mask] = RED
    return image, mask


def picture(training: bool = False, side_px: int = 40, **settings: object) -> NDArray[np.uint8]:
    config = SubjectConfig.model_validate(settings)
    return SubjectPictures(config, side_px, MEAN, training)(*scene(), np.random.default_rng(0))


def test_the_subject_fills_the_picture_and_nothing_of_the_scene_is_left():
    made = picture()
    assert made.shape == (40, 40, 3)
    assert made.dtype == np.uint8
    assert (made[10:30] == RED).all()
    assert (made[:10] == 255).all()
    assert (made[30:] == 255).all()


def test_what_lies_beside_the_subject_within_its_bounds_is_background():
    image, mask = scene()
    mask[10:20, 20:40] = False
    config = SubjectConfig(background=SubjectBackground.MEAN)  # on white, what leaks would be too bright to see
    made = SubjectPictures(config, 40, MEAN, training=False)(image, mask, np.random.default_rng(0))
    assert (made[10:20, :20] == [51, 102, 153]).all()
    assert (made[20:30] == RED).all()


def test_the_mean_background_is_what_normalisation_turns_into_zeros():
    made = picture(background="mean")
    assert (made[0, 0] == [51, 102, 153]).all()
    assert (made[20, 20] == RED).all()


def test_holes_of_the_mask_are_filled_where_the_settings_say_so():
    image, mask = scene()
    mask[15:20, 30:40] = False
    open_hole, filled = (
        SubjectPictures(SubjectConfig(fill_cavities=fill), 40, MEAN, training=False)(
            image, mask, np.random.default_rng(0)
        )
        for fill in (False, True)
    )
    assert (filled[10:30] == RED).all()
    assert (open_hole[16:19, 12:18] == 255).all()


def test_without_padding_the_middle_is_taken():
    assert (picture(square=False) == RED).all()


@pytest.mark.parametrize("side_px", [20, 224])
def test_any_side_keeps_the_proportions(side_px):
    made = picture(side_px=side_px).astype(int)
    red = (abs(made - RED).sum(axis=-1) < 10).mean()
    assert 0.45 <= red <= 0.55


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    for name, colour in (("a.png", (0, 0, 255)), ("b.jpg", (0, 255, 0))):
        Image.new("RGB", (30, 20), colour).save(tmp_path / name)
    (tmp_path / "readme.txt").write_text("no photograph")
    return tmp_path


def test_random_backgrounds_are_photographs_in_training_and_white_at_sampling(photographs):
    settings = {"background": SubjectBackground.RANDOM, "backgrounds": str(photographs)}
    config, rng = SubjectConfig.model_validate(settings), np.random.default_rng(0)
    pictures = SubjectPictures(config, 40, MEAN, training=True)
    corners = {tuple(int(value > 128) for value in pictures(*scene(), rng)[0, 0]) for _ in range(20)}
    assert corners == {(0, 0, 1), (0, 1, 0)}
    assert (picture(training=False, **settings)[0, 0] == 255).all()


def test_a_folder_without_photographs_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"model\.subject\.backgrounds=.*holds no photographs"):
        picture(training=True, background="random", backgrounds=str(tmp_path / "nowhere"))
