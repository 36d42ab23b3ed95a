"""A small benchmark of sprites with the trained embedder as encoder, and images that a perfect model would make.

Each subject has three photos. Cases of one subject ask for it in the middle, cases of two for one on each side.
"""

import io
from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from zlib import crc32

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from evaluation.benchmarks.benchmark import Benchmark, Case, PromptGroup, RelativeBox, Subject
from miniature.scoring.embedder_encoder import EMBEDDER, MINIATURE, EmbedderEncoder
from miniature.world.sprites import Sprite, cutout, sprites

Pixels = NDArray[np.uint8]
SIDE_PX = 128
PHOTOS = 3
MIDDLE: RelativeBox = (0.04, 0.04, 0.96, 0.96)
LEFT: RelativeBox = (0.02, 0.27, 0.48, 0.73)
RIGHT: RelativeBox = (0.52, 0.27, 0.98, 0.73)
SPEC = EMBEDDER
PROTOCOL = MINIATURE.model_copy(update={"name": "sprites", "title": "Sprites", "notes": ()})


def make_encoder() -> EmbedderEncoder:
    """Return the miniature world's embedder as an encoder."""
    return EmbedderEncoder(Path("miniature/weights/embedder"))


def things(count: int) -> list[Sprite]:
    """Return sprites that no network was trained on; neighbours look different."""
    by_name = {sprite.name: sprite for sprite in sprites() if sprite.held_out}
    return [by_name[name] for name in ("swan", "ladybug", "shark", "pear", "crocodile")[:count]]


def benchmark(count: int = 5, images_per_case: int = 2) -> Benchmark:
    """Return cases of each subject alone, and of each with the next."""
    subjects = {
        sprite.name: Subject(sprite.name, sprite.class_word, photo_names(sprite), photo_names(sprite)[0])
        for sprite in things(count)
    }
    alone = [
        Case(f"{one.name}/00", (one.name,), f"a {one.class_name} in the snow", PromptGroup.PLACE, (MIDDLE,))
        for one in subjects.values()
    ]
    together = [
        Case(
            f"{one.name}+{other.name}/00",
            (one.name, other.name),
            f"a {one.class_name} and a {other.class_name}",
            PromptGroup.PLAIN,
            (LEFT, RIGHT),
        )
        for one, other in pairwise(subjects.values())
    ]
    return Benchmark("sprites", "Sprites", "tests", "MIT", subjects, (*alone, *together), images_per_case)


def photo_names(sprite: Sprite) -> tuple[str, ...]:
    return tuple(f"{sprite.name}/{number:02}.png" for number in range(PHOTOS))


def photo(sprite: Sprite, number: int) -> Pixels:
    """Return a photo: the sprite in the middle, turned, on a background of its own."""
    rng = np.random.default_rng((number, len(sprite.name)))
    return compose([(sprite, MIDDLE)], rng, turn=20.0 * (number - 1))


def compose(
    placed: Iterable[tuple[Sprite, RelativeBox]], rng: np.random.Generator, turn: float | None = None
) -> Pixels:
    """Draw sprites into their boxes, turned a little."""
    base = rng.uniform(90, 200, 3) + rng.normal(0, 6, (SIDE_PX, SIDE_PX, 3))
    canvas = np.clip(base, 0, 255).astype(np.float32)
    for sprite, box in placed:
        left, top, right, bottom = (round(side * SIDE_PX) for side in box)
        angle = rng.uniform(-20, 20) if turn is None else turn
        layer = _fit(_turned(cutout(sprite, 64), angle), right - left, bottom - top)
        y, x = top + (bottom - top - layer.shape[0]) // 2, left + (right - left - layer.shape[1]) // 2
        spot = canvas[y : y + layer.shape[0], x : x + layer.shape[1]]
        spot *= 1 - layer[..., 3:] / 255
        spot += layer[..., :3]
    return np.clip(canvas, 0, 255).astype(np.uint8)


def write_photos(bench: Benchmark, folder: Path) -> Mapping[str, tuple[Path, ...]]:
    """Write all photos and return their files by subject."""
    for sprite in things(len(bench.subjects)):
        for number, name in enumerate(photo_names(sprite)):
            write(folder / name, photo(sprite, number))
    return {name: tuple(folder / image for image in subject.images) for name, subject in bench.subjects.items()}


def write_images(bench: Benchmark, folder: Path) -> None:
    """Write the images of a perfect model: each subject in its box, turned."""
    for case in bench.cases:
        for index in range(bench.images_per_case):
            write(folder / case.name / f"{index}.png", image_of(bench, case, index))


def image_of(bench: Benchmark, case: Case, index: int) -> Pixels:
    """Return an image of a case: each subject in its box, turned."""
    by_name = {sprite.name: sprite for sprite in things(len(bench.subjects))}
    rng = np.random.default_rng((index, crc32(case.name.encode())))
    return compose([(by_name[name], box) for name, box in zip(case.subjects, case.boxes, strict=False)], rng)


def swap_boxes(case: Case) -> Case:
    """Return the case with its subjects in each other's boxes."""
    return replace(case, boxes=case.boxes[::-1])


def write(path: Path, pixels: Pixels) -> None:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.getvalue())


def _turned(layer: Pixels, angle: float) -> NDArray[np.float32]:
    height, width = layer.shape[:2]
    side = int(np.hypot(height, width))
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), angle, 1)
    matrix[:, 2] += ((side - width) / 2, (side - height) / 2)
    turned = cv2.warpAffine(layer.astype(np.float32), matrix, (side, side), flags=cv2.INTER_LINEAR)
    rows, columns = (np.flatnonzero((turned[..., 3] > 8).any(axis=axis)) for axis in (1, 0))
    return turned[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _fit(layer: NDArray[np.float32], width: int, height: int) -> NDArray[np.float32]:
    scale = min(width / layer.shape[1], height / layer.shape[0])
    size = (max(1, int(layer.shape[1] * scale)), max(1, int(layer.shape[0] * scale)))
    return np.asarray(cv2.resize(layer, size, interpolation=cv2.INTER_AREA), dtype=np.float32)
