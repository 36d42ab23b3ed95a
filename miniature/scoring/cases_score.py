"""Scores a trained model on the cases of `cases` by all criteria of `case_scores`, with intervals.

    subject-diffusion score cases miniature/weights/subject_diffusion

The scenes themselves are scored too, as an upper bound (`real`). The rows of the ablations and the evaluation in
training use the same criteria.
"""

from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from miniature.scoring.case_scores import BOX, OUTLINE, SIMILARITY, CaseScores, Judges, case_scores
from miniature.scoring.cases import Case, cases
from miniature.scoring.figures import Figure, Table, mean_by_image, share_of_hits
from miniature.scoring.score_options import PlaceHint, SubjectSet
from miniature.scoring.subject_score import generate
from model.sampling.config import SamplingConfig
from model.subject_diffusion import SubjectDiffusion

MEANS = frozenset({SIMILARITY, BOX, OUTLINE})
"""Criteria whose figure is a mean; the others are shares of hits."""
TABLE = Table({"pictures": 9, "subjects": 1, "given": 10}, name_width=13)
"""Table of the figures; `pictures` are generated, or the scenes themselves (`real`)."""


def score(
    net: SubjectDiffusion, judges: Judges, asked: SubjectSet, given: PlaceHint, sampling: SamplingConfig, count: int
) -> Iterator[Figure]:
    """Yield the figures of the first `count` cases with one subject and with two, as they are computed."""
    for subjects in (1, 2):
        requests = list(islice(cases(subjects, asked), count))
        generated = generate(net, requests, sampling, given=given)
        yield from _figures("generated", given.value, judges, generated, requests)
        yield from _figures("real", "", judges, [case.picture.image for case in requests], requests)


def _figures(
    pictures: str, given: str, judges: Judges, images: Sequence[NDArray[np.uint8]], requests: Sequence[Case]
) -> Iterator[Figure]:
    of = {"pictures": pictures, "subjects": str(len(requests[0].subjects)), "given": given}
    scores: CaseScores = case_scores(judges, images, requests)
    for name, values in scores.items():
        if name in MEANS:
            yield mean_by_image(of, name, values)
        else:
            yield share_of_hits(of, name, [[bool(value) for value in case] for case in values])
