"""Prompt templates, in which `{}` stands for the class words of the subjects."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from evaluation.benchmarks.benchmark import PromptGroup

PLACEHOLDER = "{}"
"""Stands for a class word in a template."""


@dataclass(frozen=True, slots=True)
class PromptTemplate:
    """A prompt with a placeholder for its subject."""

    text: str
    """Text with one `{}`, such as `a {} in the snow`."""
    group: PromptGroup
    """Kind of change that the prompt asks for."""

    def fill(self, class_word: str) -> str:
        """Return the prompt for one subject."""
        return self.text.replace(PLACEHOLDER, class_word)

    def join(self, class_words: Sequence[str]) -> str:
        """Return the prompt for several subjects: `a red {}` becomes `a red cat and a red dog`."""
        head, _, tail = self.text.partition(PLACEHOLDER)
        return " and ".join(head + word for word in class_words) + tail


def templates(texts: Iterable[str], group: PromptGroup) -> tuple[PromptTemplate, ...]:
    """Return templates of one group."""
    return tuple(PromptTemplate(text, group) for text in texts)
