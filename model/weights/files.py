"""Files of weights and settings: whole ones are read, damaged ones are refused in one line.

The line names the file, the tensor where there is one, and the cure. Pickles are read as tensors and nothing else, so
none of their code runs.
"""

import json
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from model.errors import CheckpointError

_CURE = "copy or download it again"
_CURE_OF_NUMBERS = f"{_CURE}, or take an earlier checkpoint if training wrote it"
_LFS_POINTER = b"version https://git-lfs"


def read_json(path: Path) -> dict[str, Any]:
    """The settings in a JSON file.

    Raises:
        CheckpointError: it is not a JSON object.
        OSError: it cannot be opened.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged: it is not JSON ({error}); {_CURE}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is damaged: it holds {_shortened(content)} in place of settings; {_CURE}")
    return content


def read_safetensors(path: Path, prefix: str = "") -> dict[str, Tensor]:
    """The tensors of a safetensors file whose names begin with `prefix`, which is taken off.

    Raises:
        CheckpointError: the file is not whole.
        OSError: it cannot be opened.
    """
    with _opened(path) as tensors:
        names = [name for name in tensors.keys() if name.startswith(prefix)]  # noqa: SIM118
        return {name.removeprefix(prefix): tensors.get_tensor(name) for name in names}


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The file's header, of which the file's length must be that of its tensors."""
    try:
        with safe_open(path, framework="pt") as tensors:
            yield tensors
    except SafetensorError as error:
        raise CheckpointError(f"{path} is not a whole safetensors file ({_kind(path, error)}): {_CURE}") from error


def _check_safetensors(path: Path) -> None:
    with _opened(path):
        pass


def read_pickled_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file of `torch.save`.

    Raises:
        CheckpointError: the file is damaged, or holds anything but tensors by name.
        OSError: it cannot be opened.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except FileNotFoundError:
        raise
    except Exception as error:  # whatever zip, pickle and torch's own checks raise
        raise CheckpointError(f"{path} is refused ({_kind(path, error)}): {_WHY_PICKLE}") from error
    if not isinstance(content, Mapping) or not all(isinstance(tensor, Tensor) for tensor in content.values()):
        raise CheckpointError(f"{path} is refused ({_shortened(content)}): {_WHY_PICKLE}")
    return dict(content)


_WHY_PICKLE = f"it is damaged, or a pickle of more than tensors, which could run code; give safetensors, or {_CURE}"


@contextmanager
def report_damage(folder: Path) -> Iterator[None]:
    """Where a library fails to load `folder`, raise `CheckpointError` with the first damaged file, if there is one."""
    try:
        yield
    except Exception as error:  # libraries raise whatever a damaged file makes them raise
        for path in sorted(folder.glob("*")):
            if read := _READERS.get(path.suffix):
                _raise_if_damaged(path, read, error)
        raise


def _raise_if_damaged(path: Path, read: Callable[[Path], object], error: Exception) -> None:
    try:
        read(path)
    except CheckpointError as damage:
        raise damage from error


_READERS: Mapping[str, Callable[[Path], object]] = {
    ".json": read_json,
    ".safetensors": _check_safetensors,
    ".bin": read_pickled_tensors,
}


def check_tensors(where: Path | str, found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Check that the tensors of a file are those of a network, by name and shape, and hold numbers.

    Args:
        where: the file.
        wanted: the network's, of which names and shapes count.

    Raises:
        CheckpointError: a tensor is missing, belongs nowhere, has another shape or holds other than finite numbers.
    """
    if odd := sorted(found.keys() ^ wanted.keys()):
        raise CheckpointError(f"{where}: {len(odd)} tensors are missing or too many, such as {odd[0]}: {_TWO_MODELS}")
    for name, tensor in found.items():
        check_shape(where, name, tensor.shape, wanted[name].shape)
    check_numbers(where, found)


def check_shape(where: Path | str, name: str, found: torch.Size, wanted: torch.Size) -> None:
    """Check the shape of one tensor.

    Raises:
        CheckpointError: it is another.
    """
    if found != wanted:
        raise CheckpointError(f"{where}: {name} is {list(found)}, its settings ask for {list(wanted)}: {_TWO_MODELS}")


_TWO_MODELS = f"weights and settings are not of one model; {_CURE}"


def check_numbers(where: Path | str, tensors: Mapping[str, Tensor], cure: str = _CURE_OF_NUMBERS) -> None:
    """Check that all tensors hold finite floating-point numbers.

    Raises:
        CheckpointError: one does not.
    """
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise CheckpointError(f"{where}: {name} is of {tensor.dtype}, not of floating-point numbers; {cure}")
        # Whatever is not finite makes the sum so; a sum alone may be too large a number.
        if not tensor.sum().isfinite() and (bad := int((~tensor.isfinite()).sum())):
            raise CheckpointError(f"{where}: {bad} of {tensor.numel()} values of {name} are NaN or infinite; {cure}")


def first_line(error: Exception) -> str:
    """The first line of an error's message, with the next one where it announces it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    return (" ".join(lines[:2]) if lines[0].endswith(":") else lines[0]).rstrip(".")


def _kind(path: Path, error: Exception) -> str:
    with path.open("rb") as file:
        if file.read(len(_LFS_POINTER)) == _LFS_POINTER:
            return "a pointer of Git LFS: run `git lfs pull`"
    said = "" if isinstance(error, UnpicklingError) else first_line(error)
    return f"{type(error).__name__}: {_shortened(said)}" if said else type(error).__name__


def _shortened(content: object) -> str:
    text = content if isinstance(content, str) else repr(content)
    return text if len(text) <= 80 else f"{text[:77]}..."
