"""Scenes: the same for a seed, and the truth is what is seen."""

import hashlib
import itertools
import re
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from miniature.world.backgrounds import BACKGROUNDS, PATTERNS, UNTAUGHT
from miniature.world.scenes import Pool, Pose, Scene, ScenesConfig, compose, paint, phrases, pose, render
from miniature.world.sprites import sprites

BY_NAME = {s.name: s for s in sprites()}


def small(**settings: Any) -> ScenesConfig:
    return ScenesConfig(**{"width_px": (112, 144), "height_px": (96, 128), "pool": Pool.ALL, **settings})


def scenes(count: int, **settings: Any) -> list[Scene]:
    return [compose((9, index), small(**settings)) for index in range(count)]


def posed(**values: Any) -> Pose:
    plain = {"box_share": 0.2, "angle_deg": 0.0, "flip": False, "tilt": (0.0, 0.0), "light": 1.0}
    return Pose(**{**plain, "right": 0.5, "down": 0.5, **values})


def test_a_seed_gives_the_same_scene_and_another_seed_another() -> None:
    one, again, other = (compose(seed, small()) for seed in ((3, 1), (3, 1), (3, 2)))
    assert one.caption == again.caption
    assert (one.image == again.image).all()
    assert all((a.mask == b.mask).all() for a, b in zip(one.subjects, again.subjects, strict=True))
    assert one.image.shape != other.image.shape or (one.image != other.image).any()


def test_sizes_counts_pools_and_names_are_those_of_the_settings() -> None:
    for scene in scenes(40, subjects=(2, 3)):
        height, width, _ = scene.image.shape
        assert 96 <= height <= 128
        assert 112 <= width <= 144
        assert 1 <= len(scene.subjects) <= 3
    for pool, held_out in ((Pool.TRAINED, {False}), (Pool.HELD_OUT, {True}), (Pool.ALL, {False, True})):
        assert {s.sprite.held_out for scene in scenes(40, pool=pool) for s in scene.subjects} == held_out
    some = scenes(10, names=("fox", "taxi"), backgrounds=("snow",))
    assert {s.sprite.name for scene in some for s in scene.subjects} == {"fox", "taxi"}
    assert {scene.background for scene in some} == {"snow"}


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"names": ("elefant",)}, "no sprite 'elefant'; close: elephant"),
        ({"backgrounds": ("gras",)}, "no background 'gras'"),
        ({"names": ("hammer",), "pool": Pool.HELD_OUT}, "none of the sprites hammer is in the pool 'held_out'"),
    ],
)
def test_unknown_names_are_refused_with_what_was_meant(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        compose(0, small(**wrong))


def test_boxes_are_the_bounds_of_masks_that_share_no_pixel() -> None:
    for scene in scenes(60, subjects=(3, 5), min_visible=0.3):
        assert sum(s.mask.astype(int) for s in scene.subjects).max() == 1  # type: ignore[union-attr]
        for subject in scene.subjects:
            rows, columns = np.nonzero(subject.mask)
            box = subject.box
            assert (box.x0, box.y0) == (columns.min(), rows.min())
            assert (box.x1, box.y1) == (columns.max() + 1, rows.max() + 1)


def test_masks_are_where_the_light_of_subjects_shows() -> None:
    """With the same seed and another light only subjects change, so the change outlines all masks together."""
    lit, unlit = (scenes(40, subject_light=(light, light)) for light in (1.0, 0.0))
    agreed = stray = total = 0
    for bright, dark in zip(lit, unlit, strict=True):
        changed = (bright.image.astype(int) - dark.image).max(axis=2) > 40
        masks = np.any([s.mask for s in bright.subjects], axis=0)
        near = cv2.dilate(masks.astype(np.uint8), np.ones((3, 3))).astype(bool)
        agreed, total = agreed + (changed & masks).sum(), total + masks.sum()
        stray += (changed & ~near).sum()
    assert stray / total < 0.001  # hair lines cover less than half of a pixel
    assert agreed / total > 0.85  # the rest is black itself: wheels, bats


def test_overlapping_masks_belong_to_the_subject_that_is_seen() -> None:
    config = {"names": ("textbook", "novel"), "box_share": (0.6, 0.6), "min_visible": 0.2, "subjects": (2, 2)}
    right = wrong = 0
    for scene in scenes(30, **config):
        for subject in scene.subjects:
            red, green = scene.image[subject.mask].astype(int)[:, :2].T
            is_red = (red > green).sum()
            right += is_red if subject.sprite.name == "textbook" else len(red) - is_red
            wrong += len(red) - is_red if subject.sprite.name == "textbook" else is_red
    assert wrong / right < 0.05


@pytest.mark.parametrize("min_visible", [1.0, 0.6])
def test_min_visible_bounds_what_all_others_together_cover(min_visible: float) -> None:
    """A ball that nothing covers has pi/4 of its box."""
    balls = ("baseball", "basketball", "softball", "soccer ball", "volleyball")
    crowd = scenes(40, names=balls, subjects=(5, 5), box_share=(0.2, 0.2), min_visible=min_visible)
    visible = [s.mask.mean() / (0.2 * np.pi / 4) for scene in crowd for s in scene.subjects]
    assert 0.95 * min_visible < min(visible) < min_visible + 0.05


def test_spread_keeps_subjects_around_the_middle() -> None:
    for spread, low, high in ((0.0, 0.0, 1e-6), (0.5, 0.2, 0.25), (1.0, 0.45, 0.5)):
        rng = np.random.default_rng(1)
        drawn = np.array([[p.right, p.down] for p in (pose(rng, small(spread=spread), 1) for _ in range(200))])
        off = np.abs(drawn - 0.5).max(axis=0)
        assert (off >= low).all()
        assert (off <= high).all()


def test_box_shares_span_what_the_rules_keep_and_drop() -> None:
    shares = [s.box.area_px / s.mask.size for scene in scenes(150) for s in scene.subjects]
    assert 0.1 < np.mean(np.array(shares) < 0.05) < 0.6
    assert max(shares) < 0.7


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(sorted(BY_NAME)),
    st.floats(0.01, 1.0),
    st.floats(-180, 180),
    st.booleans(),
    st.floats(0, 1),
    st.floats(0, 1),
    st.tuples(st.floats(-0.5, 0.5), st.floats(-0.5, 0.5)),
    st.integers(48, 300),
    st.integers(48, 300),
)
def test_a_rendered_sprite_is_whole_and_inside_the_frame(
    name: str,
    share: float,
    angle: float,
    flip: bool,
    right: float,
    down: float,
    tilt: tuple[float, float],
    height: int,
    width: int,
) -> None:
    how = posed(box_share=share, angle_deg=angle, flip=flip, tilt=tilt, right=right, down=down)
    layer = render(BY_NAME[name], how, height, width)
    rows, columns = layer.window
    assert rows.start >= 0
    assert columns.start >= 0
    assert rows.stop <= height
    assert columns.stop <= width
    alpha = layer.rgba[..., 3]
    assert max(alpha[0].max(), alpha[-1].max(), alpha[:, 0].max(), alpha[:, -1].max()) < 64


def test_a_flip_mirrors_and_an_angle_turns_anticlockwise() -> None:
    plain, flipped, turned = (
        render(BY_NAME["hammer"], posed(**how), 400, 400).mask for how in ({}, {"flip": True}, {"angle_deg": 90.0})
    )
    assert agreement(plain[:, ::-1], flipped) > 0.95
    assert agreement(np.rot90(plain), turned) > 0.95


def test_what_a_tilt_takes_away_looks_smaller() -> None:
    """A book's edges are equally tall; with its right side farther away they are not."""
    for tilt, low, high in (((0.0, 0.0), 0.9, 1.1), ((0.5, 0.0), 1.15, 2.0), ((-0.5, 0.0), 0.5, 0.87)):
        tall = render(BY_NAME["novel"], posed(tilt=tilt), 400, 400).mask.sum(axis=0)
        tall = tall[tall > 0]
        near_left, near_right = tall[len(tall) // 5], tall[-len(tall) // 5]
        assert low < near_left / near_right < high


def agreement(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    assert one.shape == other.shape
    return float((one & other).sum() / (one | other).sum())


def test_painting_mixes_by_alpha_and_the_mask_is_where_the_layer_prevails() -> None:
    layer = render(BY_NAME["taxi"], posed(light=0.0), 120, 160)
    image = np.full((120, 160, 3), 255, np.float32)
    paint(image, layer)
    assert ((image[layer.window][..., 0] <= 127.5) == layer.mask).all()
    outside = np.ones((120, 160), bool)
    outside[layer.window] = False
    assert (image[outside] == 255).all()


def test_a_shadow_darkens_below_and_brightens_nothing() -> None:
    layer = render(BY_NAME["taxi"], posed(), 120, 160)
    plain, shaded = (np.full((120, 160, 3), 200, np.float32) for _ in range(2))
    paint(plain, layer)
    paint(shaded, layer, shadow=0.5)
    rows, columns = layer.window
    assert (shaded <= plain + 1e-3).all()
    below, above = shaded[rows.stop :, columns].min(), shaded[: rows.start, columns].min()
    assert below < 195
    assert below < above


def test_the_caption_names_every_subject_from_left_to_right_and_the_place() -> None:
    for scene in scenes(60):
        said = [f"{s.sprite.article} {s.label}" for s in scene.subjects if s.label == s.sprite.name]
        said += [f"{s.sprite.class_article} {s.label}" for s in scene.subjects if s.label == s.sprite.class_word]
        assert len(said) == len(scene.subjects)
        body = scene.caption.removesuffix(f" {BACKGROUNDS[scene.background].place}")
        assert body != scene.caption
        parts = re.split(", | and ", body)
        assert sorted(parts) == sorted(said)
        assert [part.split(" ", 1)[1] for part in parts] == [s.label for s in scene.subjects]
        centres = [s.box.x0 + s.box.x1 for s in scene.subjects]
        assert centres == sorted(centres)


def test_captions_read_as_english() -> None:
    captions = [scene.caption for scene in scenes(80)]
    assert any(re.fullmatch(r"(an?|some) [a-z ]+ (on|in|by) the [a-z]+", c) for c in captions)
    assert any(re.fullmatch(r"[^,]+ and [^,]+ (on|in|by) the [a-z]+", c) for c in captions)
    assert any(re.fullmatch(r"[^,]+, [^,]+, [^,]+ and [^,]+ (on|in|by) the [a-z]+", c) for c in captions)


def test_a_class_word_never_fits_two_subjects() -> None:
    called = 0
    for scene in scenes(60, subjects=(4, 5), class_word_share=1.0, box_share=(0.02, 0.05)):
        classes = [s.sprite.class_word for s in scene.subjects]
        for subject in scene.subjects:
            shared = classes.count(subject.sprite.class_word) > 1
            assert (subject.label == subject.sprite.name) == shared
            called += not shared
    assert called
    assert all(s.label == s.sprite.name for scene in scenes(20, class_word_share=0.0) for s in scene.subjects)


def test_phrases_hold_every_word_of_every_caption() -> None:
    words = set(itertools.chain.from_iterable(phrase.split() for phrase in phrases()))
    for scene in scenes(80):
        assert set(scene.caption.replace(",", "").split()) <= words


@pytest.mark.parametrize("noun", [*BACKGROUNDS, *UNTAUGHT, *PATTERNS])
def test_a_background_has_its_size_and_is_not_flat(noun: str) -> None:
    background = (BACKGROUNDS | UNTAUGHT | PATTERNS)[noun]
    drawn = background.draw(np.random.default_rng(0), 90, 140)
    assert drawn.shape == (90, 140, 3)
    assert drawn.std(axis=(0, 1)).min() > 2
    assert drawn.min() > -20
    assert drawn.max() < 300
    assert noun in background.place.split()


def test_an_untaught_background_is_drawn_only_where_it_is_named() -> None:
    untaught = {*UNTAUGHT, *PATTERNS}
    assert len(untaught) == len(UNTAUGHT) + len(PATTERNS)
    assert not untaught & {*BACKGROUNDS, *ScenesConfig().backgrounds}
    assert not untaught & set(itertools.chain.from_iterable(phrase.split() for phrase in phrases()))
    for noun in ("mosaic", "plaid"):
        assert compose(0, ScenesConfig(backgrounds=(noun,))).background == noun


def test_a_share_of_scenes_is_on_textures() -> None:
    assert not any(scene.background == "pattern" for scene in scenes(60))
    mixed = [scene.background for scene in scenes(200, texture_share=0.6, subjects=(1, 1))]
    assert 0.5 < mixed.count("pattern") / len(mixed) < 0.7
    assert {*mixed} == {"pattern", *BACKGROUNDS}
    (one,) = scenes(1, texture_share=1.0)
    assert one.caption.endswith(" before the pattern")


def test_scenes_of_a_seed_stay_what_they_were() -> None:
    """Networks and worlds are of these scenes; the digest is that of the scenes before there were textures."""
    digest = hashlib.sha256()
    for scene in scenes(12, backgrounds=(*BACKGROUNDS, *UNTAUGHT)):
        digest.update(scene.image.tobytes() + scene.caption.encode())
    assert digest.hexdigest()[:16] == "cb96a1c8498bddc8"
