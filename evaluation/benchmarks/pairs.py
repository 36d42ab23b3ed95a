"""Two subjects of DreamBench in one image: the 30 pairs of the paper's Table 8, and UNO's 30 pairs.

The two lists share four pairs, and their prompts differ, so their scores are not comparable.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache

from evaluation.benchmarks.benchmark import Benchmark, Case, PromptGroup, Subject
from evaluation.benchmarks.dreambench import InputChoice, dreambench_prompts, dreambench_subjects
from evaluation.benchmarks.prompts import PromptTemplate
from evaluation.benchmarks.shipped import read_shipped
from infra.config import Config

Pair = tuple[str, str]
"""Names of two subjects, in the order of the prompt."""

_PAPER = "Subject-Diffusion (Ma, Liang, Chen, Lu, 2023), App. D, Table 8, over google/dreambooth@4f887af"
_UNO = "bytedance/UNO@d305981 datasets/dreambench_multiip.json, over google/dreambooth@4f887af"
_WORDING = (
    'Choice: the paper joins the two subjects with "and" and gives no example of an attribute or an outfit. Here '
    "all prompts repeat the article and the attribute: `a red cat and a red dog`, `a cat and a dog wearing a red hat`."
)
_PROMPTS = "Choice: the first 21 pairs get DreamBench's prompts of objects, the 9 pairs of animals those of animals."
_SAME_CLASS = "Six pairs are two dogs, which a prompt of class words cannot tell apart."
_UNUSED = "The subjects dog, monster_toy, rc_car and red_cartoon occur in no pair, though App. D speaks of all objects."
_INPUTS = "Input image of a subject: its alphabetically first one."


class _Lists(Config):
    table_8: tuple[Pair, ...]
    uno: tuple[Pair, ...]


@cache
def _lists() -> _Lists:
    return read_shipped("pairs.toml", _Lists)


def table_8_pairs() -> Benchmark:
    """Return the paper's 30 pairs as published, 6 images per prompt."""
    duplicates = (
        "Three pairs occur twice, in reversed order: (shiny_sneaker, poop_emoji), (duck_toy, can), (dog6, dog8); "
        "dreambench-pairs-unique holds each once."
    )
    notes = (_WORDING, _PROMPTS, duplicates, _SAME_CLASS, _UNUSED, _INPUTS)
    return _paper_benchmark("dreambench-pairs", _lists().table_8, notes)


def unique_table_8_pairs() -> Benchmark:
    """Return the 27 unordered pairs of the paper's 30, each in the order of its first occurrence."""
    left_out = "Left out are the reversed duplicates: (poop_emoji, shiny_sneaker), (can, duck_toy), (dog8, dog6)."
    notes = (_WORDING, _PROMPTS, left_out, _SAME_CLASS, _UNUSED, _INPUTS)
    return _paper_benchmark("dreambench-pairs-unique", unordered(_lists().table_8), notes)


def uno_pairs() -> Benchmark:
    """Return UNO's 10 pairs of objects, 10 of live subjects and 10 mixed ones, 1 image per prompt."""
    subjects = dreambench_subjects(InputChoice.UNO)
    return Benchmark(
        name="uno-pairs",
        title="UNO's 30 pairs of DreamBench's subjects x 25 prompts x 1 image",
        source=_UNO,
        licence="Apache-2.0 (pairs and wording), CC-BY-4.0 (DreamBench)",
        subjects=used_subjects(subjects, _lists().uno),
        cases=tuple(case for pair in _lists().uno for case in _uno_cases([subjects[name] for name in pair])),
        images_per_case=1,
        notes=(
            "Prompts equal UNO's: outfits and attributes of a live subject go to the first alone: "
            "`a red cat, next to it is a dog`.",
            "1 image per prompt, the default of UNO's inference.py; UNO repeats it with several seeds.",
            "Input image of a subject: the one in UNO's list.",
        ),
    )


def unordered(pairs: Iterable[Pair]) -> tuple[Pair, ...]:
    """Return pairs without those that occurred before in either order."""
    first: dict[frozenset[str], Pair] = {}
    for pair in pairs:
        first.setdefault(frozenset(pair), pair)
    return tuple(first.values())


def used_subjects(subjects: Mapping[str, Subject], combinations: Iterable[Sequence[str]]) -> Mapping[str, Subject]:
    """Return the subjects that occur in a combination, in their original order."""
    used = {name for names in combinations for name in names}
    return {name: subject for name, subject in subjects.items() if name in used}


def _paper_benchmark(name: str, pairs: Sequence[Pair], notes: tuple[str, ...]) -> Benchmark:
    subjects = dreambench_subjects(InputChoice.FIRST)
    return Benchmark(
        name=name,
        title=f"Table 8's {len(pairs)} pairs of DreamBench's subjects x 25 prompts x 6 images",
        source=_PAPER,
        licence="CC-BY-4.0 (DreamBench); the pairs are facts of the paper",
        subjects=used_subjects(subjects, pairs),
        cases=tuple(case for pair in pairs for case in _paper_cases([subjects[name] for name in pair])),
        images_per_case=6,
        notes=notes,
    )


def _paper_cases(pair: Sequence[Subject]) -> Iterable[Case]:
    words = [subject.class_name for subject in pair]
    for index, prompt in enumerate(dreambench_prompts(all(subject.live for subject in pair))):
        yield _case(pair, index, prompt.join(words), prompt.group)


def _uno_cases(pair: Sequence[Subject]) -> Iterable[Case]:
    live = pair[0].live
    for index, prompt in enumerate(dreambench_prompts(live)):
        yield _case(pair, index, _uno_prompt(prompt, pair, live), prompt.group)


def _uno_prompt(prompt: PromptTemplate, pair: Sequence[Subject], live: bool) -> str:
    first, second = (subject.class_name for subject in pair)
    if live and prompt.group is not PromptGroup.PLACE:
        return f"{prompt.fill(first)}, next to it is a {second}"
    return prompt.join((first, second))


def _case(pair: Sequence[Subject], index: int, prompt: str, group: PromptGroup) -> Case:
    names = tuple(subject.name for subject in pair)
    return Case(f"{'+'.join(names)}/{index:02d}", names, prompt, group)
