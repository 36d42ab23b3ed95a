"""Find the files of a set of weights and open them, and say which are missing or damaged.

A header tells names, shapes and types of a file's tensors, so that a file of any size is opened without reading it.
"""

import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, TypeAlias

from safetensors import safe_open

_LFS_POINTER = b"version https://git-lfs"
VOCABULARY = (("tokenizer.json",), ("vocab.json", "merges.txt"), ("vocab.txt",))
"""Sets of files that each are a tokenizer's vocabulary; without one, transformers may build an empty tokenizer."""
IMAGE_PROCESSOR = (("processor_config.json",), ("preprocessor_config.json",))
"""Sets of files that each are the settings of an image processor."""


class WeightsState(StrEnum):
    """State of a set of weights."""

    FINE = "fine"
    """Names, shapes and types of all tensors are those that the code expects."""
    ABSENT = "not here"
    """There is no such file, folder, package, or hub id in the local cache."""
    INCOMPLETE = "incomplete"
    """Files are missing."""
    DAMAGED = "damaged"
    """A file is truncated, or not of its format."""
    REFUSED = "refused"
    """A pickle holds more than tensors, and could run code. It was not run."""
    OTHER = "another network"
    """The files are those of another network."""
    MISMATCH = "does not fit"
    """Tensors are missing, unexpected, or of another shape or type."""
    UNREADABLE = "does not load"
    """The library or the backend refuses the files for another reason."""
    UNCHECKED = "not compared"
    """The files open, but a part that tells the expected tensors is missing."""


class WeightsFault(Exception):
    """A fault of a set of weights."""

    def __init__(self, state: WeightsState, problem: str) -> None:
        super().__init__(problem)
        self.state = state


Tensors: TypeAlias = dict[str, Any]
"""Tensors of a framework by name, without values."""


@dataclass(frozen=True, slots=True)
class OpenedFiles:
    """Content of the files of a set of weights."""

    tensors: Tensors
    size_bytes: int
    """Size of the files together."""


Reader = Callable[[Path], object]
"""Reader of a safetensors file, or of a pickle of tensors, that returns tensors without values."""


def header_reader(empty: Callable[..., object], types: Mapping[str, object], read_pickle: Reader) -> Reader:
    """Return a reader of names, shapes and types of the tensors of a file, from the functions of a framework.

    Args:
        empty: builds a tensor without values from its shape and type: `torch.empty` on the meta device.
        types: types of the framework, by their names in safetensors files.
        read_pickle: reader of a file that is not safetensors.
    """

    def read(path: Path) -> object:
        if path.suffix != ".safetensors":
            return read_pickle(path)
        # NumPy's form maps the file for reading only; PyTorch's would reserve memory for changes, as much as the file.
        with safe_open(path, framework="numpy") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  # not iterable itself
            return {name: empty(one.get_shape(), dtype=types[one.get_dtype()]) for name, one in slices.items()}

    return read


def open_folder(folder: Path, names: Sequence[str], read: Reader) -> OpenedFiles:
    """Open the first of several files that a folder has, or the shards that an index in its place lists.

    Args:
        folder: folder of the weights.
        names: names of the file, in the order in which the library looks for them.
        read: reader of a file.

    Raises:
        WeightsFault: no such file, a shard is missing, or a file is damaged.
    """
    files = _tensor_files(folder, names)
    tensors: Tensors = {}
    for file in files:
        tensors |= require_tensors(file, open_file(file, read))
    return OpenedFiles(tensors, sum(file.stat().st_size for file in files))


def open_file(path: Path, read: Reader) -> object:
    """Return the content of a file of tensors.

    Raises:
        WeightsFault: the file is damaged, or a pickle that could run code.
    """
    try:
        return read(path)
    except UnpicklingError as error:
        state = WeightsState.REFUSED if zipfile.is_zipfile(path) else WeightsState.DAMAGED
        raise WeightsFault(
            state,
            f"{path} is refused ({describe_damage(path, error)}): it is damaged, or a pickle of more than tensors, "
            f"which could run code; it was not run",
        ) from error
    except Exception as error:  # zip, safetensors and torch raise many kinds for a damaged file
        raise WeightsFault(
            WeightsState.DAMAGED, f"{path} is damaged or cut short ({describe_damage(path, error)})"
        ) from error


def require_tensors(path: Path, content: object) -> Tensors:
    """Return the content of a file if it is tensors by name.

    Raises:
        WeightsFault: it is something else.
    """
    if not isinstance(content, Mapping) or not all(hasattr(tensor, "element_size") for tensor in content.values()):
        raise WeightsFault(WeightsState.OTHER, f"{path} holds {_kind(content)} in place of tensors by name")
    return dict(content)


def read_settings(path: Path) -> Mapping[str, object]:
    """Return the settings in a JSON file.

    Raises:
        WeightsFault: the file is missing or damaged.
    """
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise WeightsFault(WeightsState.INCOMPLETE, f"{path.parent} has no {path.name}") from error
    except (OSError, ValueError) as error:
        raise WeightsFault(WeightsState.DAMAGED, f"{path} is damaged ({describe_damage(path, error)})") from error
    if not isinstance(content, dict):
        raise WeightsFault(WeightsState.DAMAGED, f"{path} is damaged: it holds {_kind(content)} in place of settings")
    return content


def require_network(path: Path, key: str, *names: str) -> None:
    """Check the kind of network in a file of settings.

    Args:
        path: file of settings.
        key: setting with the kind of network: `model_type` or `_class_name`.
        names: its expected values.

    Raises:
        WeightsFault: the file is missing, damaged, or of another network.
    """
    found = read_settings(path).get(key)
    if found not in names:
        expected = " or ".join(map(repr, names))
        raise WeightsFault(WeightsState.OTHER, f"{path} describes a network of type {found!r}, not {expected}")


def require_files(folder: Path, choices: Sequence[Sequence[str]]) -> None:
    """Check that a folder has one of several sets of files.

    Raises:
        WeightsFault: it has none of them.
    """
    if not any(all((folder / name).is_file() for name in names) for names in choices):
        raise WeightsFault(
            WeightsState.INCOMPLETE, f"{folder} has no {' or '.join(' with '.join(names) for names in choices)}"
        )


def folder_size(folder: Path) -> int:
    """Return the size of all files in a folder, in bytes."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def describe_damage(path: Path, error: Exception) -> str:
    """Return what is wrong with a file that cannot be read: the kind of error, and its message if it tells more."""
    with path.open("rb") as file:
        if file.read(len(_LFS_POINTER)) == _LFS_POINTER:
            return "a pointer of Git LFS: run `git lfs pull`"
    message = "" if isinstance(error, UnpicklingError) else first_line(error)
    return f"{type(error).__name__}: {shorten(message)}" if message else type(error).__name__


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, and the second if the first ends in a colon."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    return (" ".join(lines[:2]) if lines[0].endswith(":") else lines[0]).rstrip(".")


def shorten(content: object) -> str:
    """Return at most 80 characters of a text, or of the representation of another object."""
    text = content if isinstance(content, str) else repr(content)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _tensor_files(folder: Path, names: Sequence[str]) -> list[Path]:
    for name in names:
        if (folder / name).is_file():
            return [folder / name]
        if (index := folder / f"{name}.index.json").is_file():
            return _shards(index)
    raise WeightsFault(WeightsState.INCOMPLETE, f"{folder} has no {' or '.join(names)}")


def _shards(index: Path) -> list[Path]:
    places = read_settings(index).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise WeightsFault(WeightsState.DAMAGED, f"{index} is damaged: it has no weight_map of tensors to files")
    names = sorted({str(name) for name in places.values()})
    if missing := [name for name in names if not (index.parent / name).is_file()]:
        raise WeightsFault(
            WeightsState.INCOMPLETE,
            f"{index.parent} lacks {len(missing)} of the {len(names)} files that {index.name} lists: {missing[0]}"
            + (", ..." if len(missing) > 1 else ""),
        )
    return [index.parent / name for name in names]


def _kind(content: object) -> str:
    return f"a {type(content).__name__} ({shorten(content)})"
