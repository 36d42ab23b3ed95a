"""What a benchmark asks of a model: images of given subjects, for given prompts.

A benchmark holds no pixels. Its subjects name their images relative to a folder of the user; its cases name subjects.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import Path

RelativeBox = tuple[float, float, float, float]
"""Box as shares of the image's sides, 0 to 1: left, top, right, bottom."""


class PromptGroup(StrEnum):
    """Kind of change that a prompt asks for; scores are also given by group (the paper's App. G)."""

    PLACE = "place"
    """Another place or background."""
    ATTRIBUTE = "attribute"
    """Another colour, material or shape of the subject."""
    OUTFIT = "outfit"
    """Clothes or accessories that the subject wears."""
    STYLE = "style"
    """Another style of the picture."""
    ACTION = "action"
    """Something that the subject does."""
    PLAIN = "plain"
    """No change named: the subject alone, or a free description."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A subject with its reference images."""

    name: str
    """Name that is unique in the benchmark, such as `cat2`."""
    class_name: str
    """Class word in prompts, such as `cat`."""
    images: tuple[str, ...]
    """Paths of all real images, relative to the folder of the benchmark's images."""
    input_image: str
    """The one of `images` that a model gets as reference."""
    live: bool = False
    """Whether the subject is a person or an animal, which decides its prompts in DreamBench."""
    region: RelativeBox | None = None
    """Box of the subject in its only image; None where images as a whole show it. `cut_entities` cuts it out."""


@dataclass(frozen=True, slots=True)
class Case:
    """One prompt for one or several subjects; a model generates several images of it."""

    name: str
    """Path-like name that is unique in the benchmark, such as `cat2/03`."""
    subjects: tuple[str, ...]
    """Names of the subjects, in the prompt's order."""
    prompt: str
    """Prompt with class words in place of unique tokens, as it is scored: `a cat in the snow`."""
    group: PromptGroup
    """Kind of change that the prompt asks for."""
    boxes: tuple[RelativeBox, ...] = ()
    """Requested box of each subject; empty where the benchmark presets none."""


@dataclass(frozen=True)
class Benchmark:
    """Subjects and cases with their origin."""

    name: str
    """Name, such as `dreambench`."""
    title: str
    """Name in reports, such as `DreamBench, 30 subjects x 25 prompts`."""
    source: str
    """Where the list comes from: publication, repository and commit."""
    licence: str
    """Licence of the list."""
    subjects: Mapping[str, Subject]
    """Subjects by name."""
    cases: tuple[Case, ...]
    """All cases, in a fixed order."""
    images_per_case: int
    """Number of images to generate for each case."""
    notes: tuple[str, ...] = ()
    """Choices where the publication is silent, for the header of a report."""
    images_folder: Path | None = None
    """Folder of the subjects' images, if the benchmark's file names one; otherwise the user gives it."""

    @cached_property
    def image_count(self) -> int:
        """Number of images of a complete run."""
        return len(self.cases) * self.images_per_case
