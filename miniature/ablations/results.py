"""Results of the ablations: one JSON file for each row and seed, and the table beside the paper's directions."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from infra.storage import publish_bytes, storage_path
from miniature.ablations.rows import ROWS, RowName
from miniature.errors import AblationError
from miniature.scoring.case_scores import BACKGROUND, BOX, CLASS_WORD, RECALL, SIMILARITY, CaseScores
from miniature.scoring.figures import Figure, mean_by_image, share_of_hits

_DIGITS = 4
_COLUMNS = (
    "row",
    "seeds",
    "similarity",
    "against (a)",
    "DINO against (a) in the paper",
    "R@1",
    "class word",
    "background",
    "box IoU",
    "CLIP-T against (a) in the paper",
)


@dataclass(frozen=True)
class Result:
    """Scores of one row, trained with one seed."""

    row: str
    """Letter in Table 3."""
    seed: int
    """Seed of the training."""
    settings: str
    """Fingerprint of all settings behind the scores, without paths."""
    steps: int
    """Number of training steps."""
    images: int
    """Number of images of the training dataset."""
    identity_probe: float | None
    """Mean of the metric over the last quarter of the training; None without it."""
    scores: Mapping[str, CaseScores]
    """Values of each case by number of subjects and criterion."""


def result_path(folder: Path, row: RowName, seed: int) -> Path:
    """Return the file of a result."""
    return folder / f"{row.value}-seed{seed}.json"


def write_result(folder: Path, result: Result) -> None:
    """Write the file of a result."""
    values = asdict(result) | {"scores": {count: _rounded(scores) for count, scores in result.scores.items()}}
    path = result_path(folder, RowName(result.row), result.seed)
    publish_bytes(storage_path(path), _lines(values).encode())


def read_result(path: Path) -> Result | None:
    """Return the result in a file; None where there is no such file.

    Raises:
        AblationError: the file holds no result.
    """
    if not path.exists():
        return None
    try:
        return Result(**json.loads(path.read_bytes()))
    except (ValueError, TypeError) as error:
        raise AblationError(f"{path} holds no result of an ablation ({error}): remove it") from error


def read_results(folder: Path) -> list[Result]:
    """Return all results of a folder, in the order of the table."""
    found = (read_result(path) for row in ROWS for path in sorted(folder.glob(f"{row.value}-seed*.json")))
    return [result for result in found if result is not None]


def table(results: Sequence[Result]) -> str:
    """Return the results as Markdown, one table for each number of subjects; missing rows are shown as missing."""
    return "\n\n".join(_table(results, subjects) for subjects in (1, 2))


def _table(results: Sequence[Result], subjects: int) -> str:
    full = [result for result in results if result.row == RowName.FULL]
    lines = [_line(name, [r for r in results if r.row == name], full, subjects) for name in ROWS]
    title = "One subject" if subjects == 1 else "Two subjects"
    head = [f"{title}:", "", f"| {' | '.join(_COLUMNS)} |", f"|{'---|' * len(_COLUMNS)}"]
    return "\n".join([*head, *lines])


def _line(name: RowName, results: Sequence[Result], full: Sequence[Result], subjects: int) -> str:
    row, paper, paper_full = ROWS[name], ROWS[name].paper[subjects], ROWS[RowName.FULL].paper[subjects]
    is_full = name is RowName.FULL
    cells = [
        f"({name.value}) {row.title}",
        ", ".join(str(result.seed) for result in results) or "missing",
        _mean(results, subjects, SIMILARITY),
        "" if is_full else _difference(results, full, subjects),
        "" if is_full else _signed(paper.dino - paper_full.dino),
        _share(results, subjects, RECALL),
        _share(results, subjects, CLASS_WORD),
        _share(results, subjects, BACKGROUND),
        _mean(results, subjects, BOX),
        "" if is_full else _signed(paper.clip_t - paper_full.clip_t),
    ]
    return f"| {' | '.join(cells)} |"


def _mean(results: Sequence[Result], subjects: int, criterion: str) -> str:
    return _cell(mean_by_image({}, criterion, _by_case(results, subjects, criterion))) if results else ""


def _share(results: Sequence[Result], subjects: int, criterion: str) -> str:
    if not results:
        return ""
    hits = [[bool(value) for value in case] for case in _by_case(results, subjects, criterion)]
    return _cell(share_of_hits({}, criterion, hits))


def _difference(results: Sequence[Result], full: Sequence[Result], subjects: int) -> str:
    """Return the mean difference of the similarity to that of row (a), over the same cases and seeds."""
    seeds = {result.seed for result in results} & {result.seed for result in full}
    if not seeds:
        return ""
    own, its = (_by_case([r for r in of if r.seed in seeds], subjects, SIMILARITY) for of in (results, full))
    pairs = [[a - b for a, b in zip(case, other, strict=True)] for case, other in zip(own, its, strict=True)]
    figure = mean_by_image({}, SIMILARITY, pairs)
    return f"{_signed(figure.value)} ({_signed(figure.low)} to {_signed(figure.high)})"


def _by_case(results: Iterable[Result], subjects: int, criterion: str) -> list[list[float]]:
    """Return the values of each case over all results: pictures of one case are not independent."""
    of_results = [result.scores[str(subjects)][criterion] for result in results]
    return [[value for own in of_case for value in own] for of_case in zip(*of_results, strict=True)]


def _cell(figure: Figure) -> str:
    return f"{_short(figure.value)} ({_short(figure.low)} to {_short(figure.high)})"


def _short(value: float) -> str:
    return f"{value:.3f}".replace("0.", ".", 1)


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("0.", ".", 1)


def _rounded(scores: CaseScores) -> dict[str, list[list[float]]]:
    return {name: [[round(float(value), _DIGITS) for value in case] for case in of] for name, of in scores.items()}


def _lines(values: Mapping[str, object]) -> str:
    """Return JSON with one line for each field."""
    return "{\n" + ",\n".join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in values.items()) + "\n}\n"
