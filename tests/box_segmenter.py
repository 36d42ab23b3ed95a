"""A segmenter whose mask is the box itself. The module is importable by worker processes."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from labeling.config import SegmentConfig
from labeling.stages.networks import SegmentedBox


class BoxSegmenter:
    def prepare(self, image: NDArray[np.uint8]) -> tuple[int, int]:
        return image.shape[0], image.shape[1]

    def segment(
        self, prepared: Sequence[tuple[int, int]], boxes: Sequence[NDArray[np.float32]]
    ) -> list[list[SegmentedBox]]:
        return [[self._fill(size, box) for box in of_image] for size, of_image in zip(prepared, boxes, strict=True)]

    def _fill(self, size: tuple[int, int], box: NDArray[np.float32]) -> SegmentedBox:
        mask = np.zeros(size, bool)
        x0, y0, x1, y1 = (round(float(side)) for side in box)
        mask[y0:y1, x0:x1] = True
        return SegmentedBox(mask=mask, predicted_iou=0.8, stability=0.7)


def load_box_segmenter(config: SegmentConfig) -> BoxSegmenter:
    return BoxSegmenter()
