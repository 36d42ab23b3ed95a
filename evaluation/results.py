"""The file of an evaluation: one row for each image and metric, and in its footer everything that it depends on.

OUT/dreambooth/scores.parquet

case      string   name of the case, such as cat2/03
index     int32    number of the image within the case, from 0
subjects  string   names of the case's subjects, joined by +
group     string   kind of change that the prompt asks for: place, attribute, outfit, style, action, plain
metric    string   such as DINO, CLIP-I, CLIP-T, DINO product, DINO copy, Missing
value     float64  the score; null if the image has none
pairs     int32    number of comparisons behind the score, its weight in a mean over pairs
reason    string   cause of a score that is null or counts as 0; empty otherwise
file      string   the image's file; empty if it is missing
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, ValidationError

from evaluation.errors import EvaluationError
from evaluation.protocols import Average, Protocol
from evaluation.scores.averages import Figure, figure
from evaluation.scores.image_score import ImageScore
from infra.config import Config
from infra.ranges import Count, CountOrZero
from infra.storage import open_binary, publish, publish_bytes, storage_path

FILE = "scores.parquet"
_KEY = b"evaluation"
SCHEMA = pa.schema(
    {
        "case": pa.string(),
        "index": pa.int32(),
        "subjects": pa.string(),
        "group": pa.string(),
        "metric": pa.string(),
        "value": pa.float64(),
        "pairs": pa.int32(),
        "reason": pa.string(),
        "file": pa.string(),
    }
)


Similarity = Annotated[float, Field(ge=-1000, le=1000)]
"""Cosine, times the factor of the protocol."""


class Bounds(Config):
    """Scores of the benchmark's own photos, between which those of generated images lie."""

    macro: Similarity
    """Mean similarity of different photos of a subject, then over subjects."""
    micro: Similarity
    """Mean over all pairs of different photos of a subject."""
    ordinary_copy: Similarity | None = None
    """Mean copy score of photos that are no copies; None if each subject has one photo."""
    exact_copy: Similarity | None = None
    """Mean copy score of exact copies of the input photos."""

    def real(self, average: Average) -> float:
        """Return the similarity of different photos in an average's order of means."""
        return self.macro if average is Average.MACRO else self.micro


class Header(Config):
    """Everything that the scores depend on."""

    method: str
    """Name of the model or folder that made the images."""
    benchmark: str
    """Name of the benchmark."""
    benchmark_title: str
    """Its name in reports."""
    benchmark_source: str
    """Where its list comes from."""
    benchmark_hash: str
    """Hash of its subjects, cases and number of images."""
    benchmark_notes: tuple[str, ...] = ()
    """Choices where its publication is silent."""
    images: CountOrZero
    """Number of images of a complete run."""
    images_per_case: Count
    """Number of images of each case."""
    photos_hash: str
    """Hash of the subjects' photos."""
    protocol: Protocol
    """Choices behind the scores."""
    weights: dict[str, str]
    """SHA-256 of the weights of each encoder, by its name."""
    bounds: dict[str, Bounds]
    """Scores of the photos by each metric of likeness."""
    detector: str | None = None
    """Network that found the subjects, if any did."""
    presence_threshold: Similarity | None = None
    """Similarity from which a region shows a subject; None if presence was not judged."""
    cut_prompts: tuple[str, ...] = ()
    """Prompts that are longer than their encoder reads, so that their ends have no effect on the scores."""
    unscored: Mapping[str, str] = {}
    """Reason of each image that could not be scored, by its name."""


@dataclass(frozen=True)
class Evaluation:
    """Scores of a folder of images by one protocol."""

    header: Header
    """What the scores depend on."""
    scores: tuple[ImageScore, ...]
    """A row for each image and metric."""
    files: Mapping[str, str]
    """File of each image, by its name, such as `cat2/03/0`."""

    @cached_property
    def by_metric(self) -> Mapping[str, tuple[ImageScore, ...]]:
        """Rows of each metric, in the order of their first appearance."""
        names = dict.fromkeys(score.metric for score in self.scores)
        return {name: tuple(score for score in self.scores if score.metric == name) for name in names}

    @cached_property
    def figures(self) -> Mapping[str, Figure]:
        """Average of each metric, by the protocol."""
        found = {name: figure(rows, self.header.protocol.average) for name, rows in self.by_metric.items()}
        return {name: one for name, one in found.items() if one is not None}


def write_evaluation(evaluation: Evaluation, folder: Path) -> Path:
    """Write the file of an evaluation to a folder, atomically, and return its path."""
    rows = [
        {**asdict(score), "file": evaluation.files.get(f"{score.case}/{score.index}", "")}
        for score in evaluation.scores
    ]
    schema = SCHEMA.with_metadata({_KEY: evaluation.header.model_dump_json().encode()})
    path = folder / FILE
    publish(
        storage_path(path),
        lambda file: pq.write_table(pa.Table.from_pylist(rows, schema), file, compression="zstd"),
        replace=True,
    )
    return path


def read_evaluation(folder: Path) -> Evaluation:
    """Read the file of an evaluation.

    Raises:
        EvaluationError: there is none, or it is damaged.
    """
    path = folder / FILE
    try:
        with open_binary(storage_path(path)) as file:
            table = pq.read_table(file)
        header = Header.model_validate_json((table.schema.metadata or {})[_KEY])
    except FileNotFoundError:
        raise EvaluationError(f"{path} is missing: give the folder of an evaluation by one protocol") from None
    except (OSError, KeyError, ValidationError, pa.ArrowException) as error:
        problem = str(error).splitlines()[0]
        raise EvaluationError(f"{path} is no file of an evaluation ({problem}): evaluate again") from error
    rows = table.to_pylist()
    files = {f"{row['case']}/{row['index']}": row.pop("file") for row in rows}
    return Evaluation(header, tuple(ImageScore(**row) for row in rows), files)


def find_evaluations(folder: Path) -> list[Evaluation]:
    """Read all evaluations in a folder, one for each protocol.

    Raises:
        EvaluationError: there is none, or one is damaged.
    """
    files: Sequence[Path] = sorted(folder.glob(f"*/{FILE}"))
    if not files:
        raise EvaluationError(f"{folder} holds no PROTOCOL/{FILE}: give the --out of `subject-diffusion evaluate`")
    return [read_evaluation(file.parent) for file in files]


def write_json(evaluations: Sequence[Evaluation], path: Path) -> None:
    """Write the figures as a list of records, for other programs."""
    records = [
        {
            "method": one.header.method,
            "benchmark": one.header.benchmark,
            "protocol": one.header.protocol.name,
            "metric": name,
            **asdict(found),
        }
        for one in evaluations
        for name, found in one.figures.items()
    ]
    text = json.dumps(records, indent=1, ensure_ascii=False) + "\n"
    publish_bytes(storage_path(path), text.encode())
