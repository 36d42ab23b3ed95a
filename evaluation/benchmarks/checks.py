"""What every benchmark must satisfy, checked for those that a user provides."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from difflib import get_close_matches

from evaluation.benchmarks.benchmark import Benchmark, Case, RelativeBox, Subject

_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
"""Part of a name, which becomes a folder: `cat2`, `cat+dog`, `00`."""


class BenchmarkProblem(ValueError):
    """A benchmark contradicts itself; the message names the subject or case, the value and the remedy."""


def file_name(words: str) -> str:
    """Return words as part of a subject's name: in lower case, with underscores for all but letters and digits."""
    return re.sub("[^a-z0-9]", "_", words.lower())


def refuse_inconsistent(benchmark: Benchmark) -> None:
    """Check names, prompts and boxes of all subjects and cases.

    Raises:
        BenchmarkProblem: two cases share a name, a case names an unknown subject, a box lies outside the image, …
    """
    if not benchmark.cases:
        raise BenchmarkProblem("has no case: give `prompts` for each subject, or `cases`")
    for subject in benchmark.subjects.values():
        _check_subject(subject)
    for name, count in Counter(case.name for case in benchmark.cases).items():
        if count > 1:
            raise BenchmarkProblem(f"case {name!r} occurs {count} times; give each case its own name")
    for case in benchmark.cases:
        _check_case(case, benchmark.subjects.keys())


def _check_subject(subject: Subject) -> None:
    where = f"subject {subject.name!r}"
    _check_name(subject.name, where)
    _check_text(subject.class_name, f"{where}: class_name")
    _check_images(subject, where)
    if subject.region is not None:
        _check_box(subject.region, f"{where}: region")
        if len(subject.images) > 1:
            raise BenchmarkProblem(f"{where}: a region needs a single image, not {len(subject.images)}; cut it out")


def _check_images(subject: Subject, where: str) -> None:
    if subject.input_image not in subject.images:
        raise BenchmarkProblem(
            f"{where}: input_image {subject.input_image!r} is none of its images; choose one of "
            f"{', '.join(subject.images)}"
        )
    for image in subject.images:
        if subject.images.count(image) > 1:
            raise BenchmarkProblem(f"{where}: the image {image!r} occurs twice; list each image once")


def _check_case(case: Case, subjects: Iterable[str]) -> None:
    where = f"case {case.name!r}"
    for part in case.name.split("/"):
        _check_name(part, where)
    _check_text(case.prompt, f"{where}: prompt")
    for name in case.subjects:
        if name not in subjects:
            raise BenchmarkProblem(f"{where}: {name!r} is no subject of the file; {_suggestion(name, list(subjects))}")
    if len(set(case.subjects)) < len(case.subjects):
        raise BenchmarkProblem(f"{where}: a subject occurs twice in {', '.join(case.subjects)}; name each once")
    if len(case.boxes) not in (0, len(case.subjects)):
        raise BenchmarkProblem(
            f"{where} has {len(case.boxes)} boxes for {len(case.subjects)} subjects; give one for each, or none"
        )
    for box in case.boxes:
        _check_box(box, where)


def _check_name(name: str, where: str) -> None:
    if not _PART.fullmatch(name):
        raise BenchmarkProblem(
            f"{where}: {name!r} cannot be a folder's name; use letters, digits and . _ + -, a letter or digit first"
        )


def _check_text(text: str, where: str) -> None:
    if not text.strip():
        raise BenchmarkProblem(f"{where} is blank; give the words")


def _check_box(box: RelativeBox, where: str) -> None:
    left, top, right, bottom = box
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise BenchmarkProblem(
            f"{where}: the box {list(box)} does not lie in the image; give left, top, right, bottom as shares of its "
            "sides, such as [0.1, 0.3, 0.5, 0.9]"
        )


def _suggestion(name: str, names: Sequence[str]) -> str:
    close = get_close_matches(name, names, n=1)
    return f"did you mean {close[0]}?" if close else f"there are {', '.join(names[:10])}"
