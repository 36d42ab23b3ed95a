"""A model's score on the cases, by all criteria."""

from itertools import islice
from pathlib import Path

import pytest

from miniature.networks import base
from miniature.networks.judge import Embedder, save_embedder
from miniature.scoring.case_scores import (
    BACKGROUND,
    BOX,
    CLASS_WORD,
    OUTLINE,
    RECALL,
    RECALL_BY_SHAPE,
    SIMILARITY,
    case_scores,
    load_judges,
)
from miniature.scoring.cases import cases
from miniature.scoring.cases_score import TABLE, score
from miniature.scoring.score_options import SAMPLING, PlaceHint, SubjectSet
from model.subject_diffusion import SubjectDiffusion

WEIGHTS = Path(base.__file__).parents[1] / "weights"
QUICK = SAMPLING.model_copy(update={"steps": 1})


def test_all_criteria_are_scored_and_the_scenes_are_an_upper_bound():
    net = SubjectDiffusion.from_pretrained(WEIGHTS / "subject_diffusion").eval().requires_grad_(False)
    found = list(score(net, load_judges(WEIGHTS), SubjectSet.HELD_OUT, PlaceHint.BOX, QUICK, count=3))
    figures = {(one.of["pictures"], one.of["subjects"], one.name): one for one in found}
    names = (SIMILARITY, RECALL, CLASS_WORD, BACKGROUND, BOX, OUTLINE, RECALL_BY_SHAPE)
    one, two, three = ([(made, n, name) for made in ("generated", "real") for name in names] for n in "123")
    assert list(figures) == [*one, *two, ("exchanged", "2", RECALL), *three]
    for name in (SIMILARITY, BOX, OUTLINE):
        assert figures["real", "1", name].value > figures["generated", "1", name].value, "one step draws no subject"
    assert [figures["real", n, SIMILARITY].count for n in ("1", "2")] == [3, 6]
    assert [figures["real", n, BACKGROUND].count for n in ("1", "2")] == [3, 3]
    assert figures["real", "2", BACKGROUND].value == 1
    assert len({len(line) for line in TABLE.text(found).splitlines()[1:]}) == 1


@pytest.mark.parametrize("given", [PlaceHint.AUTO, PlaceHint.NOTHING])
def test_a_subject_without_a_place_is_searched_for(given: PlaceHint):
    net = SubjectDiffusion.from_pretrained(WEIGHTS / "subject_diffusion").eval().requires_grad_(False)
    found = list(score(net, load_judges(WEIGHTS), SubjectSet.HELD_OUT, given, QUICK, count=3))
    figures = {(one.of["pictures"], one.name): one.value for one in found}
    names = (RECALL, RECALL_BY_SHAPE, CLASS_WORD, BACKGROUND)
    assert list(figures) == [(made, name) for made in ("generated", "real") for name in names]
    assert {one.of["given"] for one in found} == {given.value, ""}
    assert figures["real", RECALL] == figures["real", BACKGROUND] == 1
    assert figures["generated", RECALL] < 1, "one step draws no subject"


def test_an_embedder_without_colours_ranks_the_subjects_too(tmp_path: Path):
    for name in ("judge", "embedder", "sam"):
        (tmp_path / name).symlink_to(WEIGHTS / name)
    asked = list(islice(cases(1), 4))
    scenes = [case.picture.image for case in asked]
    assert RECALL_BY_SHAPE not in case_scores(load_judges(tmp_path), scenes, asked)
    (tmp_path / "shape_embedder").symlink_to(WEIGHTS / "embedder")
    scores = case_scores(load_judges(tmp_path), scenes, asked)
    assert scores[RECALL_BY_SHAPE] == scores[RECALL]
    blind = Embedder()
    blind.embedding.weight.data.zero_()  # all pictures are alike, so the first subject is ranked first
    (tmp_path / "shape_embedder").unlink()
    save_embedder(blind, tmp_path / "shape_embedder")
    assert case_scores(load_judges(tmp_path), scenes, asked)[RECALL_BY_SHAPE] == [[True], [False], [False], [False]]
