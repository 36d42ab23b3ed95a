"""Baselines for R@1: scores of pictures made without a model, on the subjects of `subject_score`.

    subject-diffusion score baselines

Each picture shows some property of the subject at the requested place, and the embedder ranks the 60 subjects by it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8
from numpy.typing import NDArray

from miniature.networks.judge import Embedder
from miniature.scoring.cases import COUNT, Case, TargetSubject, cases, sprites_of
from miniature.scoring.figures import Figure, Table, share_of_hits
from miniature.scoring.score_options import SubjectSet
from miniature.scoring.subject_score import recall_hits, subject_embeddings
from miniature.training.pictures import SIDE_PX
from miniature.world.scenes import Layer, paint

TABLE = Table({"shown": 24, "subjects": 1}, name_width=3)
"""Table of the figures; `shown` is the property of the subject that the picture shows."""
ORACLE = "class word, by an oracle"


def draw_outline(case: Case) -> UInt8[np.ndarray, "64 64 3"]:
    """Draw the subjects' outlines, white on black."""
    black = np.zeros_like(case.picture.scene.image)
    return _paint_layers(black, [_in_colour(subject.place, (255, 255, 255)) for subject in case.subjects])


def draw_mean_colour(case: Case) -> UInt8[np.ndarray, "64 64 3"]:
    """Draw the scene with each subject's outline in the mean colour of its reference."""
    layers = [_in_colour(subject.place, _mean_colour(subject)) for subject in case.subjects]
    return _paint_layers(case.picture.scene.image, layers)


def draw_filled_box(case: Case) -> UInt8[np.ndarray, "64 64 3"]:
    """Draw the scene with each subject's whole box in the mean colour of its reference."""
    layers = [_in_colour(_box_region(subject), _mean_colour(subject)) for subject in case.subjects]
    return _paint_layers(case.picture.scene.image, layers)


def paste_reference(case: Case) -> UInt8[np.ndarray, "64 64 3"]:
    """Draw the scene with each reference in the middle of its subject's box, without distortion."""
    side = case.picture.scene.image.shape[0]
    return _paint_layers(case.picture.scene.image, [_in_box(subject, side) for subject in case.subjects])


BASELINES: Mapping[str, Callable[[Case], NDArray[np.uint8]]] = {
    "outline": draw_outline,
    "outline, mean colour": draw_mean_colour,
    "box, mean colour": draw_filled_box,
    "reference, pasted": paste_reference,
}


def class_word_hits(requests: Sequence[Case], subject_set: SubjectSet) -> list[list[bool]]:
    """Return the hits of an oracle that knows each subject's class word and always names the first of the class."""
    first = {sprite.class_word: sprite.name for sprite in reversed(sprites_of(subject_set)[:COUNT])}
    return [[first[one.sprite.class_word] == one.sprite.name for one in case.subjects] for case in requests]


def score(embedder: Embedder, subject_set: SubjectSet) -> Iterator[Figure]:
    """Yield R@1 of each baseline, for pictures of one subject and of two."""
    embeddings = subject_embeddings(embedder, subject_set)
    for subjects in (1, 2):
        requests = list(cases(subjects, subject_set))
        hits = {
            name: recall_hits(embedder, embeddings, [draw(case) for case in requests], requests)
            for name, draw in BASELINES.items()
        }
        hits[ORACLE] = class_word_hits(requests, subject_set)
        yield from (share_of_hits({"shown": name, "subjects": str(subjects)}, "R@1", one) for name, one in hits.items())


def _paint_layers(ground: UInt8[np.ndarray, "h w 3"], layers: Sequence[Layer]) -> NDArray[np.uint8]:
    """Paint the layers on `ground` and shrink the result like scenes."""
    image = ground.astype(np.float32)
    for layer in layers:
        paint(image, layer)
    shrunk = cv2.resize(image.clip(0, 255), (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_AREA)
    return np.asarray(shrunk.round(), np.uint8)


def _mean_colour(subject: TargetSubject) -> Float[np.ndarray, "3"]:
    """Return the mean colour of the reference."""
    colour: NDArray[np.float64] = subject.image[subject.mask].mean(axis=0)
    return colour


def _box_region(subject: TargetSubject) -> Bool[np.ndarray, "_h _w"]:
    """Return the pixels of the requested box."""
    region = np.zeros_like(subject.place)
    height, width = region.shape
    x0, y0, x1, y1 = subject.box
    region[round(y0 * height) : round(y1 * height), round(x0 * width) : round(x1 * width)] = True
    return region


def _in_colour(region: Bool[np.ndarray, "_h _w"], colour: Sequence[float] | Float[np.ndarray, "3"]) -> Layer:
    """Return a region of the scene in one colour."""
    return Layer(region[..., None] * np.array([*colour, 255], np.float32), 0, 0)


def _in_box(subject: TargetSubject, side: int) -> Layer:
    """Return the reference in the middle of its box, in a picture of `side` pixels."""
    left, top, width, height = cv2.boundingRect(subject.mask.astype(np.uint8))
    opaque = np.dstack([subject.image, np.full_like(subject.image[..., :1], 255)]).astype(np.float32)
    cut_out = (opaque * subject.mask[..., None])[top : top + height, left : left + width]
    x0, y0, x1, y1 = (side * edge for edge in subject.box)
    scale = min((x1 - x0) / width, (y1 - y0) / height)
    to_box = np.array([[scale, 0, (x0 + x1 - scale * width) / 2], [0, scale, (y0 + y1 - scale * height) / 2]])
    return Layer(cv2.warpAffine(cut_out, to_box, (side, side), flags=cv2.INTER_LINEAR), 0, 0)
