"""A training sample as it is usually made: whole decode, LANCZOS, pycocotools over the full frame, all in Pillow."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco

from labeling.sdd.schema import SddRow
from training.data.config import DataConfig

WHITE = (255, 255, 255)


@dataclass(frozen=True)
class FullFrame:
    """A row whose masks are run lengths of the whole picture."""

    row: SddRow
    counts: tuple[dict[str, Any], ...]


def made(full: FullFrame, config: DataConfig, count: int, rng: np.random.Generator) -> list[np.ndarray]:
    """What a `Sample` holds, but for the prompt: image, boxes, masks at the latent's size, subjects' pictures."""
    row = full.row
    picture = Image.open(io.BytesIO(row.image)).convert("RGB")
    side = min(picture.size)
    left, top = (int(rng.integers(0, edge - side + 1)) for edge in picture.size)
    chosen = rng.choice(len(row.entities), count, replace=False)
    masks = [coco.decode(full.counts[index]).view(bool) for index in chosen]
    crop = (left, top, left + side, top + side)
    image = picture.crop(crop).resize((config.image_px, config.image_px), Image.Resampling.LANCZOS)
    cells = config.image_px // config.latent_downsampling
    small = [
        np.asarray(Image.fromarray(mask.astype(np.float32)).crop(crop).resize((cells, cells), Image.Resampling.BOX))
        for mask in masks
    ]
    boxes = np.array(
        [[getattr(row.entities[index].box, edge) for edge in ("x0", "y0", "x1", "y1")] for index in chosen]
    )
    pictures = [subject(picture, mask, config, rng) for mask in masks]
    return [np.asarray(image), (boxes - (left, top, left, top)) / side, np.stack(small), np.stack(pictures)]


def subject(picture: Image.Image, mask: np.ndarray, config: DataConfig, rng: np.random.Generator) -> np.ndarray:
    """The subject on white, mirrored, in perspective and turned, as drawn, at its size."""
    alone = Image.composite(picture, Image.new("RGB", picture.size, WHITE), Image.fromarray(mask))
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    cut = alone.crop((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
    square = Image.new("RGB", (max(cut.size),) * 2, WHITE)
    square.paste(cut, tuple((square.width - edge) // 2 for edge in cut.size))
    augmentation = config.augmentation
    if rng.random() < augmentation.flip:
        square = square.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if rng.random() < augmentation.perspective_chance:
        square = square.transform(
            square.size,
            Image.Transform.PERSPECTIVE,
            inwards(square.width, augmentation.perspective, rng),
            Image.Resampling.BILINEAR,
            fillcolor=WHITE,
        )
    angle = rng.uniform(-augmentation.rotation_deg, augmentation.rotation_deg)
    square = square.rotate(angle, Image.Resampling.BILINEAR, fillcolor=WHITE)
    return np.asarray(square.resize((config.subject_px, config.subject_px), Image.Resampling.LANCZOS))


def inwards(side: int, distortion: float, rng: np.random.Generator) -> Sequence[float]:
    """Coefficients of a perspective that moves the corners inwards, from where they go to where they are."""
    before = np.array([(0, 0), (side, 0), (side, side), (0, side)], float)
    after = before + rng.uniform(0, distortion / 2, (4, 2)) * (side - 2 * before)
    rows = []
    for (x, y), (u, v) in zip(after, before, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
    coefficients: list[float] = np.linalg.solve(np.array(rows), before.ravel()).tolist()
    return coefficients
