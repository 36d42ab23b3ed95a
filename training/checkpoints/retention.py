"""Which checkpoints of a run are kept: the latest ones, and the best ones by evaluation or loss."""

import logging
from collections.abc import Mapping
from pathlib import Path

from training.checkpoints.record import Record
from training.config import EvaluationConfig

log = logging.getLogger(__name__)
BEST = "best"
"""Name of the link to the checkpoint with the best evaluation."""


def best_checkpoints(records: Mapping[Path, Record], evaluation: EvaluationConfig) -> list[Path]:
    """Return the checkpoints with the best evaluation, best first, at most `evaluation.keep`.

    Only evaluations with the settings of this job are compared. Of equal scores, the earlier one is better.
    """
    scores = {path: evaluated_score(record, evaluation) for path, record in records.items()}
    scored = {path: score for path, score in scores.items() if score is not None}
    return sorted(scored, key=lambda path: (-scored[path], path))[: evaluation.keep]


def evaluated_score(record: Record, evaluation: EvaluationConfig) -> float | None:
    """Return a checkpoint's score by the metric of `evaluation`; None where it has none that can be compared."""
    recorded = record.settings["training"].get("evaluation", {})
    now = evaluation.model_dump(mode="json")
    same = all(recorded.get(name) == now[name] for name in ("benchmark", "cases", "sampling"))
    return record.scores.get(evaluation.metric) if same else None


def lowest_loss(records: Mapping[Path, Record]) -> list[Path]:
    """Return the checkpoint with the lowest loss; none of no checkpoints."""
    return sorted(records, key=lambda path: records[path].loss)[:1]


def link_best(best: Path) -> None:
    """Let the link `BEST` beside a checkpoint point to it."""
    link, new = best.with_name(BEST), best.with_name(f".{BEST}.new")
    try:
        new.unlink(missing_ok=True)
        new.symlink_to(best.name)
        new.replace(link)
    except OSError as error:  # some file systems have no links
        log.warning("%s is the best checkpoint, but %s cannot point to it: %s", best, link, error)
