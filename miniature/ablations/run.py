"""Runs the rows of Table 3 in the miniature world: dataset, training, export and score of each row and seed.

    WORK/datasets/all, few     worlds and datasets
    WORK/a-seed0/training      checkpoints and metrics of a row
    WORK/a-seed0/model         its exported model
    RESULTS/a-seed0.json       its result

A run that stopped resumes: results that exist are kept, and an interrupted training continues from its last checkpoint.
"""

import hashlib
import logging
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from labeling.config import LabelingConfig
from miniature.ablations.datasets import SEED, build_dataset, few_names, image_count
from miniature.ablations.results import Result, read_result, result_path, write_result
from miniature.ablations.rows import ROWS, RowName, model_changes
from miniature.errors import AblationError
from miniature.scoring.case_scores import CaseScores, Judges, case_scores
from miniature.scoring.cases import COUNT, cases
from miniature.scoring.score_options import SAMPLING, PlaceHint
from miniature.scoring.subject_score import generate
from miniature.world.serve import WorldConfig
from model.sampling.config import SamplingConfig
from model.subject_diffusion import SubjectDiffusion
from training.checkpoints.store import LATEST, Checkpoints
from training.config import TrainingJob
from training.distributed.parallel import Worker
from training.export import export
from training.job import run as train
from training.monitoring.metrics import read_metrics

log = logging.getLogger(__name__)
GIVEN = PlaceHint.BOX
"""Information about places in the score: boxes as from a user, since the outline of a picture that does not exist yet
is unknown."""
_MONITORING = frozenset({"samples", "evaluation", "log_every", "identity_probe", "checkpoint_every", "keep"})
"""Settings of training without effect on the weights."""


@dataclass(frozen=True)
class Settings:
    """Settings of the full row: its dataset, training and score."""

    labeling: LabelingConfig
    world: WorldConfig
    job: TrainingJob
    scenes: int
    """Number of scenes of a dataset, of which about two thirds pass the rules."""
    sampling: SamplingConfig = SAMPLING
    """Sampling settings of the score."""
    cases: int = COUNT
    """Number of cases of the score with one subject, and of those with two."""


def run(
    settings: Settings, judges: Judges, rows: Sequence[RowName], seeds: Sequence[int], work: Path, results: Path
) -> Iterator[Result]:
    """Yield the result of each row and seed, all rows of a seed before the next, and write it to `results`.

    Raises:
        AblationError: `results` holds a result of other settings.
    """
    for seed in seeds:
        for row in rows:
            yield _existing(settings, row, seed, results) or _make(settings, judges, row, seed, work, results)


def row_job(job: TrainingJob, row: RowName, seed: int, out: Path, dataset: str) -> TrainingJob:
    """Return the training job of a row."""
    tree = job.model_dump(exclude_unset=True)
    tree["model"] = tree["model"] | model_changes(ROWS[row])
    tree["training"] |= {"seed": seed, "out": str(out), "data": tree["training"]["data"] | {"dataset": dataset}}
    return TrainingJob.model_validate(tree)


def fingerprint(settings: Settings, row: RowName, seed: int) -> str:
    """Return 12 hex digits that change with the settings behind a result, but not with paths or new defaults."""
    tree = row_job(settings.job, row, seed, Path("out"), "dataset").model_dump(mode="json", exclude_unset=True)
    job = tree | {"training": {name: of for name, of in tree["training"].items() if name not in _MONITORING}}
    world = settings.world.model_dump(mode="json", exclude_unset=True)
    names = few_names() if ROWS[row].few_classes else ()
    sampling = settings.sampling.model_dump(mode="json")
    inputs = repr((job, world, settings.scenes, SEED, names, sampling, settings.cases, GIVEN.value))
    return hashlib.sha256(inputs.encode()).hexdigest()[:12]


def _existing(settings: Settings, row: RowName, seed: int, results: Path) -> Result | None:
    path = result_path(results, row, seed)
    result = read_result(path)
    if result is not None and result.settings != (now := fingerprint(settings, row, seed)):
        raise AblationError(
            f"{path} is of other settings ({result.settings}, these are {now}). Remove it to run the row with these, "
            "or give another folder of results"
        )
    return result


def _make(settings: Settings, judges: Judges, row: RowName, seed: int, work: Path, results: Path) -> Result:
    few = ROWS[row].few_classes
    datasets = work / "datasets" / ("few" if few else "all")
    root = build_dataset(datasets, settings.labeling, settings.world, settings.scenes, few)
    folder = work / f"{row.value}-seed{seed}"
    job = row_job(settings.job, row, seed, folder / "training", root)
    result = Result(
        row=row.value,
        seed=seed,
        settings=fingerprint(settings, row, seed),
        steps=job.training.steps,
        images=image_count(root),
        scores=_score(settings, _trained(job, folder / "model"), judges),
        identity_probe=_last_probe(Path(job.training.out)),
    )
    write_result(results, result)
    return result


def _trained(job: TrainingJob, folder: Path) -> SubjectDiffusion:
    """Start or resume the training, export its model and load it."""
    checkpoints = Checkpoints(Path(job.training.out), job.training.keep, Worker())
    log.info("training in %s", job.training.out)
    train(job, LATEST if checkpoints.latest() else None, local=True)
    last = checkpoints.latest()
    assert last is not None
    shutil.rmtree(folder, ignore_errors=True)
    export(last, folder)
    return SubjectDiffusion.from_pretrained(folder).eval().requires_grad_(False)


def _score(settings: Settings, net: SubjectDiffusion, judges: Judges) -> dict[str, CaseScores]:
    scores = {}
    for subjects in (1, 2):
        log.info("scoring pictures of %d subjects", subjects)
        asked = list(islice(cases(subjects), settings.cases))
        scores[str(subjects)] = case_scores(judges, generate(net, asked, settings.sampling, given=GIVEN), asked)
    return scores


def _last_probe(out: Path) -> float | None:
    lines = read_metrics(out)
    probes = [line["identity_probe"] for line in lines[-max(1, len(lines) // 4) :]]
    known = [probe for probe in probes if probe is not None]
    return sum(known) / len(known) if known else None
