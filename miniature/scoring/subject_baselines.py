"""What R@1 is worth: the score of pictures that no model made, on the subjects of `subject_score`.

    subject-diffusion score baselines

Each picture shows something of the subject at the place where it is wanted, and the embedder ranks the 60 by it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import cv2
import numpy as np
from jaxtyping import UInt8
from numpy.typing import NDArray

from miniature.networks.judge import Embedder
from miniature.scoring.cases import COUNT, Case, Wanted, cases, known
from miniature.scoring.exam import Asked
from miniature.scoring.figures import Figure, Table, share_of_hits
from miniature.scoring.subject_score import looks_of, ranked_first
from miniature.training.pictures import SIDE_PX
from miniature.world.scenes import Layer, paint

TABLE = Table({"shown": 24, "subjects": 1}, name_width=3)
"""`shown` is what the picture has of the subject."""
ORACLE = "class word, by an oracle"


def outline_alone(case: Case) -> UInt8[np.ndarray, "64 64 3"]:
    """The subjects' outlines, white on black."""
    black = np.zeros_like(case.shown.scene.image)
    return _painted(black, [_in_outline(wanted, (255, 255, 255)) for wanted in case.subjects])


def mean_colour(case: Case) -> UInt8[np.ndarray, "64 64 3"]:
    """The scene, with each subject's outline in the mean colour of its reference."""
    colours = [wanted.image[wanted.mask].mean(axis=0) for wanted in case.subjects]
    layers = [_in_outline(wanted, colour) for wanted, colour in zip(case.subjects, colours, strict=True)]
    return _painted(case.shown.scene.image, layers)


def pasted_reference(case: Case) -> UInt8[np.ndarray, "64 64 3"]:
    """The scene, with each reference in its proportions in the middle of its subject's box."""
    side = case.shown.scene.image.shape[0]
    return _painted(case.shown.scene.image, [_in_box(wanted, side) for wanted in case.subjects])


DRAWN: Mapping[str, Callable[[Case], NDArray[np.uint8]]] = {
    "outline": outline_alone,
    "outline, mean colour": mean_colour,
    "reference, pasted": pasted_reference,
}


def named_by_class_word(asked: Sequence[Case], who: Asked) -> list[list[bool]]:
    """Hits of an oracle that knows each subject's class word, and always names the first of the class."""
    first = {sprite.class_word: sprite.name for sprite in reversed(known(who)[:COUNT])}
    return [[first[one.sprite.class_word] == one.sprite.name for one in case.subjects] for case in asked]


def score(embedder: Embedder, who: Asked) -> Iterator[Figure]:
    """R@1 of each baseline, for pictures of one subject and of two."""
    looks = looks_of(embedder, who)
    for subjects in (1, 2):
        asked = list(cases(subjects, who))
        hits = {
            name: ranked_first(embedder, looks, [draw(case) for case in asked], asked) for name, draw in DRAWN.items()
        }
        hits[ORACLE] = named_by_class_word(asked, who)
        yield from (share_of_hits({"shown": name, "subjects": str(subjects)}, "R@1", one) for name, one in hits.items())


def _painted(ground: UInt8[np.ndarray, "h w 3"], layers: Sequence[Layer]) -> NDArray[np.uint8]:
    """The layers over `ground`, then shrunk as scenes are."""
    image = ground.astype(np.float32)
    for layer in layers:
        paint(image, layer)
    shrunk = cv2.resize(image.clip(0, 255), (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_AREA)
    return np.asarray(shrunk.round(), np.uint8)


def _in_outline(wanted: Wanted, colour: Sequence[float]) -> Layer:
    """The outline that is wanted, in one colour."""
    return Layer(wanted.place[..., None] * np.array([*colour, 255], np.float32), 0, 0)


def _in_box(wanted: Wanted, side: int) -> Layer:
    """The reference in the middle of its box, in a picture of `side` pixels."""
    left, top, width, height = cv2.boundingRect(wanted.mask.astype(np.uint8))
    opaque = np.dstack([wanted.image, np.full_like(wanted.image[..., :1], 255)]).astype(np.float32)
    cut_out = (opaque * wanted.mask[..., None])[top : top + height, left : left + width]
    x0, y0, x1, y1 = (side * edge for edge in wanted.box)
    scale = min((x1 - x0) / width, (y1 - y0) / height)
    to_box = np.array([[scale, 0, (x0 + x1 - scale * width) / 2], [0, scale, (y0 + y1 - scale * height) / 2]])
    return Layer(cv2.warpAffine(cut_out, to_box, (side, side), flags=cv2.INTER_LINEAR), 0, 0)
