"""The list of sprites: complete, named so that a tagger finds them, and small."""

import csv
import shutil
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

from labeling.backends.load import load_tagger
from labeling.config import NounConfig
from labeling.stages.nouns import NounStage
from miniature.world.backgrounds import BACKGROUNDS
from miniature.world.scenes import Pool, ScenesConfig, compose
from miniature.world.sprites import CONTAINER, FOLDER, LIST, SIDES_PX, cutout, outline, pack, sprites


def test_the_container_holds_the_list() -> None:
    with LIST.open(newline="") as file:
        listed = [(line["code_points"], line["name"], line["class_word"]) for line in csv.DictReader(file)]
    assert [(s.code_points, s.name, s.class_word) for s in sprites()] == listed


def test_there_are_enough_and_they_are_told_apart() -> None:
    assert len(sprites()) >= 600
    for of in (lambda s: s.name, lambda s: s.code_points, lambda s: s.webp):
        assert not [value for value, count in Counter(map(of, sprites())).items() if count > 1]


def test_names_are_one_to_three_plain_words_and_no_other_kind_of_word() -> None:
    class_words = {s.class_word for s in sprites()}
    assert 15 <= len(class_words) <= 40
    for sprite in sprites():
        words = sprite.name.split(" ")
        assert len(words) <= 3
        assert all(word.isascii() and word.isalpha() and word.islower() for word in words)
        assert sprite.name not in class_words | BACKGROUNDS.keys()
    assert not class_words & BACKGROUNDS.keys()


def test_a_class_word_has_one_article_and_articles_fit() -> None:
    assert len({(s.class_word, s.class_article) for s in sprites()}) == len({s.class_word for s in sprites()})
    sounds_otherwise = {"unicorn", "utensil", "hourglass", "suv"}
    for article, word in {(s.article, s.name) for s in sprites()} | {
        (s.class_article, s.class_word) for s in sprites()
    }:
        vowel = (word[0] in "aeiou") != (word in sounds_otherwise)
        assert article in ("some", "an" if vowel else "a"), word


def test_held_out_sprites_share_their_class_word_with_several_trained_ones() -> None:
    by_class = defaultdict(list)
    for sprite in sprites():
        by_class[sprite.class_word].append(sprite.held_out)
    assert sum(s.held_out for s in sprites()) >= 60
    assert sum(any(held) for held in by_class.values()) >= 30
    assert all(held.count(False) >= 3 for held in by_class.values())


@pytest.mark.parametrize("side_px", SIDES_PX)
def test_cutouts_fill_their_side_and_hold_colour_multiplied_by_alpha(side_px: int) -> None:
    for sprite in sprites()[::29]:
        pixels = cutout(sprite, side_px)
        assert max(pixels.shape[:2]) == side_px
        assert (pixels[..., :3] <= pixels[..., 3:].astype(int) + 1).all(), sprite.name
        assert (pixels[..., 3] > 127).any()


def test_an_outline_encloses_what_is_opaque() -> None:
    for sprite in sprites()[::29]:
        alpha = cutout(sprite, 256)[..., 3]
        height, width = alpha.shape
        points = (np.argwhere(alpha > 127)[:, ::-1] - ((width - 1) / 2, (height - 1) / 2)) / 256
        hull = outline(sprite)
        assert (points.min(axis=0) >= hull.min(axis=0) - 0.01).all(), sprite.name
        assert (points.max(axis=0) <= hull.max(axis=0) + 0.01).all(), sprite.name


def test_the_container_is_small_and_carries_both_notices() -> None:
    assert CONTAINER.stat().st_size < 6_000_000
    notice = (FOLDER / "LICENSE").read_text()
    assert "MIT License" in notice
    assert "LobeHub" in notice
    assert "Microsoft Corporation" in notice


def test_pack_makes_the_container_again(tmp_path: Path) -> None:
    for sprite in sprites():
        (tmp_path / f"{sprite.code_points}.webp").write_bytes(sprite.webp)
    assert pack(tmp_path, container=tmp_path / "again.parquet") == len(sprites())
    assert (tmp_path / "again.parquet").read_bytes() == CONTAINER.read_bytes()


def test_pack_names_the_picture_that_is_missing(tmp_path: Path) -> None:
    shutil.copy(LIST, tmp_path)
    with pytest.raises(FileNotFoundError, match=r"1f400\.webp is missing: sprite 'rat'"):
        pack(tmp_path, container=tmp_path / "never.parquet")


@pytest.fixture(scope="module")
def tagger() -> NounStage:
    stage = NounStage(NounConfig(), load_tagger)
    stage.setup()
    return stage


def test_the_tagger_takes_every_name_and_class_word_for_a_noun(tagger: NounStage) -> None:
    named = {(s.article, s.name) for s in sprites()} | {(s.class_article, s.class_word) for s in sprites()}
    words = sorted(named)
    found = tagger.tags([f"a photo of {article} {word} and a teapot on the grass" for article, word in words])
    wrong = [word for (_, word), tags in zip(words, found, strict=True) if word not in {n.label for n in tags.nouns}]
    assert wrong == []


def test_the_tagger_finds_the_nouns_of_captions_and_no_others(tagger: NounStage) -> None:
    config = ScenesConfig(width_px=(64, 64), height_px=(64, 64), pool=Pool.ALL, subjects=(2, 5))
    scenes = [compose(seed, config) for seed in range(80)]
    found = tagger.tags([scene.caption for scene in scenes])
    exact = [
        {n.label for n in tags.nouns} == {s.label for s in scene.subjects} | {scene.background}
        for scene, tags in zip(scenes, found, strict=True)
    ]
    assert sum(exact) >= 79
