"""A subject as users describe it: reference photos, a label, and a place in the new image."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from model.inputs.layout import LayoutInput, parse_box
from model.inputs.pictures import Picture, cutout_layers, mask_pixels, rgb_pixels


@dataclass(frozen=True)
class Photo:
    """A reference photo of a subject, with the subject's mask."""

    pixels: UInt8[np.ndarray, "h w 3"]
    """The photo in RGB."""
    outline: Bool[np.ndarray, "h w"]
    """Mask of the subject; at least one pixel."""


@dataclass(frozen=True)
class Subject:
    """One subject of a new image.

    Pictures and masks are Pillow images, which are turned upright by their EXIF orientation, or NumPy arrays. A picture
    is grey, RGB or RGBA in uint8, uint16 or floats from 0 to 1. A mask holds bool, 0 and 1, 0 to 255, or floats from
    0 to 1; values of at least half the maximum are inside.

    Raises:
        ValueError: a picture or mask is of another kind, a picture has neither mask nor transparency, a mask is empty
            or differs in size from its picture, the label is missing, the box does not lie in the image, or the
            strength is negative.
    """

    image: Picture | Sequence[Picture]
    """Picture that shows the subject, or several pictures of the same subject."""
    label: str
    """Name of the subject in one or a few words."""
    mask: Picture | Sequence[Picture | None] | None = None
    """Mask of the subject in its picture, of the picture's size; one per picture if there are several. By default the
    picture's own transparency; if a mask is given, transparency is ignored."""
    box: Sequence[float] | None = None
    """Box in the new image: left, top, right, bottom, each 0 to 1. The subject's outline is fitted into it."""
    place: Picture | None = None
    """Mask of the subject in the new image, at any resolution."""
    strength: float = 1.0
    """Factor on the adapters' attention to the subject. With 0 it is absent for the adapters, but stays in the prompt
    (with its CLS embedding) and in the location mask."""
    photos: tuple[Photo, ...] = field(init=False, repr=False)
    """The pictures as arrays, with their masks."""
    layout_input: LayoutInput = field(init=False, repr=False)
    """Outline in the first picture, box and place as the layout takes them."""

    def __post_init__(self) -> None:
        if not isinstance(self.label, str) or not self.label.strip():
            raise ValueError(f"label={self.label!r}: name the subject in one or a few words, such as 'dog'")
        if not 0 <= self.strength < math.inf:
            raise ValueError(f"strength={self.strength} of {self.label!r}: give 0 or more; training uses 1")
        photos = tuple(_photo(image, mask, self.label) for image, mask in self._pairs())
        box = None if self.box is None else parse_box(self.box, self.label)
        place = None if self.place is None else mask_pixels(self.place, f"the mask that places {self.label!r}")
        object.__setattr__(self, "photos", photos)
        object.__setattr__(self, "layout_input", LayoutInput(self.label, photos[0].outline, box, place))

    def _pairs(self) -> list[tuple[Picture, Picture | None]]:
        """Return each picture with its mask, if it has one."""
        if isinstance(self.image, Image.Image | np.ndarray | str) or not isinstance(self.image, Sequence):
            if self.mask is not None and not isinstance(self.mask, Image.Image | np.ndarray):
                raise ValueError(f"{self.label!r} has one picture: give one mask, not {type(self.mask).__name__}")
            return [(self.image, self.mask)]
        masks = [None] * len(self.image) if self.mask is None else self.mask
        if not self.image or not isinstance(masks, Sequence) or len(masks) != len(self.image):
            raise ValueError(f"{self.label!r} has {len(self.image)} pictures: give at least one, and one mask for each")
        return list(zip(self.image, masks, strict=True))


def _photo(image: Picture, mask: Picture | None, label: str) -> Photo:
    name = f"the picture of {label!r}"
    if mask is None:
        image, mask = cutout_layers(image, name)
    pixels, outline = rgb_pixels(image, name), mask_pixels(mask, f"the mask of {label!r}")
    if outline.shape != pixels.shape[:2]:
        sizes = ["x".join(map(str, array.shape[1::-1])) for array in (outline, pixels)]
        raise ValueError(f"the mask of {label!r} is {sizes[0]}, its picture {sizes[1]}: give both in one size")
    if not outline.any():
        raise ValueError(f"the mask of the subject {label!r} is empty: mark its pixels in its picture")
    return Photo(pixels, outline)
