"""The miniature benchmark as the evaluation of a training job."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path

import torch

from labeling.errors import LabelingError
from miniature.scoring.case_scores import (
    BACKGROUND,
    BOX,
    CLASS_WORD,
    RECALL,
    SIMILARITY,
    Judges,
    case_scores,
    load_judges,
)
from miniature.scoring.cases import cases
from miniature.scoring.score_options import PlaceHint, SubjectSet
from miniature.scoring.subject_score import generate
from model.sampling.config import SamplingConfig
from model.subject_diffusion import SubjectDiffusion
from training.config import TrainingJob
from training.errors import TrainingError

SUBJECTS = SubjectSet.UNTAUGHT
"""Subjects of the cases: choosing checkpoints on those of the reported scores would flatter them."""


class MiniatureEvaluator:
    """Cases of one and two subjects in turn, given boxes as from a user.

    Args:
        judges: networks that score the images, with the embeddings of `SUBJECTS`.
        sampling: sampling settings.
        max_subjects: largest number of subjects that the model takes.
    """

    score_names = (SIMILARITY, RECALL, CLASS_WORD, BACKGROUND, BOX)

    def __init__(self, judges: Judges, sampling: SamplingConfig, max_subjects: int) -> None:
        self._judges, self._sampling = judges, sampling
        counts = range(1, 1 + min(2, max_subjects))
        self._cases = list(chain.from_iterable(zip(*(cases(count, SUBJECTS) for count in counts), strict=True)))
        self.case_count = len(self._cases)

    def __call__(self, net: SubjectDiffusion, numbers: Sequence[int]) -> list[dict[str, float]]:
        """Generate images of the cases with these numbers, and return the scores of each case."""
        scores: dict[int, dict[str, float]] = {}
        for group in self._by_subjects(numbers).values():
            scores |= dict(zip(group, self._scores(net, group), strict=True))
        return [scores[number] for number in numbers]

    def _by_subjects(self, numbers: Sequence[int]) -> Mapping[int, list[int]]:
        """Return the numbers of the cases by their count of subjects, which is the same within a batch."""
        groups: dict[int, list[int]] = defaultdict(list)
        for number in numbers:
            groups[len(self._cases[number].subjects)].append(number)
        return groups

    def _scores(self, net: SubjectDiffusion, numbers: Sequence[int]) -> list[dict[str, float]]:
        asked = [self._cases[number] for number in numbers]
        # With noise by the number of the case, the scores do not depend on the number of workers.
        images = generate(net, asked, self._sampling, given=PlaceHint.BOX, seeds=numbers)
        with torch.autocast(net.empty_token_ids.device.type, enabled=False):  # the job's precision is the model's alone
            by_name = case_scores(self._judges, images, asked)
        return [{name: _mean(by_name[name][index]) for name in self.score_names} for index in range(len(asked))]


def load_evaluator(weights: Path, job: TrainingJob, device: torch.device) -> MiniatureEvaluator:
    """Load the evaluator of a job. Its networks are small, and run where they run best, whatever the job's `device`.

    Raises:
        OSError: the folder lacks a network.
        TrainingError: its SAM cannot be loaded.
    """
    try:
        judges = load_judges(weights, SUBJECTS)
    except LabelingError as error:
        raise TrainingError(str(error)) from error
    return MiniatureEvaluator(judges, job.training.evaluation.sampling, job.model.max_subjects)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
