"""The arguments of one call of the pipeline, checked, and spread over the images that it generates."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from model.inputs.reference import Subject

Generators = torch.Generator | Sequence[torch.Generator] | None
"""One generator for all images of a call, one for each, or none for fresh noise."""


@dataclass(frozen=True)
class Row:
    """One image of a call."""

    prompt: str
    """Text of the prompt; empty if its condition was given."""
    negative_prompt: str
    """Text that guidance leads away from; empty for none."""
    subjects: tuple[Subject, ...]
    """Subjects of the image."""
    layout_rng: np.random.Generator
    """Source of random boxes, seeded like the noise."""


def spread_rows(
    prompt: str | Sequence[str],
    negative_prompt: str | Sequence[str] | None,
    subjects: Sequence[Subject] | Sequence[Sequence[Subject]],
    images_per_prompt: int,
    generator: Generators,
    max_subjects: int,
) -> list[Row]:
    """Return one row per image: the images of the first prompt, then those of the second and so on.

    Args:
        prompt: one prompt or several.
        negative_prompt: one for all prompts or one for each.
        subjects: subjects of all images, or a list of subjects for each prompt.
        images_per_prompt: number of images of each prompt.
        generator: generators of the noise.
        max_subjects: number of subjects that the model takes.

    Raises:
        ValueError: an argument is of the wrong kind or length, or an image has too many subjects.
    """
    prompts = _list_texts(prompt, "prompt")
    negatives = _repeat(_list_texts(negative_prompt or "", "negative_prompt"), len(prompts), "negative_prompt")
    by_prompt = _subjects_by_prompt(subjects, len(prompts))
    if images_per_prompt < 1:
        raise ValueError(f"num_images_per_prompt={images_per_prompt}: give 1 or more")
    for text, of_prompt in zip(prompts, by_prompt, strict=True):
        if len(of_prompt) > max_subjects:
            raise ValueError(
                f"{len(of_prompt)} subjects for {text!r}, but model.max_subjects={max_subjects}: give fewer"
            )
    sources = _layout_sources(generator, len(prompts) * images_per_prompt)
    rows = [
        (text, negative, of_prompt)
        for text, negative, of_prompt in zip(prompts, negatives, by_prompt, strict=True)
        for _ in range(images_per_prompt)
    ]
    return [Row(*row, source) for row, source in zip(rows, sources, strict=True)]


def _list_texts(texts: str | Sequence[str], argument: str) -> list[str]:
    listed = [texts] if isinstance(texts, str) else texts
    if not isinstance(listed, Sequence) or not listed or not all(isinstance(text, str) for text in listed):
        raise ValueError(f"{argument}={texts!r}: give a string, which may be empty, or a list of strings")
    return list(listed)


def _repeat(texts: list[str], count: int, argument: str) -> list[str]:
    if len(texts) not in (1, count):
        raise ValueError(f"{len(texts)} texts in {argument} for {count} prompts: give one, or one for each prompt")
    return texts * count if len(texts) == 1 else texts


def _subjects_by_prompt(
    subjects: Sequence[Subject] | Sequence[Sequence[Subject]], prompts: int
) -> list[tuple[Subject, ...]]:
    if not isinstance(subjects, Sequence):
        raise ValueError(f"subjects={subjects!r}: give a list of `Subject`, or one list for each prompt")
    shared = [subject for subject in subjects if isinstance(subject, Subject)]
    if len(shared) == len(subjects):
        return [tuple(shared)] * prompts
    lists = [tuple(each) for each in subjects if isinstance(each, Sequence)]
    if len(lists) != prompts or not all(isinstance(one, Subject) for each in lists for one in each):
        raise ValueError(f"subjects is neither a list of `Subject` nor one such list for each of {prompts} prompts")
    return lists


def _layout_sources(generator: Generators, images: int) -> list[np.random.Generator]:
    if generator is None or isinstance(generator, torch.Generator):
        return [np.random.default_rng(None if generator is None else generator.initial_seed())] * images
    if len(generator) != images:
        raise ValueError(f"{len(generator)} generators for {images} images: give one, or one for each image")
    return [np.random.default_rng(one.initial_seed()) for one in generator]
