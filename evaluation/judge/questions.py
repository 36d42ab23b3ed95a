"""Questions to a judge, in words of this project, and the form of its answers.

DreamBench++ asks for two integers of 0 to 4, concept preservation and prompt following, and so do these. Its wording is
not copied, so scores are comparable only with those of the same questions, whose hash is part of the stamp.
"""

import json
import re
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from pathlib import Path

BEST = 4
"""Best grade; a score is the grade as a share of it."""
_FORM = 'Answer with one JSON object and nothing else: {"grade": an integer of 0 to 4, "reason": "one sentence"}.'
LIKENESS = f"""\
You compare two pictures. The first is a photo of a subject; the second was made by a program that was asked to show the
same subject. Grade how much the subject of the second picture is that of the first: its shape, its colours, its surface
and texture, and the marks by which its owner would know it. Ignore place, light, pose, view, style and size. A person
must be the same person, an animal the same individual.
4: the same subject, as far as can be seen. 3: the same but for small details. 2: alike, with clear differences.
1: of the same kind only. 0: another kind of thing, or no subject at all.
{_FORM}"""
PROMPT = f"""\
You check a picture against the request that it was made for. Grade how well the picture shows what the request says:
each thing, number, attribute, action, relation, place and style that it names. Ignore the picture's beauty, and
anything that the request leaves open.
4: all of it. 3: all but a detail. 2: about half. 1: little. 0: nothing.
{_FORM}
The request is: """
QUESTIONS_HASH = sha256(f"{LIKENESS}\n{PROMPT}".encode()).hexdigest()
"""SHA-256 of the questions."""


class Criterion(StrEnum):
    """What a judge grades."""

    CONCEPT_PRESERVATION = "concept_preservation"
    """Likeness of the subject to a reference."""
    PROMPT_FOLLOWING = "prompt_following"
    """Agreement of the image with its prompt."""


@dataclass(frozen=True, slots=True)
class Question:
    """A question about one image."""

    criterion: Criterion
    image: Path
    """The generated image."""
    reference: Path | None = None
    """Photo of the subject, for concept preservation."""
    prompt: str = ""
    """Prompt of the image, for prompt following."""
    run: int = 0
    """Number of the repetition; DreamBench++ asks three times."""

    @property
    def text(self) -> str:
        """Words that are sent beside the images."""
        return LIKENESS if self.criterion is Criterion.CONCEPT_PRESERVATION else PROMPT + self.prompt

    @property
    def images(self) -> tuple[Path, ...]:
        """Images in the order in which they are sent."""
        return (self.image,) if self.reference is None else (self.reference, self.image)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Answer of a judge to one question."""

    score: float | None
    """Grade as a share of the best one, 0 to 1; None for an answer in another form."""
    answer: str
    """The answer as it came."""


def read_answer(answer: str) -> Verdict:
    """Return the verdict of an answer, which may have words around its JSON object."""
    found = re.search(r"\{.*\}", answer, re.DOTALL)
    try:
        grade = json.loads(found[0])["grade"] if found else None
    except (ValueError, KeyError, TypeError):
        grade = None
    if isinstance(grade, bool) or not isinstance(grade, int) or not 0 <= grade <= BEST:
        return Verdict(None, answer)
    return Verdict(grade / BEST, answer)
