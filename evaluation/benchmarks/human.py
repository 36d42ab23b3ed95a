"""FastComposer's single-subject human list, the paper's Table 4: 15 identities x 40 prompts x 4 images.

The faces are images of CelebA, which are for non-commercial research and do not ship with the project.
"""

from evaluation.benchmarks.benchmark import Benchmark, Case, PromptGroup, Subject
from evaluation.benchmarks.prompts import PromptTemplate, templates
from evaluation.benchmarks.shipped import read_shipped
from infra.config import Config
from infra.ranges import Count


class _Lists(Config):
    source: str
    licence: str
    images_per_case: Count
    man: tuple[str, ...]
    woman: tuple[str, ...]
    prompts: dict[PromptGroup, tuple[str, ...]]


def human() -> Benchmark:
    """Return FastComposer's list."""
    lists = read_shipped("human.toml", _Lists)
    subjects = {name: _subject(name, "man" if name in lists.man else "woman") for name in _identities(lists)}
    cases = tuple(
        Case(f"{subject.name}/{index:02d}", (subject.name,), prompt.fill(subject.class_name), prompt.group)
        for subject in subjects.values()
        for index, prompt in enumerate(_prompts(lists))
    )
    return Benchmark(
        name="human",
        title="FastComposer's 15 identities of CelebA x 40 prompts x 4 images",
        source=lists.source,
        licence=f"{lists.licence} (list); the images of CelebA are for non-commercial research and do not ship",
        subjects=subjects,
        cases=cases,
        images_per_case=lists.images_per_case,
        notes=(
            "FastComposer reads the alphabetically first *.jpg of the folder ID; here the file is ID/0.jpg.",
            "Prompts hold the class word, man or woman, without a unique token, as FastComposer scores them.",
        ),
    )


def _identities(lists: _Lists) -> list[str]:
    return sorted(lists.man + lists.woman)


def _prompts(lists: _Lists) -> list[PromptTemplate]:
    return [prompt for group, texts in lists.prompts.items() for prompt in templates(texts, group)]


def _subject(name: str, class_name: str) -> Subject:
    image = f"{name}/0.jpg"
    return Subject(name, class_name, (image,), image, live=True)
