"""Scores of embeddings that are worked out by hand."""

from pathlib import Path

import numpy as np
import pytest

from evaluation.benchmarks.benchmark import Benchmark, Case, PromptGroup, Subject
from evaluation.errors import InvalidProtocol
from evaluation.images import GeneratedFile
from evaluation.protocols import Comparison, Protocol
from evaluation.scoring import Embedded, Scorer
from tests.sprite_benchmark import PROTOCOL, SPEC

CAT = Subject("cat", "cat", ("cat/0", "cat/1"), "cat/1")
DOG = Subject("dog", "dog", ("dog/0",), "dog/0")
ALONE = Case("cat/00", ("cat",), "a cat", PromptGroup.PLACE)
BOTH = Case("both/00", ("cat", "dog"), "a cat and a dog", PromptGroup.PLAIN)
BENCHMARK = Benchmark("pets", "Pets", "tests", "MIT", {"cat": CAT, "dog": DOG}, (ALONE, BOTH), 1)
PHOTOS = {"cat": (Path("cat/0"), Path("cat/1")), "dog": (Path("dog/0"),)}
VECTORS = {"cat/0": [1.0, 0.0], "cat/1": [0.6, 0.8], "dog/0": [-1.0, 0.0], "image": [0.8, 0.6]}
"""Cosines of the image: .8 and .96 to the cat's photos, -.8 to the dog's."""
PROMPTS = {"a cat": np.array([0.0, -2.0]), "a cat and a dog": np.array([0.0, 1.0])}
FILES = [GeneratedFile(ALONE, 0, Path("image")), GeneratedFile(BOTH, 0, Path("image"))]
WITH_PROMPTS = PROTOCOL.model_copy(update={"prompt_encoder": SPEC})


def scores(protocol: Protocol) -> dict[tuple[str, str], float | None]:
    vectors = {Path(name): np.array(vector, dtype=np.float32) for name, vector in VECTORS.items()}
    scorer = Scorer(BENCHMARK, protocol, PHOTOS, Embedded({SPEC: vectors}, PROMPTS))
    return {(score.case, score.metric): score.value for score in scorer.likeness(FILES)}


def test_likeness_to_one_subject_and_to_two() -> None:
    found = scores(PROTOCOL)
    assert found["cat/00", "Embedder"] == pytest.approx(0.88)
    assert found["both/00", "Embedder"] == pytest.approx((0.88 - 0.8) / 2)
    assert found["both/00", "Embedder lowest"] == pytest.approx(-0.8)
    assert found["both/00", "Embedder product"] == 0.0
    assert ("cat/00", "Embedder lowest") not in found


def test_copy_score_takes_a_second_photo() -> None:
    found = scores(PROTOCOL)
    assert found["cat/00", "Embedder copy"] == pytest.approx(0.96 - 0.8)
    assert ("both/00", "Embedder copy") not in found


def test_likeness_to_the_input_alone() -> None:
    one_image = PROTOCOL.model_copy(update={"comparison": Comparison.ONE_IMAGE, "scale": 100.0})
    assert scores(one_image)["cat/00", "Embedder"] == pytest.approx(96, abs=1e-4)


def test_a_subject_with_one_photo_has_none_but_the_input() -> None:
    with pytest.raises(InvalidProtocol, match="dog has one photo"):
        scores(PROTOCOL.model_copy(update={"comparison": Comparison.ALL_BUT_INPUT}))


@pytest.mark.parametrize(
    ("changes", "alone", "both"),
    [
        ({}, -0.6, 0.6),
        ({"clip_text_at_zero": True}, 0.0, 0.6),
        ({"clip_text_at_zero": True, "text_scale": 2.5}, 0.0, 1.5),
        ({"text_scale": 2.5, "scale": 100.0}, -150.0, 150.0),
    ],
)
def test_likeness_to_the_prompt_and_its_quirks(changes: dict[str, object], alone: float, both: float) -> None:
    found = scores(WITH_PROMPTS.model_copy(update=changes))
    assert found["cat/00", "CLIP-T"] == pytest.approx(alone, abs=1e-4)
    assert found["both/00", "CLIP-T"] == pytest.approx(both, abs=1e-4)
