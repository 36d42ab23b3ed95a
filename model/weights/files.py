"""Read files of weights and settings, and check them for damage.

Damage raises `ModelWeightsError` with a one-line message that names the file, the tensor and the cure. Pickles are
loaded as tensors only, so none of their code runs.
"""

import inspect
import json
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from infra.weights.files import describe_damage, first_line, shorten
from model.errors import ModelWeightsError

_CURE = "copy or download it again"
_CURE_OF_NUMBERS = f"{_CURE}, or take an earlier checkpoint if training wrote it"
_SETTINGS = (".json", ".txt")
JsonObject = dict[str, Any]
"""Settings in a JSON file of diffusers, transformers or OpenCLIP."""


def read_json(path: Path) -> JsonObject:
    """Read the settings in a JSON file.

    Raises:
        ModelWeightsError: the file is not a JSON object.
        OSError: the file cannot be opened.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ModelWeightsError(f"{path} is damaged: it is not JSON ({error}); {_CURE}") from error
    if not isinstance(content, dict):
        raise ModelWeightsError(f"{path} is damaged: it holds {shorten(content)} in place of settings; {_CURE}")
    return content


def read_safetensors(path: Path, prefix: str = "") -> dict[str, Tensor]:
    """Read the tensors whose names begin with `prefix`, and remove the prefix from their names.

    Raises:
        ModelWeightsError: the file is damaged.
        OSError: the file cannot be opened.
    """
    with _open_safetensors(path) as tensors:
        names = [name for name in tensors.keys() if name.startswith(prefix)]  # noqa: SIM118  # not iterable itself
        return {name.removeprefix(prefix): tensors.get_tensor(name) for name in names}


@contextmanager
def _open_safetensors(path: Path) -> Iterator[Any]:
    """Open a safetensors file; safetensors checks its header against the file's length."""
    try:
        with safe_open(path, framework="pt") as tensors:
            yield tensors
    except SafetensorError as error:
        damage = describe_damage(path, error)
        raise ModelWeightsError(f"{path} is not a whole safetensors file ({damage}): {_CURE}") from error


def _check_safetensors(path: Path) -> None:
    with _open_safetensors(path):
        pass


def read_pickled_tensors(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a file written by `torch.save`.

    Raises:
        ModelWeightsError: the file is damaged, or holds anything but tensors by name.
        OSError: the file cannot be opened.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except FileNotFoundError:
        raise
    except Exception as error:  # zip, pickle and torch raise many kinds for a damaged file
        raise ModelWeightsError(f"{path} is refused ({describe_damage(path, error)}): {_WHY_PICKLE}") from error
    if not isinstance(content, Mapping) or not all(isinstance(tensor, Tensor) for tensor in content.values()):
        raise ModelWeightsError(f"{path} is refused ({shorten(content)}): {_WHY_PICKLE}")
    return dict(content)


_WHY_PICKLE = f"it is damaged, or a pickle of more than tensors, which could run code; give safetensors, or {_CURE}"


@contextmanager
def report_damage(folder: Path) -> Iterator[None]:
    """If a library fails to load `folder`, raise `ModelWeightsError` for a damaged file, or for the settings."""
    try:
        yield
    except ModelWeightsError:
        raise
    except Exception as error:  # libraries raise many kinds for a damaged file
        for path in sorted(folder.glob("*")):
            if read := _READERS.get(path.suffix):
                _raise_if_damaged(path, read, error)
        if names := _settings_files(folder):
            reason = f"{type(error).__name__}: {first_line(error)}"
            raise ModelWeightsError(
                f"{folder} does not load with its {', '.join(names)} ({reason}): {_CURE}"
            ) from error
        raise


def _settings_files(folder: Path) -> list[str]:
    """Return the names of the files of settings or words in a folder; an index lists files of weights."""
    return sorted(path.name for path in folder.glob("*") if path.suffix in _SETTINGS and "index" not in path.name)


def check_number_settings(settings: Mapping[str, object], network: type, path: Path) -> None:
    """Check the kinds of a network's settings that are numbers; some are used long after they are read.

    Args:
        settings: settings of the network.
        network: class of the network, whose arguments have the settings' names.
        path: file of the settings.

    Raises:
        ModelWeightsError: a setting is not a number, nor anything else that the network takes in its place.
    """
    for name, argument in inspect.signature(network).parameters.items():
        kind = argument.annotation
        kinds = [get_origin(one) or one for one in (get_args(kind) if isinstance(kind, UnionType) else (kind,))]
        kinds += [int] if float in kinds else [list] if tuple in kinds else []
        if int in kinds and name in settings and type(settings[name]) not in kinds:
            raise ModelWeightsError(f"{path}: {name} is {shorten(settings[name])}, not a number; {_CURE}")


def _raise_if_damaged(path: Path, read: Callable[[Path], object], error: Exception) -> None:
    try:
        read(path)
    except ModelWeightsError as damage:
        raise damage from error


_READERS: Mapping[str, Callable[[Path], object]] = {
    ".json": read_json,
    ".safetensors": _check_safetensors,
    ".bin": read_pickled_tensors,
}


def check_tensors(where: Path | str, tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Check that the tensors of a file match those of a network in name and shape, and are finite.

    Args:
        where: the file.
        tensors: tensors of the file.
        expected: tensors of the network, of which only names and shapes matter.

    Raises:
        ModelWeightsError: a tensor is missing, unexpected, of another shape or not finite.
    """
    if unmatched := sorted(tensors.keys() ^ expected.keys()):
        raise ModelWeightsError(
            f"{where}: {len(unmatched)} tensors are missing or unexpected, such as {unmatched[0]}: {_TWO_MODELS}"
        )
    for name, tensor in tensors.items():
        check_shape(where, name, tensor.shape, expected[name].shape)
    check_numbers(where, tensors)


def check_shape(
    where: Path | str, name: str, shape: torch.Size, expected: torch.Size, settings: str = "its settings"
) -> None:
    """Check the shape of one tensor.

    Args:
        where: the file.
        name: name of the tensor.
        shape: its shape.
        expected: shape in the network.
        settings: settings of the network, as the message names them.

    Raises:
        ModelWeightsError: the shapes differ.
    """
    if shape != expected:
        raise ModelWeightsError(
            f"{where}: {name} is {list(shape)}, but {settings} require {list(expected)}: {_TWO_MODELS}"
        )


def require_network_files(part: Path) -> None:
    """Check that the folder of a network has settings and weights; libraries take defaults for missing settings.

    Raises:
        ModelWeightsError: a file is missing.
    """
    missing = [] if (part / "config.json").is_file() else ["config.json"]
    missing += [] if any(part.glob("*.safetensors")) or any(part.glob("*.bin")) else ["weights (.safetensors or .bin)"]
    if missing:
        raise ModelWeightsError(f"{part} lacks {' and '.join(missing)}: {_CURE}")


_TWO_MODELS = f"weights and settings belong to different models; {_CURE}"


def check_numbers(where: Path | str, tensors: Mapping[str, Tensor], cure: str = _CURE_OF_NUMBERS) -> None:
    """Check that all tensors hold finite floating-point numbers.

    Raises:
        ModelWeightsError: a tensor holds other numbers.
    """
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise ModelWeightsError(f"{where}: {name} is of {tensor.dtype}, not of floating-point numbers; {cure}")
        # The sum is a cheap first test: it is finite only if all values are. Finite values may overflow in it, so
        # a non-finite sum is confirmed by counting.
        if not tensor.sum().isfinite() and (bad := int((~tensor.isfinite()).sum())):
            raise ModelWeightsError(f"{where}: {bad} of {tensor.numel()} values of {name} are NaN or infinite; {cure}")
