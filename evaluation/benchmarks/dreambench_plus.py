"""DreamBench++: 150 images of animals, people, objects and styles x 9 prompts (Peng et al., ICLR 2025).

Its images and prompts have no licence of their own, so they do not ship with the project: they are read from the user's
copy, `images/animal/00.jpg` with `captions/animal/00.txt` and so on.
"""

from collections.abc import Iterator
from pathlib import Path

from evaluation.benchmarks.benchmark import Benchmark, Case, PromptGroup, Subject
from evaluation.benchmarks.checks import file_name
from evaluation.benchmarks.copied import read_lines
from evaluation.errors import InvalidBenchmark

CURE = (
    "unpack the evaluation dataset of DreamBench++ (its address is in the README of "
    "https://github.com/yuangpeng/dreambench_plus) and give the folder with `images` and `captions`"
)
_LIVE = ("animal", "human")
_GROUPS = (*[PromptGroup.PLAIN] * 4, *[PromptGroup.STYLE] * 3, *[PromptGroup.PLAIN] * 2)
"""Photorealistic, style and imaginative prompts, by their order (dreambench_plus/benchmarking.py@66ca27e)."""


def dreambench_plus(copy: Path) -> Benchmark:
    """Return the benchmark of the user's copy.

    Raises:
        InvalidBenchmark: captions or images are missing, or a file has another number of prompts than 9.
    """
    captions = sorted((copy / "captions").rglob("*.txt"))
    if not captions:
        raise InvalidBenchmark(f"{copy / 'captions'} holds no *.txt: {CURE}")
    listed = {path: read_lines(path, CURE) for path in captions}
    subjects = {path: _subject(copy, path, lines[0]) for path, lines in listed.items()}
    return Benchmark(
        name="dreambench-plus",
        title=f"DreamBench++, {len(subjects)} images x 9 prompts x 1 image",
        source="yuangpeng/dreambench_plus (Peng et al., ICLR 2025; the user's copy)",
        licence="not stated for images and prompts; the code is Apache-2.0",
        subjects={subject.name: subject for subject in subjects.values()},
        cases=tuple(case for path, lines in listed.items() for case in _cases(path, subjects[path], lines[1:])),
        images_per_case=1,
        notes=(
            "Each subject has one image, its input; 1 image per prompt, as published.",
            "The category `style` asks for the style of the input image, not for its subject.",
        ),
        images_folder=copy,
    )


def _subject(copy: Path, captions: Path, class_name: str) -> Subject:
    category, index = captions.parent.name, captions.stem
    image = Path("images", captions.relative_to(copy / "captions")).with_suffix(".jpg")
    if not (copy / image).is_file():
        raise InvalidBenchmark(f"{copy / image} is missing, the image of {captions}: {CURE}")
    kind = f"live_subject_{category}" if category in _LIVE else category
    name = f"{kind}_{index}_{file_name(class_name)}"
    return Subject(name, class_name, (image.as_posix(),), image.as_posix(), category in _LIVE)


def _cases(captions: Path, subject: Subject, prompts: list[str]) -> Iterator[Case]:
    if len(prompts) != len(_GROUPS):
        raise InvalidBenchmark(f"{captions}: {len(prompts)} prompts after the subject, not {len(_GROUPS)}: {CURE}")
    for index, (prompt, group) in enumerate(zip(prompts, _GROUPS, strict=True)):
        yield Case(f"{subject.name}/{index:02d}", (subject.name,), prompt, group)
