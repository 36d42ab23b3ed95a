"""CustomConcept101: 101 concepts x 20 prompts, and 101 pairs of concepts x 12 prompts (Custom Diffusion).

The lists are under the Adobe Research License, for non-commercial research only, so they do not ship with the project:
they are read from the user's copy of `customconcept101/`, into which `benchmark_dataset.zip` was unpacked.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from evaluation.benchmarks.benchmark import Benchmark, Case, PromptGroup, Subject
from evaluation.benchmarks.copied import image_files, read_lines, read_text
from evaluation.errors import InvalidBenchmark

CURE = (
    "clone https://github.com/adobe-research/custom-diffusion, unpack benchmark_dataset.zip (its address is in "
    "customconcept101/README.md) in its folder customconcept101, and give that folder"
)
_SOURCE = "adobe-research/custom-diffusion customconcept101/ (the user's copy)"
_LICENCE = "Adobe Research License, non-commercial research only; images by licences of their own"
_NOTES = (
    "Prompts hold the class word without a unique token.",
    "Input image of a concept: its alphabetically first one.",
    "1 image per prompt, as MIP-Adapter; Custom Diffusion's README states no number.",
)

Parsed = TypeVar("Parsed")


class _Concept(BaseModel):
    class_prompt: str
    instance_data_dir: str
    prompt_filename: str


class _Joint(BaseModel):
    prompt_filename_compose: str


def concept101(copy: Path) -> Benchmark:
    """Return the single concepts of the user's copy.

    Raises:
        InvalidBenchmark: a file is missing or has another form; the message says where to get it.
    """
    concepts = _parse(copy / "dataset.json", TypeAdapter(list[_Concept]))
    subjects = [_subject(copy, concept) for concept in concepts]
    cases = [
        case
        for concept, subject in zip(concepts, subjects, strict=True)
        for case in _cases(copy / concept.prompt_filename, subject)
    ]
    return _benchmark("concept101", f"CustomConcept101, {len(subjects)} concepts", copy, subjects, cases)


def concept101_pairs(copy: Path) -> Benchmark:
    """Return the pairs of concepts of the user's copy.

    Raises:
        InvalidBenchmark: as `concept101`.
    """
    rows = _parse(copy / "dataset_multiconcept.json", TypeAdapter(list[tuple[_Concept, _Concept, _Joint]]))
    pairs = [([_subject(copy, concept) for concept in concepts], joint) for *concepts, joint in rows]
    subjects = [subject for pair, _ in pairs for subject in pair]
    cases = [case for pair, joint in pairs for case in _pair_cases(copy / joint.prompt_filename_compose, pair)]
    return _benchmark("concept101-pairs", f"CustomConcept101, {len(pairs)} pairs of concepts", copy, subjects, cases)


def _cases(prompts: Path, subject: Subject) -> Iterator[Case]:
    for index, prompt in enumerate(read_lines(prompts, CURE)):
        text = prompt.replace("{}", subject.class_name)
        yield Case(f"{subject.name}/{index:02d}", (subject.name,), text, PromptGroup.PLAIN)


def _pair_cases(prompts: Path, pair: Sequence[Subject]) -> Iterator[Case]:
    names = tuple(subject.name for subject in pair)
    first, second = (subject.class_name for subject in pair)
    for index, prompt in enumerate(read_lines(prompts, CURE)):
        text = prompt.replace("{0}", first).replace("{1}", second)
        yield Case(f"{'+'.join(names)}/{index:02d}", names, text, PromptGroup.PLAIN)


def _benchmark(name: str, title: str, copy: Path, subjects: Iterable[Subject], cases: Sequence[Case]) -> Benchmark:
    return Benchmark(
        name=name,
        title=f"{title} x {len(cases):,} prompts x 1 image",
        source=_SOURCE,
        licence=_LICENCE,
        subjects={subject.name: subject for subject in subjects},
        cases=tuple(cases),
        images_per_case=1,
        notes=_NOTES,
        images_folder=copy,
    )


def _subject(copy: Path, concept: _Concept) -> Subject:
    folder = Path(concept.instance_data_dir)
    images = image_files(copy, folder, CURE)
    return Subject(folder.name, concept.class_prompt, images, images[0])


def _parse(path: Path, form: TypeAdapter[Parsed]) -> Parsed:
    try:
        return form.validate_python(json.loads(read_text(path, CURE)))
    except ValidationError as error:
        first = error.errors()[0]
        key = "".join(f"[{part!r}]" for part in first["loc"])
        raise InvalidBenchmark(f"{path}{key}: {first['msg']} (got {str(first['input'])[:80]}): {CURE}") from None
    except ValueError as error:
        raise InvalidBenchmark(f"{path}: not JSON ({error}): {CURE}") from None
