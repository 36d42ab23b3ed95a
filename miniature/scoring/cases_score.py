"""Scores a trained model on the cases of `cases` by all criteria of `case_scores`, with intervals.

    subject-diffusion score cases miniature/weights/subject_diffusion

The scenes themselves are scored too, as an upper bound (`real`). The rows of the ablations and the evaluation in
training use the same criteria.
"""

from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from miniature.scoring.base_score import judge_pictures
from miniature.scoring.case_scores import (
    BACKGROUND,
    BOX,
    CLASS_WORD,
    OUTLINE,
    RECALL,
    RECALL_BY_SHAPE,
    SIMILARITY,
    CaseScores,
    Judges,
    case_scores,
)
from miniature.scoring.cases import Case, cases, exchange_references
from miniature.scoring.figures import Figure, Table, mean_by_image, share_of_hits
from miniature.scoring.score_options import WITHOUT_PLACE, PlaceHint, SubjectSet
from miniature.scoring.search import recall_hits_anywhere
from miniature.scoring.subject_score import generate, recall_hits
from model.sampling.config import SamplingConfig
from model.subject_diffusion import SubjectDiffusion

MOST_SUBJECTS = 3
"""Largest number of subjects of a case."""
MEANS = frozenset({SIMILARITY, BOX, OUTLINE})
"""Criteria whose figure is a mean; the others are shares of hits."""
TABLE = Table({"pictures": 9, "subjects": 1, "given": 10}, name_width=13)
"""Table of the figures; `pictures` are generated, the scenes themselves (`real`), or generated from references that
were exchanged between the two subjects (`exchanged`)."""


def score(
    net: SubjectDiffusion, judges: Judges, asked: SubjectSet, given: PlaceHint, sampling: SamplingConfig, count: int
) -> Iterator[Figure]:
    """Yield the figures of the first `count` cases with one to three subjects, as they are computed.

    Two subjects are also generated with their references exchanged.
    """
    if given in WITHOUT_PLACE:
        yield from _score_without_places(net, judges, list(islice(cases(1, asked), count)), sampling, given)
        return
    for subjects in range(1, 1 + min(MOST_SUBJECTS, net.config.max_subjects)):
        requests = list(islice(cases(subjects, asked), count))
        generated = generate(net, requests, sampling, given=given)
        yield from figures_of("generated", given.value, judges, generated, requests)
        yield from figures_of("real", "", judges, [case.picture.image for case in requests], requests)
        if subjects == 2:
            exchanged = [exchange_references(case) for case in requests]
            yield _follows_references(judges, generate(net, exchanged, sampling, given=given), exchanged, given)


def _score_without_places(
    net: SubjectDiffusion, judges: Judges, requests: Sequence[Case], sampling: SamplingConfig, given: PlaceHint
) -> Iterator[Figure]:
    """Yield the figures of pictures whose subjects the layout or the model places."""
    made = {
        "generated": generate(net, requests, sampling, given=given),
        "real": [case.picture.image for case in requests],
    }
    recognizers = {RECALL: judges.appearance, RECALL_BY_SHAPE: judges.shape}
    for pictures, images in made.items():
        of = {"pictures": pictures, "subjects": "1", "given": given.value * (pictures == "generated")}
        for name, one in recognizers.items():
            if one is not None:
                yield share_of_hits(of, name, recall_hits_anywhere(one.embedder, one.looks, images, requests))
        hits = judge_pictures(judges.judge, images, [case.picture for case in requests])
        yield from (share_of_hits(of, name, hits[name]) for name in (CLASS_WORD, BACKGROUND))


def _follows_references(
    judges: Judges, images: Sequence[NDArray[np.uint8]], exchanged: Sequence[Case], given: PlaceHint
) -> Figure:
    """Return R@1 of the references in the places and under the words of each other."""
    hits = recall_hits(judges.appearance.embedder, judges.appearance.looks, images, exchanged)
    return share_of_hits({"pictures": "exchanged", "subjects": "2", "given": given.value}, RECALL, hits)


def figures_of(
    pictures: str, given: str, judges: Judges, images: Sequence[NDArray[np.uint8]], requests: Sequence[Case]
) -> Iterator[Figure]:
    """Yield the figures of pictures of the cases, all of which have the same number of subjects.

    Args:
        pictures: word for the pictures in the table.
        given: word for what was given in the table.
        judges: networks.
        images: square RGB images, one for each case.
        requests: cases.
    """
    of = {"pictures": pictures, "subjects": str(len(requests[0].subjects)), "given": given}
    scores: CaseScores = case_scores(judges, images, requests)
    for name, values in scores.items():
        if name in MEANS:
            yield mean_by_image(of, name, values)
        else:
            yield share_of_hits(of, name, [[bool(value) for value in case] for case in values])
