"""Cut out the picture of a subject for the image encoder, in training and in sampling."""

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
        config: how subjects are cut out.
        side_px: side of the picture, in pixels; the image encoder's input size.
        mean: colour, each channel 0 to 1, that becomes zero after the image encoder's normalisation.
        training: whether `background="random"` draws photographs; in sampling it is white.

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
        self.photographs = _list_photographs(Path(config.backgrounds or "").expanduser()) if is_random else []

    def __call__(
        self, image: UInt8[np.ndarray, "H W 3"], mask: Bool[np.ndarray, "H W"], rng: np.random.Generator
    ) -> UInt8[np.ndarray, "_s _s 3"]:
        """Return a square picture of the subject alone, scaled to fill it.

        Args:
            image: RGB image that shows the subject.
            mask: pixels of the subject, at least one.
            rng: source of the random background.
        """
        mask = fill_holes(mask) if self._fill_holes else mask
        where = mask.astype(np.uint8) * np.uint8(255)
        left, top, width, height = cv2.boundingRect(where)
        inside = np.s_[top : top + height, left : left + width]
        where = where[inside]
        # The fourth channel is the mask: resizing both at once takes less time than one after the other.
        alone = cv2.copyTo(cv2.cvtColor(image[inside], cv2.COLOR_RGB2RGBA), where)
        return self.on_background(_resize(_make_square(alone, self.square), self.side_px), rng)

    def on_background(
        self, subject: UInt8[np.ndarray, "_s _s 4"], rng: np.random.Generator
    ) -> UInt8[np.ndarray, "_s _s 3"]:
        """Return the picture of a subject before its background.

        Args:
            subject: RGB, black around the subject, and the share of each pixel that the subject covers, 0 to 255.
            rng: source of the random background.
        """
        rest = cv2.bitwise_not(cv2.extractChannel(subject, 3))
        behind = cv2.merge([rest] * 3)  # on white
        if self.photographs or self.colour != WHITE:
            behind = cv2.multiply(self._background(rng), behind, scale=1 / 255)
        picture: NDArray[np.uint8] = cv2.add(cv2.cvtColor(subject, cv2.COLOR_RGBA2RGB), behind)
        return picture

    def _background(self, rng: np.random.Generator) -> UInt8[np.ndarray, "_s _s 3"]:
        if not self.photographs:
            return self._plain
        with Image.open(self.photographs[rng.integers(len(self.photographs))]) as photograph:
            return np.asarray(photograph.convert("RGB").resize((self.side_px, self.side_px)))


def _make_square(cut: UInt8[np.ndarray, "_h _w *_c"], pad: bool) -> NDArray[np.uint8]:
    """Return the cut-out padded with zeros to a square of its longer side, or cropped to one of its shorter side."""
    height, width = cut.shape[:2]
    side = max(height, width) if pad else min(height, width)
    top, left = abs(height - side) // 2, abs(width - side) // 2
    if not pad:
        return cut[top : top + side, left : left + side]
    square: NDArray[np.uint8] = cv2.copyMakeBorder(
        cut, top, side - height - top, left, side - width - left, cv2.BORDER_CONSTANT, value=(0, 0, 0, 0)
    )
    return square


def _resize(pixels: NDArray[np.uint8], side_px: int) -> NDArray[np.uint8]:
    shrinking = pixels.shape[0] > side_px
    method = cv2.INTER_AREA if shrinking else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(pixels, (side_px, side_px), interpolation=method))


def _list_photographs(folder: Path) -> list[Path]:
    photographs = sorted(path for path in folder.glob("*") if path.suffix.lower() in _SUFFIXES)
    if not photographs:
        raise ModelError(
            f"model.subject.backgrounds={str(folder)!r} holds no photographs (.jpg, .png, .webp): give another folder, "
            f'or set model.subject.background="white"'
        )
    return photographs
