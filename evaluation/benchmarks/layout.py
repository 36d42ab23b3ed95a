"""One, two and three subjects of DreamBench in requested boxes, so that boxes can be scored without another download.

The boxes of a case rotate with its prompt: the order of the subjects in the prompt does not tell their places.
"""

from collections.abc import Iterator, Sequence

from evaluation.benchmarks.benchmark import Benchmark, Case, PromptGroup, RelativeBox, Subject
from evaluation.benchmarks.dreambench import InputChoice, dreambench_subjects
from evaluation.benchmarks.shipped import read_shipped
from infra.config import Config
from infra.ranges import CountOrZero, Share

_Boxes = tuple[tuple[Share, Share, Share, Share], ...]


class _Lists(Config):
    places: tuple[str, ...]
    boxes_1: _Boxes
    boxes_2: _Boxes
    boxes_3: _Boxes
    offsets_2: tuple[CountOrZero, ...]
    offsets_3: tuple[CountOrZero, ...]


def layout() -> Benchmark:
    """Return 30 subjects, 30 pairs and 30 triples x 6 places; the subjects of a case differ in class."""
    lists = read_shipped("layout.toml", _Lists)
    subjects = dreambench_subjects(InputChoice.FIRST)
    order = tuple(subjects.values())
    cases = (
        *_cases(order, (0,), lists.places, lists.boxes_1),
        *_cases(order, lists.offsets_2, lists.places, lists.boxes_2),
        *_cases(order, lists.offsets_3, lists.places, lists.boxes_3),
    )
    return Benchmark(
        name="layout",
        title="Layout: one, two and three of DreamBench's subjects in requested boxes, 540 cases x 1 image",
        source="this project, over google/dreambooth@4f887af; boxes of MS-Diffusion/MS-Diffusion@74eb2d6",
        licence="Apache-2.0 (list), MIT (boxes), CC-BY-4.0 (DreamBench)",
        subjects=subjects,
        cases=cases,
        images_per_case=1,
        notes=(
            "A list of this project without published scores; MS-Bench's own list is the benchmark ms-bench.",
            "The boxes of a case rotate with its prompt, so that the order of the subjects does not tell their places.",
            "Input image of a subject: its alphabetically first one.",
        ),
    )


def _cases(
    order: Sequence[Subject], offsets: Sequence[int], places: Sequence[str], boxes: Sequence[RelativeBox]
) -> Iterator[Case]:
    for start in range(len(order)):
        group = [order[(start + offset) % len(order)] for offset in offsets]
        names = tuple(subject.name for subject in group)
        for index, place in enumerate(places):
            shown = tuple(boxes[(index + i) % len(boxes)] for i in range(len(group)))
            prompt = f"{_list_words([subject.class_name for subject in group])} {place}"
            yield Case(f"{'+'.join(names)}/{index:02d}", names, prompt, PromptGroup.PLACE, shown)


def _list_words(words: Sequence[str]) -> str:
    """Return `a cat`, `a cat and a dog` or `a cat, a dog, and a toy`, the wording of MS-Bench."""
    *head, last = (f"a {word}" for word in words)
    if not head:
        return last
    return f"{head[0]} and {last}" if len(head) == 1 else f"{', '.join(head)}, and {last}"
