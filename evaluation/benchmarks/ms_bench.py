"""MS-Bench: 40 subjects, 1,148 combinations of two or three of them in preset boxes, 4,488 cases (MS-Diffusion).

The repository publishes subjects, prompts and boxes; the combinations are all those of subjects of the listed kinds,
which yields exactly the published counts.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from enum import StrEnum
from itertools import combinations, product

from evaluation.benchmarks.benchmark import Benchmark, Case, PromptGroup, Subject
from evaluation.benchmarks.shipped import read_shipped
from infra.config import Config
from infra.ranges import Share


class _Kind(StrEnum):
    LIVING = "living"
    OBJECT = "object"
    UPWEARING = "upwearing"
    MIDWEARING = "midwearing"
    WHOLEWEARING = "wholewearing"
    DOWNWEARING = "downwearing"
    SCENE = "scene"


class _SubjectRow(Config):
    name: str
    class_name: str
    kind: _Kind
    image: str


class _Combination(Config):
    kinds: tuple[_Kind, ...]
    prompts: str
    boxes: tuple[tuple[Share, Share, Share, Share], ...]


class _Lists(Config):
    source: str
    licence: str
    subjects: tuple[_SubjectRow, ...]
    prompts: dict[str, tuple[str, ...]]
    combinations: tuple[_Combination, ...]


def ms_bench() -> Benchmark:
    """Return MS-Bench, one image per case; its folder of images is `msbench/` of its repository."""
    lists = read_shipped("ms_bench.toml", _Lists)
    return Benchmark(
        name="ms-bench",
        title="MS-Bench, 1,148 combinations of two or three subjects, 4,488 cases x 1 image",
        source=lists.source,
        licence=lists.licence,
        subjects={row.name: _subject(row) for row in lists.subjects},
        cases=tuple(case for combination in lists.combinations for case in _cases(lists, combination)),
        images_per_case=1,
        notes=(
            "Combinations are all those of subjects of the published kinds, in alphabetical order within a kind; their "
            "numbers, 1,148 and 4,488, are those of MS-Bench.",
            "Each subject has one image, its input; a comparison with other images of it is not possible.",
            "MS-Bench's evaluator (M-DINO) is unpublished.",
        ),
    )


def _subject(row: _SubjectRow) -> Subject:
    return Subject(row.name, row.class_name, (row.image,), row.image, live=row.kind is _Kind.LIVING)


def _cases(lists: _Lists, combination: _Combination) -> Iterator[Case]:
    wearing = any(kind.endswith("wearing") for kind in combination.kinds)
    for rows in _rows(lists.subjects, combination.kinds):
        names, words = tuple(row.name for row in rows), [row.class_name for row in rows]
        for index, prompt in enumerate(lists.prompts[combination.prompts]):
            yield Case(
                name=f"{'+'.join(names)}/{index:02d}",
                subjects=names,
                prompt=prompt.format(*words),
                group=PromptGroup.OUTFIT if wearing else PromptGroup.PLACE,
                boxes=combination.boxes,
            )


def _rows(subjects: Sequence[_SubjectRow], kinds: Sequence[_Kind]) -> Iterator[tuple[_SubjectRow, ...]]:
    """Yield all choices of one subject per kind; subjects of the same kind differ and their order does not count."""
    chosen = [
        combinations([row for row in subjects if row.kind is kind], count) for kind, count in Counter(kinds).items()
    ]
    for groups in product(*chosen):
        yield tuple(row for group in groups for row in group)
