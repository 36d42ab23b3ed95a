"""DreamBench: 30 subjects of 15 classes, 25 prompts each (Ruiz et al., DreamBooth, CVPR 2023).

Prompts hold the class word without DreamBooth's unique token: the wording that CLIP-T compares an image with, which is
also that of UNO's 750 prompts.
"""

from collections.abc import Mapping
from enum import StrEnum
from functools import cache

from evaluation.benchmarks.benchmark import Benchmark, Case, PromptGroup, Subject
from evaluation.benchmarks.prompts import PromptTemplate, templates
from evaluation.benchmarks.shipped import read_shipped
from infra.config import Config
from infra.ranges import Count

_FILE = "dreambench.toml"
VARIANTS = ("dreambench", "dreambench-4", "dreambench-1", "dreambench-uno", "dreambench-kosmos-g")
"""Benchmarks over the 750 prompts; they differ in input images and number of images per prompt."""


class InputChoice(StrEnum):
    """Choice of the one image of each subject that a model gets."""

    FIRST = "first"
    """The alphabetically first, `00.jpg`: the choice of Subject-Diffusion's released code."""
    UNO = "uno"
    """The fixed list of UNO, which equals that of Kosmos-G."""


class _SubjectRow(Config):
    name: str
    class_name: str
    images: Count
    uno_input: str
    live: bool = False


class _Prompts(Config):
    places: tuple[str, ...]
    object_places: tuple[str, ...]
    live_outfits: tuple[str, ...]
    attributes: tuple[str, ...]


class _Variant(Config):
    title: str
    images_per_case: Count
    inputs: InputChoice
    notes: tuple[str, ...]


class _Lists(Config):
    source: str
    licence: str
    notes: tuple[str, ...]
    subjects: tuple[_SubjectRow, ...]
    prompts: _Prompts
    variants: dict[str, _Variant]


@cache
def _lists() -> _Lists:
    return read_shipped(_FILE, _Lists)


def dreambench(variant: str) -> Benchmark:
    """Return one of `VARIANTS`.

    Raises:
        KeyError: there is no such variant.
    """
    lists = _lists()
    chosen = lists.variants[variant]
    subjects = dreambench_subjects(chosen.inputs)
    cases = tuple(
        Case(f"{subject.name}/{index:02d}", (subject.name,), prompt.fill(subject.class_name), prompt.group)
        for subject in subjects.values()
        for index, prompt in enumerate(dreambench_prompts(subject.live))
    )
    return Benchmark(
        name=variant,
        title=chosen.title,
        source=lists.source,
        licence=lists.licence,
        subjects=subjects,
        cases=cases,
        images_per_case=chosen.images_per_case,
        notes=lists.notes + chosen.notes,
    )


def dreambench_subjects(inputs: InputChoice) -> Mapping[str, Subject]:
    """Return the 30 subjects by name, in the order of the published list."""
    return {row.name: _subject(row, inputs) for row in _lists().subjects}


def dreambench_prompts(live: bool) -> tuple[PromptTemplate, ...]:
    """Return the 25 prompts of an object, or of a live subject, in the published order."""
    prompts = _lists().prompts
    own = (
        templates(prompts.live_outfits, PromptGroup.OUTFIT)
        if live
        else templates(prompts.object_places, PromptGroup.PLACE)
    )
    return (
        *templates(prompts.places, PromptGroup.PLACE),
        *own,
        *templates(prompts.attributes, PromptGroup.ATTRIBUTE),
    )


def _subject(row: _SubjectRow, inputs: InputChoice) -> Subject:
    images = tuple(f"{row.name}/{index:02d}.jpg" for index in range(row.images))
    chosen = images[0] if inputs is InputChoice.FIRST else f"{row.name}/{row.uno_input}"
    return Subject(row.name, row.class_name, images, chosen, row.live)
