"""The score of a base, with networks that were never trained."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from miniature.networks import base, latent, text
from miniature.networks.judge import Judge
from miniature.scoring.base_score import TABLE, generate, hit_shares, judge_pictures, load_base, sample_scenes, score
from miniature.training.judge import class_words
from miniature.training.pictures import PLACES
from miniature.world.scenes import phrases
from miniature.world.sprites import sprites


class Knowing(Judge):
    """Says of every picture what it was made with."""

    def __init__(self, place: int, words: tuple[int, ...]) -> None:
        super().__init__(PLACES, class_words())
        self.known = place, words

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        place, words = torch.zeros(len(images), len(PLACES)), torch.zeros(len(images), len(self.class_words))
        place[:, self.known[0]] = 1.0
        words[:, list(self.known[1])] = 1.0
        return place, words


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("base")
    tokens = text.tokenizer(phrases())
    base.save(base.build(tokens, seed=1), tokens, latent.build(seed=1), folder)
    return load_base(folder)


def test_captions_are_of_the_asked_kind() -> None:
    words, names = set(class_words()), {sprite.name for sprite in sprites()}
    for called, known in (("class word", words), ("name", names)):
        for one in sample_scenes(called, subjects=1, count=4):
            assert one.scene.subjects[0].label in known
            assert not one.scene.subjects[0].sprite.held_out
    assert {len(one.scene.subjects) for one in sample_scenes("name", subjects=2, count=4)} == {2}


def test_a_picture_counts_for_its_place_and_each_subject() -> None:
    (one,) = sample_scenes("name", subjects=2, count=1)
    place, words = PLACES.index(one.scene.background), class_words()
    own = [words.index(subject.sprite.class_word) for subject in one.scene.subjects]
    other = next(i for i in range(len(words)) if i not in own)
    right = judge_pictures(Knowing(place, tuple(own)), [one.image], [one])
    assert right == {"background": [[True]], "class word": [[True] * len(set(own))]}
    wrong = judge_pictures(Knowing((place + 1) % len(PLACES), (other, own[0])), [one.image], [one])
    assert wrong["background"] == [[False]]
    assert sum(wrong["class word"][0]) == 1
    shares = {figure.name: figure.value for figure in hit_shares("real", "name", 2, wrong)}
    assert shares == {"background": 0.0, "class word": 1 / len(set(own))}


def test_pictures_depend_on_caption_and_number_alone(pipeline: Any) -> None:
    one, other = generate(pipeline, ["a fox in the snow", "a cup on the table"], steps=2, guidance=2.0)
    (alone,) = generate(pipeline, ["a fox in the snow"], steps=2, guidance=2.0)
    assert one.shape == (64, 64, 3)
    assert np.abs(one.astype(int) - alone).max() <= 1
    assert np.abs(one.astype(int) - other).max() > 10


def test_all_kinds_are_scored(pipeline: Any, tmp_path: Path) -> None:
    found = score(pipeline, Judge(PLACES, class_words()).eval(), count=2, steps=1, guidance=2.0, out=tmp_path)
    assert len({(*f.of.values(), f.name) for f in found}) == len(found) == 16
    assert all(f.low <= f.value <= f.high for f in found)
    assert len(TABLE.text(found).splitlines()) == 17
    assert len(list(tmp_path.glob("*.png"))) == 4
