"""The picture of a subject that the image encoder sees: one place, used by training and at sampling."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool, UInt8
from numpy.typing import NDArray
from PIL import Image

from model.config import SubjectBackground, SubjectConfig

WHITE = (255, 255, 255)
_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp"})


class SubjectPictures:
    """Cuts subjects out of their images.

    Args:
        side_px: of the picture, the image encoder's.
        mean: colour in [0, 1] that the image encoder's normalisation turns into zeros.
        training: whether random backgrounds are drawn; at sampling they are white.

    Raises:
        FileNotFoundError: the folder of backgrounds has no photographs.
    """

    def __init__(self, config: SubjectConfig, side_px: int, mean: Sequence[float], training: bool) -> None:
        self.side_px = side_px
        self.square = config.square
        is_mean = config.background is SubjectBackground.MEAN
        self.colour = tuple(round(255 * value) for value in mean) if is_mean else WHITE
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
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        inside = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        cut, where = _centred(image[inside], mask[inside], self.square)
        background = self._background(rng)
        share = _resized(where.astype(np.float32), self.side_px)[..., None]
        subject = _resized(np.where(where[..., None], cut, 0).astype(np.float32), self.side_px)
        return np.clip(subject + (1.0 - share) * background + 0.5, 0, 255).astype(np.uint8)

    def _background(self, rng: np.random.Generator) -> NDArray[np.float32]:
        if not self.photographs:
            return np.array(self.colour, dtype=np.float32)
        with Image.open(self.photographs[rng.integers(len(self.photographs))]) as photograph:
            pixels = np.asarray(photograph.convert("RGB").resize((self.side_px, self.side_px)), dtype=np.float32)
        return pixels


def _centred(
    cut: UInt8[np.ndarray, "h w 3"], where: Bool[np.ndarray, "h w"], padded: bool
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """A square of the cut-out: padded to its longer side, or cropped to its shorter one."""
    height, width = where.shape
    side = max(height, width) if padded else min(height, width)
    top, left = abs(height - side) // 2, abs(width - side) // 2
    if not padded:
        centre = np.s_[top : top + side, left : left + side]
        return cut[centre], where[centre]
    margins = ((top, side - height - top), (left, side - width - left))
    return np.pad(cut, (*margins, (0, 0))), np.pad(where, margins)


def _resized(pixels: NDArray[np.float32], side_px: int) -> NDArray[np.float32]:
    shrinking = pixels.shape[0] > side_px
    method = cv2.INTER_AREA if shrinking else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(pixels, (side_px, side_px), interpolation=method))


def _photographs(folder: Path) -> list[Path]:
    found = sorted(path for path in folder.glob("*") if path.suffix.lower() in _SUFFIXES)
    if not found:
        raise FileNotFoundError(
            f"model.subject.backgrounds={str(folder)!r} holds no photographs (.jpg, .png, .webp): give another folder, "
            f'or set model.subject.background="white"'
        )
    return found
