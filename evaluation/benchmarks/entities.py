"""Cut-outs of subjects that are a region of their image, such as those of Open Images.

Networks and scores see whole files, so the regions become files of their own.
"""

import hashlib
import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from evaluation.benchmarks.benchmark import Benchmark, RelativeBox, Subject
from evaluation.benchmarks.references import reference_files
from evaluation.errors import ImagesError
from infra.storage import publish_bytes, storage_path
from labeling.sdd.pixels import UndecodableImage, decode

_NAMED = 10
"""Number of unreadable files that a message names."""


def cut_entities(benchmark: Benchmark, images: Path, out: Path) -> Benchmark:
    """Write each subject's region of its image as a PNG, and return the benchmark whose subjects are these cut-outs.

    Cut-outs that exist are kept, so that an interrupted call continues. Subjects without a region keep their images.

    Args:
        benchmark: a benchmark, some of whose subjects have regions.
        images: folder of its images.
        out: folder of the cut-outs.

    Raises:
        ImagesError: images are missing or cannot be decoded; the message names the first ten.
    """
    files = reference_files(benchmark, images)
    with ThreadPoolExecutor() as threads:
        cut = list(threads.map(lambda subject: _cut(subject, files[subject.name], out), benchmark.subjects.values()))
    if problems := [problem for _, problem in cut if problem]:
        more = f" and {len(problems) - _NAMED} more" if len(problems) > _NAMED else ""
        raise ImagesError(
            f"{len(problems)} images of {benchmark.name} cannot be decoded: {'; '.join(problems[:_NAMED])}{more}; "
            "download them again"
        )
    subjects = {subject.name: subject for subject, _ in cut}
    return replace(benchmark, subjects=subjects, images_folder=out)


def _cut(subject: Subject, files: Sequence[Path], out: Path) -> tuple[Subject, str]:
    """Return the subject with its cut-out, and a problem or an empty string."""
    if subject.region is None:
        paths = tuple(str(file.resolve()) for file in files)
        return replace(subject, images=paths, input_image=paths[subject.images.index(subject.input_image)]), ""
    place = hashlib.sha256(f"{subject.input_image} {subject.region}".encode()).hexdigest()
    path = out / f"{subject.name}-{place[:8]}.png"
    if not path.exists():
        try:
            pixels = decode(files[subject.images.index(subject.input_image)].read_bytes())
        except (OSError, UndecodableImage) as error:
            return subject, f"{subject.input_image} ({error})"
        _write_png(_inside(pixels, subject.region), path)
    return replace(subject, images=(path.name,), input_image=path.name, region=None), ""


def _inside(image: NDArray[np.uint8], box: RelativeBox) -> NDArray[np.uint8]:
    """Return the pixels of a box, at least one."""
    height, width = image.shape[:2]
    left, top = int(box[0] * width), int(box[1] * height)
    right, bottom = max(round(box[2] * width), left + 1), max(round(box[3] * height), top + 1)
    return np.ascontiguousarray(image[top:bottom, left:right])


def _write_png(pixels: NDArray[np.uint8], path: Path) -> None:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG", compress_level=1)
    publish_bytes(storage_path(path), content.getvalue())
