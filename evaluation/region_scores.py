"""Scores of regions: presence of each subject, and fidelity to its box."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Float

from evaluation.benchmarks.benchmark import RelativeBox
from evaluation.embeddings import Unreadable
from evaluation.images import GeneratedFile
from evaluation.protocols import EncoderSpec
from evaluation.regions import Regions, stretch
from evaluation.scores import metrics
from evaluation.scores.boxes import aspect_change, box_iou
from evaluation.scores.image_score import ImageScore
from evaluation.scores.presence import Presence, judge_presence, presence_threshold
from evaluation.scoring import Scorer

_NO_REGION = -1.0
"""Similarity of a region that was not found: like no subject."""


def calibrate_presence(scorer: Scorer, spec: EncoderSpec) -> float:
    """Return the similarity from which a region shows a subject, from the benchmark's photos.

    The statistic is the mean similarity of a photo to the photos of a subject, itself left out.
    """
    names = [name for name in scorer.references if len(scorer.references[name]) > 1]
    same, different = [], []
    for name in names:
        own = scorer.photo_similarities(name, name, spec)
        same.append((own.sum(axis=1) - np.diag(own)) / (len(own) - 1))
        different += [scorer.photo_similarities(name, other, spec).mean(axis=1) for other in names if other != name]
    return presence_threshold(np.concatenate(same), np.concatenate(different))


def region_scores(
    scorer: Scorer,
    files: Sequence[GeneratedFile],
    regions: Mapping[str, Regions],
    threshold: float | None,
    inputs: Mapping[str, RelativeBox],
) -> Iterator[ImageScore]:
    """Yield likeness in place, presence and box fidelity of the images that have regions.

    Args:
        scorer: embeddings of regions and photos.
        files: generated images.
        regions: regions by the image's name.
        threshold: similarity from which a region shows a subject; None to leave presence out.
        inputs: box of each subject in its input photo, from `input_boxes`; empty without a detector.
    """
    for file in files:
        if (found := regions.get(file.name)) is None:
            continue
        similarities = _similarities(scorer, file, found) if scorer.protocol.subject_encoders else None
        if similarities is not None and file.case.boxes:
            yield from _in_place(scorer, file, similarities)
        if similarities is not None and threshold is not None:
            state = judge_presence(similarities, threshold)
            for metric, kind in zip(
                metrics.PRESENCE, (Presence.MISSING, Presence.SWAPPED, Presence.MERGED), strict=True
            ):
                yield from scorer.rows([file], metric, np.array([float(state is kind)]))
        if found.detected is not None and file.case.boxes:
            overlap = [box_iou(asked, seen) for asked, seen in zip(file.case.boxes, found.detected, strict=True)]
            yield from scorer.rows([file], metrics.PLACE, np.array([np.mean(overlap)]), len(overlap))
        if changes := _aspect_changes(file, found, inputs):
            yield from scorer.rows([file], metrics.POSE, np.array([np.mean(changes)]), len(changes))


def _in_place(scorer: Scorer, file: GeneratedFile, similarities: Float[np.ndarray, "S S"]) -> Iterator[ImageScore]:
    """Yield the mean similarity of the subjects' own regions."""
    own = scorer.protocol.scale * np.diag(similarities)
    metric = metrics.in_place(scorer.protocol.subject_encoders[0])
    yield from scorer.rows([file], metric, np.array([own.mean()]), len(own))


def _aspect_changes(file: GeneratedFile, regions: Regions, inputs: Mapping[str, RelativeBox]) -> list[float]:
    """Return the change of the aspect ratio of each subject that was found in both images."""
    seen = zip(file.case.subjects, regions.detected or (), strict=False)
    return [
        aspect_change(inputs[name], stretch(box, regions.aspect))
        for name, box in seen
        if box is not None and name in inputs
    ]


def _similarities(scorer: Scorer, file: GeneratedFile, regions: Regions) -> Float[np.ndarray, "S S"]:
    """Return the similarity of each region to each subject, by the protocol's first encoder."""
    spec = scorer.protocol.subject_encoders[0]
    similarities = np.full((len(regions.files), len(file.case.subjects)), _NO_REGION)
    for row, path in enumerate(regions.files):
        if path is not None and not isinstance(scorer.embedded.images[spec][path], Unreadable):
            vector = scorer.vectors([path], spec)
            similarities[row] = [scorer.subject_similarities(vector, name, spec)[0] for name in file.case.subjects]
    return similarities
