"""The picture of a subject that the image encoder sees: one place, used by training and at sampling."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool, UInt8
from numpy.typing import NDArray
from PIL import Image

from model.config import SubjectBackground, SubjectConfig
from model.errors import ModelError
from model.inputs.cavities import fill_holes

WHITE = (255, 255, 255)
_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp"})


class SubjectPictures:
    """Cuts subjects out of their images.

    Args:
        side_px: of the picture, the image encoder's.
        mean: colour in [0, 1] that the image encoder's normalisation turns into zeros.
        training: whether random backgrounds are drawn; at sampling they are white.

    Raises:
        ModelError: the folder of backgrounds has no photographs.
    """

    def __init__(self, config: SubjectConfig, side_px: int, mean: Sequence[float], training: bool) -> None:
        self.side_px = side_px
        self.square = config.square
        self.fill_cavities = config.fill_cavities
        self._fill_holes = config.fill_cavities and not training
        is_mean = config.background is SubjectBackground.MEAN
        self.colour = tuple(round(255 * value) for value in mean) if is_mean else WHITE
        self._plain = np.full((side_px, side_px, 3), self.colour, dtype=np.uint8)
        is_random = config.background is SubjectBackground.RANDOM and training
        self.photographs = _photographs(Path(config.backgrounds or "").expanduser()) if is_random else []

    def __call__(
        self, image: UInt8[np.ndarray, "H W 3"], mask: Bool[np.ndarray, "H W"], rng: np.random.Generator
    ) -> UInt8[np.ndarray, "_s _s 3"]:
        """The subject alone, as large as the picture lets it be.

        Args:
            image: RGB.
            mask: where the subject is; at least one pixel.
        """
        mask = fill_holes(mask) if self._fill_holes else mask
        where = mask.astype(np.uint8) * np.uint8(255)
        left, top, width, height = cv2.boundingRect(where)
        inside = np.s_[top : top + height, left : left + width]
        where = where[inside]
        alone = cv2.copyTo(image[inside], where)
        subject = _resized(_centred(alone, self.square), self.side_px)
        rest = cv2.bitwise_not(_resized(_centred(where, self.square), self.side_px))
        behind = cv2.multiply(self._background(rng), cv2.merge([rest] * 3), scale=1 / 255)
        picture: NDArray[np.uint8] = cv2.add(subject, behind)
        return picture

    def _background(self, rng: np.random.Generator) -> UInt8[np.ndarray, "_s _s 3"]:
        if not self.photographs:
            return self._plain
        with Image.open(self.photographs[rng.integers(len(self.photographs))]) as photograph:
            return np.asarray(photograph.convert("RGB").resize((self.side_px, self.side_px)))


def _centred(cut: UInt8[np.ndarray, "_h _w *_c"], padded: bool) -> NDArray[np.uint8]:
    """A square of the cut-out: padded with zeros to its longer side, or cropped to its shorter one."""
    height, width = cut.shape[:2]
    side = max(height, width) if padded else min(height, width)
    top, left = abs(height - side) // 2, abs(width - side) // 2
    if not padded:
        return cut[top : top + side, left : left + side]
    square: NDArray[np.uint8] = cv2.copyMakeBorder(
        cut, top, side - height - top, left, side - width - left, cv2.BORDER_CONSTANT, value=(0, 0, 0)
    )
    return square


def _resized(pixels: NDArray[np.uint8], side_px: int) -> NDArray[np.uint8]:
    shrinking = pixels.shape[0] > side_px
    method = cv2.INTER_AREA if shrinking else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(pixels, (side_px, side_px), interpolation=method))


def _photographs(folder: Path) -> list[Path]:
    found = sorted(path for path in folder.glob("*") if path.suffix.lower() in _SUFFIXES)
    if not found:
        raise ModelError(
            f"model.subject.backgrounds={str(folder)!r} holds no photographs (.jpg, .png, .webp): give another folder, "
            f'or set model.subject.background="white"'
        )
    return found
