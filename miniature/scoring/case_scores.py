"""Scores of the pictures of a model, case by case: subjects, class words, backgrounds and boxes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from labeling.backends.sam.predict import SamImage
from labeling.stages.networks import Segmenter
from miniature.networks.judge import Embedder, Judge, load_embedder, load_judge
from miniature.scoring.base_score import judge_pictures
from miniature.scoring.cases import Case
from miniature.scoring.place_fidelity import load_sam, place_fidelity
from miniature.scoring.score_options import SubjectSet
from miniature.scoring.subject_score import gallery, recall_hits, subject_embeddings
from miniature.training.embedder import crop
from miniature.training.pictures import pixels, shrink
from miniature.world.sprites import Sprite

SIMILARITY, RECALL, RECALL_BY_SHAPE = "similarity", "R@1", "R@1 by shape"
CLASS_WORD, BACKGROUND, BOX, OUTLINE = "class word", "background", "box IoU", "outline IoU"
CaseScores = Mapping[str, Sequence[Sequence[float]]]
"""Values of each case by criterion: one for each subject, of the background one; 0 or 1 for a miss or a hit."""


@dataclass(frozen=True)
class Recognizer:
    """An embedder, and the subjects among which it ranks."""

    embedder: Embedder
    looks: Mapping[str, Tensor]
    """Mean embedding of each subject, by name."""


@dataclass(frozen=True)
class Judges:
    """Networks that score pictures, none of which takes part in generating them."""

    judge: Judge
    appearance: Recognizer
    """Recognizes subjects by colours and shape."""
    shape: Recognizer | None
    """Recognizes subjects by shape, blind to colours; None without its weights."""
    segmenter: Segmenter[SamImage]


def load_judges(weights: Path, asked: SubjectSet = SubjectSet.HELD_OUT) -> Judges:
    """Load the networks of a folder, and embed the subjects of a set; as `load_judges_of`."""
    return _load_judges(weights, partial(subject_embeddings, asked=asked))


def load_judges_of(weights: Path, subjects: Sequence[Sprite]) -> Judges:
    """Load the networks of a folder, and embed subjects among which to rank.

    The folder holds `judge`, `embedder`, `sam`, and may hold `shape_embedder`.

    Raises:
        OSError: the folder lacks judge or embedder.
        LabelingError: it lacks SAM.
    """
    names = [sprite.name for sprite in subjects]
    return _load_judges(weights, lambda embedder: dict(zip(names, gallery(embedder, subjects), strict=True)))


def _load_judges(weights: Path, embed: Callable[[Embedder], dict[str, Tensor]]) -> Judges:
    shape = weights / "shape_embedder"
    return Judges(
        load_judge(weights / "judge"),
        _load_recognizer(weights / "embedder", embed),
        _load_recognizer(shape, embed) if shape.exists() else None,
        load_sam(weights / "sam"),
    )


def _load_recognizer(folder: Path, embed: Callable[[Embedder], dict[str, Tensor]]) -> Recognizer:
    embedder = load_embedder(folder)
    return Recognizer(embedder, embed(embedder))


def case_scores(judges: Judges, pictures: Sequence[NDArray[np.uint8]], asked: Sequence[Case]) -> CaseScores:
    """Return the values of each case.

    - similarity: cosine of the embeddings of the picture's content at the subject's place and of the subject.
    - R@1: whether that content is more similar to the subject than to all others; by shape, if there is an embedder
      that sees no colours.
    - class word, background: whether the judge sees the subject's class and the requested background.
    - box IoU, outline IoU: `place_fidelity`.

    Args:
        judges: networks.
        pictures: square RGB images, one for each case.
        asked: cases.
    """
    hits = judge_pictures(judges.judge, pictures, [case.picture for case in asked])
    places = place_fidelity(judges.segmenter, pictures, asked)
    scores: dict[str, Sequence[Sequence[float]]] = {
        SIMILARITY: _similarities(judges.appearance, pictures, asked),
        RECALL: recall_hits(judges.appearance.embedder, judges.appearance.looks, pictures, asked),
        CLASS_WORD: hits[CLASS_WORD],
        BACKGROUND: hits[BACKGROUND],
        BOX: places.box,
        OUTLINE: places.outline,
    }
    if judges.shape is not None:
        scores[RECALL_BY_SHAPE] = recall_hits(judges.shape.embedder, judges.shape.looks, pictures, asked)
    return scores


@torch.no_grad()
def _similarities(
    recognizer: Recognizer, pictures: Sequence[NDArray[np.uint8]], asked: Sequence[Case]
) -> list[list[float]]:
    crops = [
        crop(shrink(picture), case.picture.box(index))
        for picture, case in zip(pictures, asked, strict=True)
        for index in range(len(case.subjects))
    ]
    vectors = iter(recognizer.embedder(pixels(crops)))
    return [[float(next(vectors) @ recognizer.looks[s.sprite.name]) for s in case.subjects] for case in asked]
