"""The cases of `cases` as a benchmark of `subject-diffusion evaluate`, with the subjects' photos as files.

FOLDER/swan/00.png            input photo: the subject in one pose, transparent around it
FOLDER/swan/01.png ... 04     the subject in other poses and places, cut out of scenes as squares
"""

import io
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from evaluation.benchmarks.benchmark import Benchmark, PromptGroup, Subject
from evaluation.benchmarks.benchmark import Case as BenchmarkCase
from evaluation.benchmarks.checks import file_name
from infra.storage import publish_bytes, storage_path
from miniature.scoring.cases import COUNT, Case, TargetSubject, cases
from miniature.training.embedder import crop
from miniature.training.pictures import SCENES, scene_picture
from miniature.world.scenes import Pool
from miniature.world.sprites import Sprite

NAME = "miniature"
PHOTOS = 5
"""Number of photos of a subject, the input photo included."""
_SEED = 4243


def miniature_benchmark(folder: Path, count: int = COUNT) -> Benchmark:
    """Return the benchmark, after writing the photos that `folder` lacks.

    Args:
        folder: folder of the photos.
        count: number of cases with one subject, and of those with two.
    """
    alone, together = (list(islice(cases(number), count)) for number in (1, 2))
    shown = {_name(subject.sprite): subject for case in (*together, *alone) for subject in case.subjects}
    for name, subject in shown.items():
        _write_photos(folder, name, subject)
    return Benchmark(
        name=NAME,
        title=f"Miniature world, {len(shown)} things that no network was trained on",
        source="this project, miniature/scoring/cases.py",
        licence="MIT (Fluent Emoji by Microsoft)",
        subjects={name: _subject(name, subject) for name, subject in shown.items()},
        cases=tuple(map(_case, (*alone, *together))),
        images_per_case=1,
        notes=(
            "Prompts, boxes and poses are those of `score cases`; a subject has one input photo.",
            "Photos other than the input are squares around the subject, images are whole pictures.",
        ),
        images_folder=folder,
    )


def _name(sprite: Sprite) -> str:
    return file_name(sprite.name)


def _photo_names(name: str) -> tuple[str, ...]:
    return tuple(f"{name}/{number:02}.png" for number in range(PHOTOS))


def _subject(name: str, subject: TargetSubject) -> Subject:
    photos = _photo_names(name)
    return Subject(name, subject.sprite.class_word, photos, photos[0])


def _case(case: Case) -> BenchmarkCase:
    names = tuple(_name(subject.sprite) for subject in case.subjects)
    boxes = tuple(subject.box for subject in case.subjects)
    return BenchmarkCase(f"{'+'.join(names)}/00", names, case.prompt, PromptGroup.PLACE, boxes)


def _write_photos(folder: Path, name: str, subject: TargetSubject) -> None:
    """Write the photos of a subject that do not exist."""
    missing = [(path, n) for n, photo in enumerate(_photo_names(name)) if not (path := folder / photo).exists()]
    for path, number in missing:
        image = _input_photo(subject) if number == 0 else _other_photo(subject.sprite, number)
        content = io.BytesIO()
        Image.fromarray(image).save(content, "PNG")
        path.parent.mkdir(parents=True, exist_ok=True)
        publish_bytes(storage_path(path), content.getvalue())


def _input_photo(subject: TargetSubject) -> NDArray[np.uint8]:
    """Return the reference with its mask as transparency, RGBA."""
    return np.dstack([subject.image, np.uint8(255) * subject.mask])


def _other_photo(sprite: Sprite, number: int) -> NDArray[np.uint8]:
    """Return the square around the subject in a scene of its own, RGB."""
    only_it = {"names": (sprite.name,), "subjects": (1, 1), "pool": Pool.ALL}
    one = scene_picture((_SEED, number, *sprite.name.encode()), SCENES.model_copy(update=only_it))
    return crop(one.image, one.box(0))
