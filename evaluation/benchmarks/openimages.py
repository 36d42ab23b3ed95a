"""An open-domain test list from Open Images: two entities of each of 296 classes (the paper's Sec. 4.1).

The paper names neither images, prompts nor filters, so a rule makes the list from the published boxes: of the boxes of
single things that pass the paper's filters of training data, a seeded hash of the image's id chooses. The CSVs are read
once, row by row; memory depends on the number of classes alone.
"""

import hashlib
from bisect import insort
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from pydantic import Field

from evaluation.benchmarks.benchmark import Benchmark, Case, RelativeBox, Subject
from evaluation.benchmarks.checks import file_name
from evaluation.benchmarks.dreambench import dreambench_prompts
from evaluation.benchmarks.openimages_csv import BoxRow, class_names, single_boxes
from evaluation.benchmarks.prompts import PromptTemplate
from evaluation.benchmarks.shipped import read_shipped
from evaluation.errors import InvalidBenchmark
from infra.config import Config
from infra.ranges import Count, Factor, Seed, Share

_TITLE = "Open Images, {classes} classes x {each} entities x 25 prompts x {images} images"
_SOURCE = "Open Images V6, boxes of the splits {splits}; images chosen by the rule of this project, seed {seed}"
_WARNING = "ELITE's released model is trained on the test split: its scores on this list are not comparable."


class OpenImagesRule(Config):
    """Rule that chooses entities. The defaults are the paper's filters and counts (App. B.1, Sec. 4.1)."""

    seed: Seed = 0
    """Seed of the hash that chooses classes and images."""
    classes: Count = 296
    """Number of classes, if as many have enough entities."""
    entities_per_class: Count = 2
    """Number of entities of each class, in different images."""
    min_area: Share = 0.05
    """Smallest share of the image that an entity's box covers."""
    max_area: Share = 0.7
    """Largest share of the image that an entity's box covers."""
    min_ratio: Factor = 0.3
    """Smallest width of a box by its height, both as shares of the image's sides."""
    max_ratio: Factor = 3.0
    """Largest width of a box by its height, both as shares of the image's sides."""
    images_per_case: Count = Field(default=4)
    """Number of images to generate for each prompt."""

    def accepts(self, box: RelativeBox) -> bool:
        """Return whether size and proportions of a box are in range."""
        left, top, right, bottom = box
        width, height = right - left, bottom - top
        if width <= 0 or height <= 0:
            return False
        return self.min_area <= width * height <= self.max_area and self.min_ratio <= width / height <= self.max_ratio


class _Classes(Config):
    body_parts: dict[str, str]
    live: dict[str, str]


@dataclass(frozen=True, slots=True, order=True)
class _Entity:
    """An entity that may be chosen; entities are ordered by their hash."""

    rank: bytes
    image: str
    box: RelativeBox

    @property
    def area(self) -> float:
        left, top, right, bottom = self.box
        return (right - left) * (bottom - top)


@cache
def _classes() -> _Classes:
    return read_shipped("openimages.toml", _Classes)


def body_parts() -> frozenset[str]:
    """Return the classes of parts of the human body, which rule 7 of App. B.1 leaves out."""
    return frozenset(_classes().body_parts)


def build_openimages_benchmark(
    boxes: Mapping[str, Path], classes: Path, rule: OpenImagesRule | None = None
) -> Benchmark:
    """Choose entities from Open Images' boxes, and give each the 25 prompts of DreamBench.

    Args:
        boxes: CSV of boxes by split, such as `{"validation": Path("validation-annotations-bbox.csv"), …}`. The split
            is the folder of its images: `validation/0001eeaf4aed83f9.jpg`.
        classes: CSV of the classes' names, such as `class-descriptions-boxable.csv`.
        rule: what to choose; None for the paper's numbers.

    Raises:
        InvalidBenchmark: a CSV is missing or malformed, or no class has enough entities.
    """
    rule = rule or OpenImagesRule()
    names = class_names(classes)
    rows = (row for split, path in boxes.items() for row in single_boxes(path, split, names))
    chosen = _choose_classes(_choose_entities(rows, rule), rule)
    if not chosen:
        files = ", ".join(map(str, boxes.values()))
        raise InvalidBenchmark(
            f"{files}: no class has {rule.entities_per_class} entities that pass the rule; give whole splits"
        )
    entities = [
        _subject(label, names[label], number, entity)
        for label in sorted(chosen, key=lambda label: (names[label], label))
        for number, entity in enumerate(chosen[label], 1)
    ]
    if len({subject.name for subject in entities}) < len(entities):
        raise InvalidBenchmark(f"{classes}: two classes have the same name: give the list of the boxable classes alone")
    return _benchmark(entities, rule, tuple(boxes), len(chosen))


def _choose_entities(rows: Iterator[BoxRow], rule: OpenImagesRule) -> Mapping[str, list[_Entity]]:
    """Return the entities of each class with the largest hashes, in ascending order."""
    kept: dict[str, list[_Entity]] = defaultdict(list)
    for row in rows:
        if row.label not in _classes().body_parts and rule.accepts(row.box):
            entity = _Entity(_hash(rule.seed, row.image), row.image, row.box)
            _keep(kept[row.label], entity, rule.entities_per_class)
    return kept


def _keep(kept: list[_Entity], entity: _Entity, limit: int) -> None:
    """Add an entity to the `limit` ones with the largest hashes; of one image, the one with the largest box counts."""
    same = next((other for other in kept if other.image == entity.image), None)
    if same is not None:
        if entity.area <= same.area:
            return
        kept.remove(same)
    insort(kept, entity)
    if len(kept) > limit:
        kept.pop(0)


def _choose_classes(entities: Mapping[str, list[_Entity]], rule: OpenImagesRule) -> Mapping[str, list[_Entity]]:
    """Return the classes with enough entities that have the largest hashes."""
    enough = [label for label, own in entities.items() if len(own) == rule.entities_per_class]
    enough.sort(key=lambda label: _hash(rule.seed, label), reverse=True)
    return {label: entities[label] for label in enough[: rule.classes]}


def _hash(seed: int, text: str) -> bytes:
    return hashlib.sha256(f"{seed}:{text}".encode()).digest()


def _subject(label: str, class_name: str, number: int, entity: _Entity) -> Subject:
    word = class_name.lower()
    image = f"{entity.image}.jpg"
    return Subject(f"{file_name(word)}-{number}", word, (image,), image, label in _classes().live, entity.box)


def _benchmark(entities: list[Subject], rule: OpenImagesRule, splits: tuple[str, ...], classes: int) -> Benchmark:
    return Benchmark(
        name="openimages",
        title=_TITLE.format(classes=classes, each=rule.entities_per_class, images=rule.images_per_case),
        source=_SOURCE.format(splits=" and ".join(splits), seed=rule.seed),
        licence="CC-BY-4.0 (annotations, Google LLC; prompts, DreamBench); each image has a licence of its own",
        subjects={subject.name: subject for subject in entities},
        cases=tuple(case for subject in entities for case in _cases(subject)),
        images_per_case=rule.images_per_case,
        notes=(
            "Choice: the paper names no images, prompts or filters of its 296 classes with two entities each.",
            f"Boxes: IsGroupOf = 0, no body parts, area {rule.min_area:g} to {rule.max_area:g} of the image, sides "
            f"{rule.min_ratio:g} to {rule.max_ratio:g} of the image's. Of each class, the images with the "
            f"largest SHA-256 of `{rule.seed}:SPLIT/ID`; of an image, the largest box.",
            "An entity is the box of its only image. Prompts are DreamBench's: those of live subjects for animals and "
            "people, those of objects for the rest.",
            _WARNING,
        ),
    )


def _cases(subject: Subject) -> Iterator[Case]:
    for index, prompt in enumerate(dreambench_prompts(subject.live)):
        yield Case(f"{subject.name}/{index:02d}", (subject.name,), _fill(prompt, subject.class_name), prompt.group)


def _fill(prompt: PromptTemplate, word: str) -> str:
    """Return the prompt with the article that the class word asks for: `an owl`."""
    vowel = word[0] in "aeiou" and not word.startswith("uni")
    return prompt.fill(word).replace(f"a {word}", f"an {word}" if vowel else f"a {word}")
