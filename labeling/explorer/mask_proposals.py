"""Masks that the segmenter proposes for boxes that a person has drawn."""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from labeling.errors import ExplorerError
from labeling.explorer.browse import Place
from labeling.explorer.pictures import Pictures
from labeling.sdd import masks
from labeling.sdd.pixels import UndecodableImage, decode
from labeling.sdd.schema import Box, Mask
from labeling.stages.networks import Segmenter


class MaskProposals:
    """Proposes masks, one at a time, and keeps them until the explorer stops.

    Args:
        pictures: images of the dataset.
        load: loader of the segmenter, called for the first box; None without weights.
    """

    def __init__(self, pictures: Pictures, load: Callable[[], Segmenter[Any]] | None) -> None:
        self._pictures = pictures
        self._load = load
        self._segmenter: Segmenter[Any] | None = None
        self._proposed: dict[tuple[Place, Box], Mask | None] = {}
        self._running = threading.Lock()

    @property
    def is_available(self) -> bool:
        """Whether there are weights."""
        return self._load is not None

    def propose(self, place: Place, box: Box) -> Mask | None:
        """Return the mask of a box; None if the segmenter finds nothing in it.

        Raises:
            ExplorerError: there are no weights, or no image.
            BackendWeightsError: the weights cannot be loaded.
        """
        if self._load is None:
            raise ExplorerError("no segmenter is configured: start with --config FILE, or build without proposals")
        with self._running:
            if (place, box) not in self._proposed:
                self._segmenter = self._segmenter or self._load()
                self._proposed[place, box] = self._segment(self._segmenter, place, box)
        return self._proposed[place, box]

    def mask(self, place: Place, box: Box) -> Mask | None:
        """Return the mask that was proposed for a box; None if there was none."""
        return self._proposed.get((place, box))

    def _segment(self, segmenter: Segmenter[Any], place: Place, box: Box) -> Mask | None:
        try:
            pixels = decode(self._pictures.stored(place).encoded)
        except UndecodableImage as error:
            raise ExplorerError(f"the image {place.key.hex()} cannot be decoded: {error}") from error
        boxes = [np.array([(box.x0, box.y0, box.x1, box.y1)], np.float32)]
        ((segmented,),) = segmenter.segment([segmenter.prepare(pixels)], boxes)
        return masks.encode(segmented.mask) if segmented.mask.any() else None
