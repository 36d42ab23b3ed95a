"""Small images for a report, and galleries of them: best, worst, and uncurated."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from PIL import Image

from evaluation.results import Evaluation
from evaluation.scores.image_score import ImageScore
from evaluation.scoring import References
from infra.report.document import Gallery, Picture
from labeling.sdd.pixels import MAX_PIXELS, UndecodableImage, open_image, upright_image

T = TypeVar("T")
SIDE_PX = 128
EXTREMES = 8
"""Best and worst images that are shown."""
PER_SUBJECT = 10
"""Uncurated images of each subject."""


def thumbnail(path: Path | None, name: str, caption: str = "") -> Picture:
    """Return a small image of a file; one without content if it is missing or unreadable."""
    if path is None:
        return Picture(name, b"", caption, f"{name}: missing")
    try:
        with open_image(path.read_bytes(), MAX_PIXELS) as file:
            image = upright_image(file)
    except (OSError, UndecodableImage):
        return Picture(name, b"", caption, f"{name}: unreadable")
    image.thumbnail((SIDE_PX, SIDE_PX), Image.Resampling.LANCZOS)
    content = io.BytesIO()
    image.save(content, "WEBP", quality=70, method=4)
    return Picture(name, content.getvalue(), caption, f"Image {name} {caption}".strip())


def extremes(evaluation: Evaluation, metric: str) -> Gallery:
    """Return the images with the highest and the lowest scores by a metric."""
    scored = [score for score in evaluation.by_metric.get(metric, ()) if score.value is not None]
    ordered = sorted(scored, key=lambda score: (-(score.value or 0.0), score.case, score.index))
    rows = (("Highest", ordered[:EXTREMES]), ("Lowest", ordered[::-1][:EXTREMES]))
    return Gallery(
        f"Images with the highest and the lowest {metric}",
        tuple((label, tuple(_scored_picture(evaluation, score) for score in scores)) for label, scores in rows),
    )


def uncurated(evaluation: Evaluation, references: References, inputs: Mapping[str, int]) -> Gallery:
    """Return the first images of each subject in the order of the benchmark, none chosen, beside its input photo.

    Args:
        evaluation: the images.
        references: files of the subjects' photos.
        inputs: number of the input photo of each subject.
    """
    places: dict[str, dict[str, None]] = {}
    for score in evaluation.scores:
        places.setdefault(score.subjects, {})[f"{score.case}/{score.index}"] = None
    rows = []
    for subjects, names in places.items():
        photos = [thumbnail(references[one][inputs[one]], f"input: {one}") for one in subjects.split("+")]
        chosen = spread(list(names), PER_SUBJECT)
        rows.append((subjects, (*photos, *(thumbnail(_file(evaluation, name), name) for name in chosen))))
    return Gallery(
        f"Up to {PER_SUBJECT} images of each subject, evenly spread over its prompts by their numbers, none chosen",
        tuple(rows),
    )


def side_by_side(evaluations: Sequence[Evaluation], count: int) -> Gallery:
    """Return the first image of some cases by each method: equal prompts and seeds in a row, none chosen.

    Args:
        evaluations: evaluations of the same benchmark.
        count: number of cases, evenly spread over the benchmark.
    """
    cases = list(dict.fromkeys(score.case for score in evaluations[0].scores))
    return Gallery(
        f"Image 0 of {min(count, len(cases))} cases by each method, evenly spread over the benchmark, none chosen",
        tuple(
            (
                case,
                tuple(thumbnail(_file(one, f"{case}/0"), one.header.method) for one in evaluations),
            )
            for case in spread(cases, count)
        ),
    )


def spread(items: Sequence[T], count: int) -> list[T]:
    """Return `count` of the items at even distances, or all of them if there are fewer."""
    if len(items) <= count:
        return list(items)
    return [items[number * len(items) // count] for number in range(count)]


def _scored_picture(evaluation: Evaluation, score: ImageScore) -> Picture:
    name = f"{score.case}/{score.index}"
    return thumbnail(_file(evaluation, name), name, f"{score.value:.3f}")


def _file(evaluation: Evaluation, name: str) -> Path | None:
    file = evaluation.files.get(name)
    return Path(file) if file else None
