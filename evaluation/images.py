"""Generated images in a folder: this project's layout, and those that other projects' scripts write.

    FOLDER/cat2/03/0.png      image 0 of the case `cat2/03`

Each image of the benchmark is found, or listed as missing. Files that belong to no case, and images beyond the
benchmark's count, are refused, so that a misnamed folder is no missing image.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from evaluation.benchmarks.benchmark import Benchmark, Case
from evaluation.errors import ImagesError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp"})
_NAMED = 10
"""Files that a message names at most."""


class ImageLayout(StrEnum):
    """How a folder of generated images is arranged."""

    CASES = "cases"
    """`cat2/03/0.png`: case and number. What `evaluate` writes itself."""
    PROMPTS = "prompts"
    """`cat2/a cat in the snow/*.png`: subject and prompt, with spaces or underscores, as scripts for DreamBooth do."""
    UNO = "uno"
    """`14_0.png` with `14_0.json`, which holds the prompt and the reference images (UNO's inference.py, d305981)."""
    KOSMOS_G = "kosmos-g"
    """`cat2+00+57+a cat in the snow.png`: subject, reference, number and prompt (sample_kosmosg_dreambench.py)."""


@dataclass(frozen=True, slots=True)
class GeneratedFile:
    """A place for an image of the benchmark."""

    case: Case
    """The case of the image."""
    index: int
    """Number within the case, from 0."""
    path: Path | None
    """The file; None if it is missing."""

    @property
    def name(self) -> str:
        """Name in messages and reports, such as `cat2/03/0`."""
        return f"{self.case.name}/{self.index}"


def find_images(folder: Path, benchmark: Benchmark, layout: ImageLayout = ImageLayout.CASES) -> list[GeneratedFile]:
    """Return a place for each image of the benchmark, case by case, with the files that exist.

    Args:
        folder: folder of the images.
        benchmark: cases, and the number of images of each.
        layout: arrangement of the folder.

    Raises:
        ImagesError: there is no folder, a file belongs to no case, or a case has more images than the benchmark asks.
    """
    if not folder.is_dir():
        raise ImagesError(f"{folder}: no such folder; give the folder of the generated images")
    if layout is ImageLayout.CASES:
        return _numbered_files(folder, benchmark)
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    return _ordered_files(folder, benchmark, _by_case(files, folder, benchmark, layout))


def missing_files(files: Iterable[GeneratedFile]) -> list[GeneratedFile]:
    """Return the places without a file."""
    return [file for file in files if file.path is None]


def name_some(names: Sequence[str]) -> str:
    """Return the first ten names, and how many more there are."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _numbered_files(folder: Path, benchmark: Benchmark) -> list[GeneratedFile]:
    found: dict[tuple[str, int], Path] = {}
    cases = {case.name for case in benchmark.cases}
    foreign: list[str] = []
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in SUFFIXES:
            case = path.parent.relative_to(folder).as_posix()
            if case not in cases or not path.stem.isdecimal():
                foreign.append(path.relative_to(folder).as_posix())
            elif (place := (case, int(path.stem))) in found:
                raise ImagesError(f"{path} and {found[place].name} are both image {place[1]} of {case}: remove one")
            else:
                found[place] = path
    _refuse_foreign(foreign, folder, benchmark)
    _refuse_surplus([place for place in found if place[1] >= benchmark.images_per_case], folder, benchmark)
    return [
        GeneratedFile(case, index, found.get((case.name, index)))
        for case in benchmark.cases
        for index in range(benchmark.images_per_case)
    ]


def _refuse_foreign(foreign: Sequence[str], folder: Path, benchmark: Benchmark) -> None:
    if foreign:
        raise ImagesError(
            f"{folder}: {len(foreign)} images belong to no case of {benchmark.name}: {name_some(foreign)}; the first "
            f"case's images are {benchmark.cases[0].name}/0.png and on; move the others away, or name another layout"
        )


def _refuse_surplus(surplus: Sequence[tuple[str, int]], folder: Path, benchmark: Benchmark) -> None:
    if surplus:
        names = name_some([f"{case}/{index}" for case, index in surplus])
        raise ImagesError(
            f"{folder}: {len(surplus)} images more than the {benchmark.images_per_case} a case of {benchmark.name}: "
            f"{names}; raise evaluation.images_per_case, or move them away"
        )


CaseKey = tuple[tuple[str, ...], str]
"""Subjects and prompt of a case."""


def _by_case(
    files: Sequence[Path], folder: Path, benchmark: Benchmark, layout: ImageLayout
) -> Mapping[str, Sequence[Path]]:
    """Return the files of each case, by name; images without order keep that of their names."""
    read: Callable[[Path], CaseKey] = {
        ImageLayout.PROMPTS: _prompt_folder_key,
        ImageLayout.UNO: _uno_key,
        ImageLayout.KOSMOS_G: _kosmos_g_key,
    }[layout]
    cases = {(case.subjects, _words(case.prompt)): case.name for case in benchmark.cases}
    found: dict[str, list[Path]] = defaultdict(list)
    foreign = []
    for path in files:
        if (case := cases.get(read(path))) is None:
            foreign.append(path.relative_to(folder).as_posix())
        else:
            found[case].append(path)
    _refuse_foreign(foreign, folder, benchmark)
    return found


def _ordered_files(folder: Path, benchmark: Benchmark, found: Mapping[str, Sequence[Path]]) -> list[GeneratedFile]:
    surplus = [(case, index) for case, paths in found.items() for index in range(benchmark.images_per_case, len(paths))]
    _refuse_surplus(surplus, folder, benchmark)
    return [
        GeneratedFile(case, index, dict(enumerate(found.get(case.name, ()))).get(index))
        for case in benchmark.cases
        for index in range(benchmark.images_per_case)
    ]


def _prompt_folder_key(path: Path) -> CaseKey:
    return (path.parent.parent.name,), _words(path.parent.name)


def _uno_key(path: Path) -> CaseKey:
    settings = path.with_suffix(".json")
    try:
        job = json.loads(settings.read_bytes())
        return tuple(Path(image).parent.name for image in job["image_paths"]), _words(job["prompt"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ImagesError(
            f"{settings}: no prompt and image_paths of {path.name} ({error}); UNO's inference.py writes it"
        ) from None


def _kosmos_g_key(path: Path) -> CaseKey:
    subject, _, prompt = path.stem.partition("+")
    return (subject,), _words(prompt.split("+")[-1])


def _words(prompt: str) -> str:
    """Return a prompt as folders and files hold it: without regard to underscores, case and full stops."""
    return " ".join(prompt.replace("_", " ").lower().rstrip(".").split())
