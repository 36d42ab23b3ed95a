"""A sample shows its subjects where it says they are, and is drawn from seed, epoch and key alone."""

import dataclasses
import io

import numpy as np
import pytest
from PIL import Image

from labeling.sdd import masks
from labeling.sdd.schema import Box, Mask
from model.config import ModelConfig, SubjectConfig
from model.inputs.subject import SubjectPictures
from tests.factories import entity, key, sdd_row
from training.data.config import AugmentationConfig, CutoutResampling, DataConfig
from training.data.errors import PoisonedRow
from training.data.sample import SampleMaker

STILL = AugmentationConfig(flip=0, rotation_deg=0, perspective=0)
SIZE = (96, 64)
SAVED = {"JPEG": {"quality": 95, "subsampling": 0}, "PNG": {}, "WEBP": {"lossless": True}}
RED, GREEN = (230, 20, 20), (20, 200, 30)
PLACES = {"dog": ((8, 10, 40, 50), RED), "cat": ((44, 20, 68, 60), GREEN)}


def painted(scale=1, form="PNG", orientation=1) -> bytes:
    """Two coloured rectangles on grey, where the boxes of `row` are."""
    pixels = np.full((SIZE[1] * scale, SIZE[0] * scale, 3), 128, np.uint8)
    for (x0, y0, x1, y1), colour in PLACES.values():
        pixels[y0 * scale : y1 * scale, x0 * scale : x1 * scale] = colour
    tags = Image.Exif()
    tags[0x0112] = orientation
    stored = {1: pixels, 3: pixels[::-1, ::-1], 6: np.rot90(pixels)}[orientation]
    file = io.BytesIO()
    Image.fromarray(stored).save(file, form, exif=tags, **SAVED[form])
    return file.getvalue()


def row(scale=1, encoded=None, number=0, **others):
    size = (SIZE[0] * scale, SIZE[1] * scale)
    entities = [
        entity(tuple(edge * scale for edge in box), label=label, size=size) for label, (box, _) in PLACES.items()
    ]
    sizes = {"width_px": size[0], "height_px": size[1]}
    return sdd_row(number, entities, encoded or painted(scale), **(sizes | others))


def config(**settings) -> DataConfig:
    settings = {"image_px": 64, "subject_px": 28, "augmentation": STILL} | settings
    return DataConfig(dataset="unused", **settings)


@pytest.fixture
def make(prompts):
    def maker(seed=0, **settings):
        of = config(**settings)
        pictures = SubjectPictures(SubjectConfig(), of.subject_px, (0.5, 0.5, 0.5), training=True)
        return SampleMaker(of, ModelConfig(), prompts, pictures, seed)

    return maker


def region(sample, subject):
    x0, y0, x1, y1 = (sample.boxes[subject] * sample.image.shape[0]).round().astype(int)
    return sample.image[y0:y1, x0:x1].astype(int)


def is_colour(pixels, colour, tolerance=25):
    return np.abs(pixels.astype(int) - colour).max(axis=-1) < tolerance


@pytest.mark.parametrize(
    ("scale", "form", "orientation"),
    [(1, "PNG", 1), (1, "WEBP", 1), (1, "JPEG", 1), (4, "JPEG", 1), (4, "JPEG", 3), (4, "JPEG", 6), (4, "PNG", 1)],
)
def test_subjects_are_where_boxes_masks_and_pictures_say(make, scale, form, orientation):
    for epoch in range(3):
        sample = make()(row(scale, painted(scale, form, orientation)), epoch, 2)
        assert sample.image.shape == (64, 64, 3)
        for subject, (_, colour) in enumerate(PLACES.values()):
            inner = region(sample, subject)[2:-2, 2:-2]
            assert inner.size
            assert is_colour(inner, colour).mean() > 0.97
            cells = sample.masks[subject].repeat(8, axis=0).repeat(8, axis=1)
            shown = is_colour(sample.image, colour)
            assert abs(cells.mean() - shown.mean()) < 0.03
            assert shown[cells == 1].all()
            picture = sample.subject_images[subject]
            assert picture.shape == (28, 28, 3)
            assert is_colour(picture, colour).mean() > 0.5
            assert (is_colour(picture, colour, 60) | is_colour(picture, (255, 255, 255), 60)).mean() > 0.85


def test_a_big_jpeg_is_decoded_small_and_looks_the_same(make):
    encoded = painted(16, "JPEG")
    fast = make()(row(16, encoded), 0, 2)
    whole = make()(row(16, painted(16, "PNG")), 0, 2)
    assert np.abs(fast.image.astype(int) - whole.image).mean() < 3
    assert (fast.masks == whole.masks).all()
    assert np.abs(fast.subject_images.astype(int) - whole.subject_images).mean() < 6


def test_a_sample_depends_on_seed_epoch_and_key_alone(make):
    settings = {"augmentation": AugmentationConfig()}
    first, again = make(**settings)(row(), 0, 1), make(**settings)(row(), 0, 1)
    for name in ("image", "boxes", "masks", "subject_images"):
        assert (getattr(first, name) == getattr(again, name)).all()
    assert first.prompt == again.prompt
    others = [make(1, **settings)(row(), 0, 1), make(**settings)(row(), 1, 1)]
    others += [make(**settings)(dataclasses.replace(row(), key=key(5)), 0, 1)]
    assert all((first.subject_images != other.subject_images).any() for other in others)


def test_epochs_draw_other_subjects_and_other_crops(make):
    samples = [make()(row(), epoch, 1) for epoch in range(20)]
    assert {len(sample.boxes) for sample in samples} == {1}
    assert {bool(is_colour(region(sample, 0), RED).mean() > 0.5) for sample in samples} == {True, False}
    assert len({sample.boxes.tobytes() for sample in samples}) > 10


def test_a_subject_is_moved_as_drawn_and_none_of_it_is_lost(make):
    still = make()(row(), 0, 2).subject_images[0]
    pictures = [make(augmentation=AugmentationConfig())(row(), epoch, 2).subject_images[0] for epoch in range(20)]
    areas = [is_colour(picture, RED, 80).mean() for picture in pictures]
    assert min(areas) > 0.25
    assert len({picture.tobytes() for picture in pictures}) == 20
    turned = make(augmentation=AugmentationConfig(flip=0, rotation_deg=90, perspective=0))
    assert any((turned(row(), epoch, 2).subject_images[0] != still).any() for epoch in range(3))


def test_cavities_of_masks_are_filled_where_the_settings_say_so(prompts):
    mask = masks.decode(row().entities[0].mask, SIZE[1], SIZE[0]).copy()
    mask[20:40, 20:30] = False
    hollow = dataclasses.replace(row().entities[0], mask=masks.encode(mask))
    one = dataclasses.replace(row(), entities=(hollow,))
    pictures = []
    for fill in (False, True):
        model = ModelConfig(subject=SubjectConfig(fill_cavities=fill))
        subjects = SubjectPictures(model.subject, 28, (0.5, 0.5, 0.5), training=True)
        pictures.append(SampleMaker(config(), model, prompts, subjects, seed=0)(one, 0, 1).subject_images[0])
    assert is_colour(pictures[0], (255, 255, 255)).mean() > is_colour(pictures[1], (255, 255, 255)).mean() + 0.1


@pytest.mark.parametrize("square", [True, False])
def test_one_warp_shows_nearly_what_two_steps_show(prompts, square):
    """Flipped, turned and in perspective, enlarged and reduced, on the background and nowhere else."""
    slanted = np.zeros((SIZE[1], SIZE[0]), bool)
    slanted[10:50, 8:40] = np.tri(40, 32, 4, dtype=bool)
    first = dataclasses.replace(row().entities[0], mask=masks.encode(slanted))
    one = dataclasses.replace(row(), entities=(first, row().entities[1]))
    subjects = SubjectPictures(SubjectConfig(square=square), 28, (0.5, 0.5, 0.5), training=True)
    pictures = []
    for resampling in CutoutResampling:
        of = config(augmentation=AugmentationConfig(resampling=resampling))
        maker = SampleMaker(of, ModelConfig(), prompts, subjects, seed=0)
        pictures.append(np.stack([maker(one, epoch, 2).subject_images for epoch in range(20)]).astype(int))
    differences = np.abs(pictures[0] - pictures[1]).mean((2, 3, 4))
    assert 0 < differences.mean() < 6
    assert differences.max() < 15
    assert np.abs(pictures[0] - pictures[1][:, :, :, ::-1]).mean() > 20


def test_mirroring_mirrors(make):
    left, right = (0, 10, 40, 50), np.zeros((SIZE[1], SIZE[0]), bool)
    right[10:50, 0:40] = np.tri(40, 40, dtype=bool)
    slanted = dataclasses.replace(entity(left, size=SIZE), mask=masks.encode(right))
    one = dataclasses.replace(row(), entities=(slanted,))
    still = make()(one, 0, 1).subject_images[0]
    mirrored = make(augmentation=AugmentationConfig(flip=1, rotation_deg=0, perspective=0))(one, 0, 1).subject_images[0]
    assert np.abs(mirrored[:, ::-1].astype(int) - still).mean() < 3
    assert np.abs(mirrored.astype(int) - still).mean() > 20


def with_entity(**changes):
    one, other = row().entities
    return dataclasses.replace(row(), entities=(dataclasses.replace(one, **changes), other))


def box(x0, y0, x1, y1):
    return Box(x0=x0, y0=y0, x1=x1, y1=y1)


FULL = masks.encode(np.ones((64, 96), bool))
POISONS = {
    "truncated": row(encoded=painted(form="JPEG")[:-600]),
    "not_an_image": row(encoded=b"<html>gone</html>"),
    "other_size": row(encoded=painted(2)),
    "no_subject": dataclasses.replace(row(), entities=()),
    "box_not_finite": with_entity(box=box(float("nan"), 10, 40, 50)),
    "box_outside": with_entity(box=box(60, 10, 140, 50)),
    "empty_mask": with_entity(mask=dataclasses.replace(FULL, counts=b"PP6")),
    "corrupt_mask": with_entity(mask=dataclasses.replace(FULL, counts=FULL.counts[:-1])),
    "mask_outside": with_entity(mask=dataclasses.replace(FULL, x0=50)),
    "mask_not_in_crop": with_entity(
        box=box(56, 0, 96, 60), mask=Mask(counts=b"05", x0=0, y0=0, width_px=1, height_px=5)
    ),
    "label_not_in_caption": with_entity(span_end=1000),
    "unusable_prompt": dataclasses.replace(row(), caption="a dog and a cat and <|subject|>"),
}


@pytest.mark.parametrize("reason", [*POISONS, "box_infinite", "box_inverted"])
def test_a_poisoned_row_says_why(make, reason):
    more = {
        "box_infinite": ("box_not_finite", with_entity(box=box(0, 10, float("inf"), 50))),
        "box_inverted": ("box_outside", with_entity(box=box(40, 10, 8, 50))),
    }
    said, poisoned = more.get(reason) or (reason, POISONS[reason])
    with pytest.raises(PoisonedRow) as poison:
        make()(poisoned, 0, 2 if len(poisoned.entities) else 1)
    assert poison.value.reason == said
    assert str(poison.value)
