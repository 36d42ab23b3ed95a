"""Checks of an encoded image against its row. The name of a function is the name of the check."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

from labeling.download.screening.imaging import difference_hash, probe
from labeling.sdd.arrow import Record
from labeling.sdd.pixels import UndecodableImage
from labeling.validation.faults import Fault
from labeling.validation.layer_file import LayerFile


@dataclass(frozen=True)
class Picture:
    """An encoded image with its row."""

    file: LayerFile
    row: int
    """Row in the file, from 0."""
    encoded: bytes

    @property
    def record(self) -> Record:
        """Row of the image, without pixels."""
        return self.file.records[self.row]

    @cached_property
    def hash(self) -> int | UndecodableImage:
        """Difference hash, or the reason why the image has none."""
        try:
            return difference_hash(self.encoded)
        except UndecodableImage as error:
            return error

    def fault(self, column: str, message: str) -> Fault:
        """Return a fault of a column of the row."""
        return self.file.fault(message, self.row, column)


PictureCheck = Callable[[Picture], Iterator[Fault]]


def sha256_of_image(picture: Picture) -> Iterator[Fault]:
    """Check that the SHA-256 of an image is that of its row."""
    if hashlib.sha256(picture.encoded).digest() != picture.record["sha256"]:
        yield picture.fault("sha256", "is not that of the image")


def decodable_image(picture: Picture) -> Iterator[Fault]:
    """Check that an image can be decoded to its end."""
    if isinstance(picture.hash, UndecodableImage):
        yield picture.fault("image", f"cannot be decoded: {picture.hash}")


def size_and_type_of_image(picture: Picture) -> Iterator[Fault]:
    """Check that the header of an image has the upright size and the media type of its row."""
    try:
        found = probe(picture.encoded)
    except UndecodableImage:
        return
    for column in ("width_px", "height_px", "media_type"):
        stored, actual = picture.record[column], getattr(found, column)
        if stored != actual:
            yield picture.fault(column, f"is {stored}, but the image's is {actual}")


def perceptual_hash_of_image(picture: Picture) -> Iterator[Fault]:
    """Check that the difference hash of an image is that of its row."""
    stored, actual = picture.record["perceptual_hash"], picture.hash
    if isinstance(actual, int) and stored != actual:
        yield picture.fault("perceptual_hash", f"is {stored}, but the image's is {actual}")


PICTURE_CHECKS: tuple[PictureCheck, ...] = (
    sha256_of_image,
    decodable_image,
    size_and_type_of_image,
    perceptual_hash_of_image,
)
"""Checks of each encoded image."""
