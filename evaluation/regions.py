"""Regions of generated images: where a subject was asked for, or where a detector found it.

Each region is cut out as an image file, whose name is that of its content, so that it is embedded like any image and
found in the cache when an evaluation resumes.
"""

import hashlib
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image as PillowImage

from evaluation.benchmarks.benchmark import Benchmark, RelativeBox
from evaluation.encoders.encoder import Image
from evaluation.images import GeneratedFile
from infra.storage import publish_bytes, storage_path
from labeling.sdd.pixels import UndecodableImage, decode

Boxes = tuple[RelativeBox | None, ...]
"""Box of each subject of an image; None where none was found."""


class SubjectDetector(Protocol):
    """Finds subjects by their class words."""

    name: str
    """Name in reports, such as `Grounding DINO`."""

    def detect(self, image: Image, labels: Sequence[str]) -> Sequence[RelativeBox | None]:
        """Return the box of each label, for equal labels different boxes; None where nothing is found."""


@dataclass(frozen=True, slots=True)
class Regions:
    """Regions of one image."""

    detected: Boxes | None
    """Where the detector found each subject; None without a detector."""
    files: tuple[Path | None, ...]
    """Cut-out of each subject's region: its requested box, or else the detected one."""
    aspect: float
    """Width of the image in units of its height."""


def cut_regions(
    files: Iterable[GeneratedFile], benchmark: Benchmark, folder: Path, detector: SubjectDetector | None
) -> dict[str, Regions]:
    """Cut the subjects' regions out of images, by their names; images that cannot be read have none.

    Args:
        files: generated images.
        benchmark: names of the subjects' classes.
        folder: folder of the cut-outs; those that exist are kept.
        detector: finds subjects; without one, only images of cases with boxes have regions.
    """
    usable = [file for file in files if file.path is not None and (file.case.boxes or detector is not None)]
    with ThreadPoolExecutor() as threads:
        found: dict[str, Regions] = {}
        for file, (digest, image) in zip(usable, threads.map(_read, usable), strict=True):
            if image is not None:
                labels = [benchmark.subjects[name].class_name for name in file.case.subjects]
                detected = None if detector is None else tuple(detector.detect(image, labels))
                boxes = file.case.boxes or detected or ()
                cut = tuple(_cut(image, digest, box, folder) for box in boxes)
                found[file.name] = Regions(detected, cut, image.shape[1] / image.shape[0])
        return found


def input_boxes(
    benchmark: Benchmark, references: Mapping[str, Sequence[Path]], detector: SubjectDetector
) -> dict[str, RelativeBox]:
    """Return the box of each subject in its input photo, with widths in units of the photo's height.

    Subjects that the detector does not find have none.
    """
    found = {}
    for name, subject in benchmark.subjects.items():
        image = decode(references[name][subject.images.index(subject.input_image)].read_bytes())
        (box,) = detector.detect(image, [subject.class_name])
        if box is not None:
            found[name] = stretch(box, image.shape[1] / image.shape[0])
    return found


def stretch(box: RelativeBox, aspect: float) -> RelativeBox:
    """Return a box with widths in units of the image's height, so that its aspect ratio is that of its pixels."""
    return box[0] * aspect, box[1], box[2] * aspect, box[3]


def region_files(regions: Mapping[str, Regions]) -> Iterator[Path]:
    """Yield the cut-outs of all images."""
    for one in regions.values():
        yield from (file for file in one.files if file is not None)


def _read(file: GeneratedFile) -> tuple[str, Image | None]:
    assert file.path is not None
    try:
        encoded = file.path.read_bytes()
        return hashlib.sha256(encoded).hexdigest(), decode(encoded)
    except (OSError, UndecodableImage):
        return "", None


def _cut(image: Image, digest: str, box: RelativeBox | None, folder: Path) -> Path | None:
    if box is None or (pixels := _inside(image, box)).size == 0:
        return None
    place = hashlib.sha256(repr(box).encode()).hexdigest()
    path = folder / digest[:2] / f"{digest[:24]}-{place[:8]}.png"
    if not path.exists():
        content = io.BytesIO()
        PillowImage.fromarray(pixels).save(content, "PNG", compress_level=1)
        publish_bytes(storage_path(path), content.getvalue())
    return path


def _inside(image: Image, box: RelativeBox) -> Image:
    height, width = image.shape[:2]
    left, right = (round(np.clip(side, 0, 1) * width) for side in box[::2])
    top, bottom = (round(np.clip(side, 0, 1) * height) for side in box[1::2])
    return np.ascontiguousarray(image[top:bottom, left:right])
