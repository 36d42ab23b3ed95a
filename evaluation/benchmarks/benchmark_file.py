"""A benchmark as one file: a user's own subjects in TOML, or a complete list in JSON.

    title = "Things on my desk"
    prompts = "dreambench"

    [[subjects]]
    name = "mug"
    class_name = "mug"
    images = ["mug/front.jpg", "mug/side.jpg"]

Both syntaxes have the same keys; images are relative to `images_folder`, and that to the folder of the file.
"""

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, ValidationError

from evaluation.benchmarks.benchmark import Benchmark, Case, PromptGroup, Subject
from evaluation.benchmarks.checks import BenchmarkProblem, refuse_inconsistent
from evaluation.benchmarks.dreambench import dreambench_prompts
from evaluation.benchmarks.prompts import PromptTemplate, templates
from evaluation.benchmarks.references import reference_files
from evaluation.errors import InvalidBenchmark
from infra.config import Config
from infra.ranges import Count, Share
from infra.storage import publish_bytes, storage_path

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

_Box = tuple[Share, Share, Share, Share]
_Text = Field(min_length=1, max_length=10_000)


class _SubjectTable(Config):
    name: str = _Text
    """Name that is unique in the file; part of paths."""
    class_name: str = _Text
    """Class word in prompts."""
    images: tuple[str, ...] = Field(min_length=1)
    """Real images, relative to `images_folder`."""
    input_image: str | None = None
    """The one of `images` that a model gets; None for the first."""
    live: bool = False
    """Whether the subject is a person or an animal."""
    region: _Box | None = None
    """Box of the subject in its only image."""


class _CaseTable(Config):
    name: str | None = None
    """Unique name; None for the subjects' names and the number of the case."""
    subjects: tuple[str, ...] = Field(min_length=1)
    """Names of the subjects, in the prompt's order."""
    prompt: str = _Text
    """Prompt with class words."""
    group: PromptGroup = PromptGroup.PLAIN
    """Kind of change that the prompt asks for."""
    boxes: tuple[_Box, ...] = ()
    """Requested box of each subject, or none."""


class _File(Config):
    name: str | None = None
    """Name; None for that of the file."""
    title: str | None = None
    """Name in reports; None for the name."""
    source: str = "the user's own file"
    """Where the list comes from."""
    licence: str = "not stated"
    """Licence of the list."""
    images_folder: Path | None = None
    """Folder of the images, relative to that of the file; None for that of the file in TOML, and for none in JSON."""
    images_per_case: Count = 4
    """Number of images to generate for each case."""
    notes: tuple[str, ...] = ()
    """Lines for the header of a report."""
    prompts: Literal["dreambench"] | tuple[str, ...] = ()
    """Prompts for each subject alone: DreamBench's 25, or texts with `{}` for the class word."""
    subjects: tuple[_SubjectTable, ...] = Field(min_length=1)
    """Subjects."""
    cases: tuple[_CaseTable, ...] = ()
    """Further prompts, of one or several subjects."""


def read_benchmark(path: Path) -> Benchmark:
    """Read a benchmark's file, TOML by the suffix `.toml`, JSON otherwise.

    Raises:
        InvalidBenchmark: the file is missing or malformed, a key is unknown, or a value is unusable; the message names
            file, key and value.
        ImagesError: images are missing from the folder that the file names.
    """
    file = _parse(path)
    try:
        benchmark = _benchmark(file, path)
        refuse_inconsistent(benchmark)
    except BenchmarkProblem as problem:
        raise InvalidBenchmark(f"{path}: {problem}") from None
    if benchmark.images_folder is not None:
        reference_files(benchmark, benchmark.images_folder)
    return benchmark


def write_benchmark(benchmark: Benchmark, path: Path) -> None:
    """Write a benchmark as JSON, atomically; `read_benchmark` returns an equal one."""
    folder = benchmark.images_folder
    tree = {
        **asdict(benchmark),
        "subjects": [asdict(subject) for subject in benchmark.subjects.values()],
        "images_folder": None if folder is None else str(folder.resolve()),
    }
    publish_bytes(storage_path(path), (json.dumps(tree, indent=1, ensure_ascii=False) + "\n").encode())


def _parse(path: Path) -> _File:
    try:
        text = path.read_text(encoding="utf-8")
        tree = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
        return _File.model_validate(tree)
    except OSError as error:
        raise InvalidBenchmark(f"{path} cannot be read ({error.strerror}): give a benchmark's file") from None
    except ValidationError as error:
        raise InvalidBenchmark(f"{path}: {'; '.join(_describe(one) for one in error.errors())}") from None
    except (ValueError, RecursionError) as error:  # of TOML, JSON and UTF-8
        raise InvalidBenchmark(f"{path}: not {'TOML' if path.suffix == '.toml' else 'JSON'}: {error}") from None


def _describe(error: "ErrorDetails") -> str:
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error["loc"]).removeprefix(".")
    match error["type"]:
        case "missing":
            return f"{key} is required"
        case "extra_forbidden":
            return f"{key}: unknown key; there are {', '.join(_keys(error['loc']))}"
    return f"{key or 'the file'}: {error['msg']} (got {str(error['input'])[:80]!r})"


def _keys(loc: Sequence[int | str]) -> Sequence[str]:
    tables: Mapping[object, type[Config]] = {"subjects": _SubjectTable, "cases": _CaseTable}
    return list((tables[loc[0]] if len(loc) > 1 else _File).model_fields)


def _benchmark(file: _File, path: Path) -> Benchmark:
    subjects = [_subject(table) for table in file.subjects]
    by_name = {subject.name: subject for subject in subjects}
    if len(by_name) < len(subjects):
        names = [subject.name for subject in subjects]
        twice = next(name for name in names if names.count(name) > 1)
        raise BenchmarkProblem(f"subjects: two are named {twice!r}; give each its own name")
    own = [case for subject in subjects for case in _prompt_cases(subject, file.prompts)]
    name = file.name or path.stem
    return Benchmark(
        name=name,
        title=file.title or name,
        source=file.source,
        licence=file.licence,
        subjects=by_name,
        cases=(*own, *(_case(table, index) for index, table in enumerate(file.cases))),
        images_per_case=file.images_per_case,
        notes=file.notes,
        images_folder=_images_folder(file, path),
    )


def _images_folder(file: _File, path: Path) -> Path | None:
    if file.images_folder is None and path.suffix != ".toml":
        return None
    return path.parent / (file.images_folder or ".")


def _subject(table: _SubjectTable) -> Subject:
    return Subject(
        name=table.name,
        class_name=table.class_name,
        images=table.images,
        input_image=table.images[0] if table.input_image is None else table.input_image,
        live=table.live,
        region=table.region,
    )


def _prompt_cases(subject: Subject, prompts: str | tuple[str, ...]) -> list[Case]:
    chosen = dreambench_prompts(subject.live) if isinstance(prompts, str) else _templates(prompts)
    return [
        Case(f"{subject.name}/{index:02d}", (subject.name,), prompt.fill(subject.class_name), prompt.group)
        for index, prompt in enumerate(chosen)
    ]


def _templates(texts: Sequence[str]) -> tuple[PromptTemplate, ...]:
    for index, text in enumerate(texts):
        if text.count("{}") != 1:
            raise BenchmarkProblem(f"prompts[{index}]: {text!r} must hold one {{}}, which stands for the class word")
    return templates(texts, PromptGroup.PLAIN)


def _case(table: _CaseTable, index: int) -> Case:
    name = table.name or f"{'+'.join(table.subjects)}/case-{index:02d}"
    return Case(name, table.subjects, table.prompt, table.group, table.boxes)
