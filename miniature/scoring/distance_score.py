"""Scores how far a model's pictures are, as a set, from the scenes that they imitate.

    subject-diffusion score distance miniature/weights/subject_diffusion

Subjects are the held-out ones, given boxes. The scenes that are compared with have the same subjects, but other poses,
places and backgrounds. Scenes against other scenes (`real`) show the distance of a perfect model.
"""

from collections.abc import Iterator

from miniature.networks.judge import Judge
from miniature.scoring.cases import Case, make_case, sprites_of
from miniature.scoring.figures import Figure, Table
from miniature.scoring.score_options import PlaceHint, SubjectSet
from miniature.scoring.set_distance import judge_features, kid_figure
from miniature.scoring.subject_score import generate
from model.sampling.config import SamplingConfig
from model.subject_diffusion import SubjectDiffusion

_SEED = 606
TABLE = Table({"pictures": 9, "given": 7}, name_width=6)
"""Table of the figures."""


def score(
    net: SubjectDiffusion, judge: Judge, asked: SubjectSet, given: PlaceHint, sampling: SamplingConfig, count: int
) -> Iterator[Figure]:
    """Yield the distance of `count` scenes from as many others, and that of `count` generated pictures."""
    requests, others, references = (_lone_cases(asked, count, number) for number in range(3))
    real = judge_features(judge, [case.picture.image for case in references])
    scenes = judge_features(judge, [case.picture.image for case in others])
    yield kid_figure({"pictures": "real", "given": ""}, scenes, real)
    made = judge_features(judge, generate(net, requests, sampling, given=given))
    yield kid_figure({"pictures": "generated", "given": given.value}, made, real)


def _lone_cases(asked: SubjectSet, count: int, number: int) -> list[Case]:
    """Return cases of one subject; `number` chooses their poses and backgrounds."""
    subjects = sprites_of(asked)
    return [make_case((_SEED, number, index), [subjects[index % len(subjects)]]) for index in range(count)]
