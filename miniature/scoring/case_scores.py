"""Scores of the pictures of a model, case by case: subjects, class words, backgrounds and boxes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
from miniature.scoring.subject_score import recall_hits, subject_embeddings
from miniature.training.embedder import crop
from miniature.training.pictures import pixels

SIMILARITY, RECALL, CLASS_WORD, BACKGROUND = "similarity", "R@1", "class word", "background"
BOX, OUTLINE = "box IoU", "outline IoU"
CaseScores = Mapping[str, Sequence[Sequence[float]]]
"""Values of each case by criterion: one for each subject, of the background one; 0 or 1 for a miss or a hit."""


@dataclass(frozen=True)
class Judges:
    """Networks that score pictures, none of which takes part in generating them."""

    judge: Judge
    embedder: Embedder
    looks: Mapping[str, Tensor]
    """Mean embedding of each subject that is ranked, by name."""
    segmenter: Segmenter[SamImage]


def load_judges(weights: Path, asked: SubjectSet = SubjectSet.HELD_OUT) -> Judges:
    """Load the networks from `judge`, `embedder` and `sam` of a folder, and embed the subjects of a set.

    Raises:
        OSError: the folder lacks judge or embedder.
        LabelingError: it lacks SAM.
    """
    embedder = load_embedder(weights / "embedder")
    looks = subject_embeddings(embedder, asked)
    return Judges(load_judge(weights / "judge"), embedder, looks, load_sam(weights / "sam"))


def case_scores(judges: Judges, pictures: Sequence[NDArray[np.uint8]], asked: Sequence[Case]) -> CaseScores:
    """Return the values of each case.

    - similarity: cosine of the embeddings of the picture's content at the subject's place and of the subject.
    - R@1: whether that content is more similar to the subject than to all others.
    - class word, background: whether the judge sees the subject's class and the requested background.
    - box IoU, outline IoU: `place_fidelity`.

    Args:
        judges: networks.
        pictures: RGB images [64, 64, 3], one for each case.
        asked: cases.
    """
    hits = judge_pictures(judges.judge, pictures, [case.picture for case in asked])
    places = place_fidelity(judges.segmenter, pictures, asked)
    return {
        SIMILARITY: _similarities(judges, pictures, asked),
        RECALL: recall_hits(judges.embedder, judges.looks, pictures, asked),
        CLASS_WORD: hits[CLASS_WORD],
        BACKGROUND: hits[BACKGROUND],
        BOX: places.box,
        OUTLINE: places.outline,
    }


@torch.no_grad()
def _similarities(judges: Judges, pictures: Sequence[NDArray[np.uint8]], asked: Sequence[Case]) -> list[list[float]]:
    crops = [
        crop(picture, case.picture.box(index))
        for picture, case in zip(pictures, asked, strict=True)
        for index in range(len(case.subjects))
    ]
    vectors = iter(judges.embedder(pixels(crops)))
    return [[float(next(vectors) @ judges.looks[s.sprite.name]) for s in case.subjects] for case in asked]
