"""Tiles: scenes whose subject is replaced by a box in its colours. They hold a subject's colours, not its shape."""

import cv2
import numpy as np
from jaxtyping import UInt8

from miniature.training.pictures import ScenePicture, shrink

MAX_CELLS = 3
"""Largest number of colours along a side of a tile that a network is trained on."""


def draw_tile(one: ScenePicture, cells: int) -> UInt8[np.ndarray, "64 64 3"]:
    """Fill the box of a scene's first subject with `cells` x `cells` of its colours, which blend into each other.

    One cell gives the subject's mean colour. The mean colour also replaces the background within the box, so that the
    outline is lost.
    """
    subject, image = one.scene.subjects[0], one.scene.image.copy()
    box = subject.box
    window = slice(int(box.y0), int(box.y1)), slice(int(box.x0), int(box.x1))
    inside, mask = image[window], subject.mask[window]
    colours = np.where(mask[..., None], inside, inside[mask].mean(axis=0)).astype(np.float32)
    coarse = cv2.resize(colours, (cells, cells), interpolation=cv2.INTER_AREA)
    image[window] = cv2.resize(coarse, inside.shape[1::-1], interpolation=cv2.INTER_LINEAR).round().astype(np.uint8)
    return shrink(image)
