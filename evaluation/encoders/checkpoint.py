"""Files of an encoder's weights: find them, read their tensors, hash them; every fault names the file and the cure."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from torch import Tensor

from evaluation.errors import EncoderWeightsError
from evaluation.protocols import EncoderPrecision, EncoderSpec
from infra.weights.files import first_line
from infra.weights.sources import is_path
from model.errors import ModelError
from model.weights.files import check_numbers, read_pickled_tensors, read_safetensors

HF_NAMES = ("model.safetensors", "pytorch_model.bin")
"""Names of the file of weights in a folder of transformers, in the order in which it looks for them."""
DTYPES = {
    EncoderPrecision.FLOAT32: torch.float32,
    EncoderPrecision.FLOAT16: torch.float16,
    EncoderPrecision.BFLOAT16: torch.bfloat16,
}


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A file of weights."""

    path: Path
    tensors: Mapping[str, Tensor]
    """Tensors by their names in the file, in float32."""

    def sha256(self) -> str:
        """Return the SHA-256 of the file, as `sha256sum` prints it."""
        with self.path.open("rb") as file:
            return file_digest(file, "sha256").hexdigest()


@contextmanager
def report_source(spec: EncoderSpec, source: str) -> Iterator[None]:
    """Turn any error of the block into an `EncoderWeightsError` of one line with the encoder and the source."""
    try:
        yield
    except EncoderWeightsError:
        raise
    except ModelError as error:  # names the file and the cure
        raise EncoderWeightsError(f"weights of {spec.name}: {error}") from error
    except Exception as error:  # the libraries raise many kinds for a damaged file
        raise EncoderWeightsError(
            f"weights of {spec.name} do not load from {source} ({type(error).__name__}: {first_line(error)}): "
            f"copy {spec.weights} again, and give the path of the folder or file"
        ) from error


def locate(spec: EncoderSpec, source: str, patterns: Sequence[str]) -> Path:
    """Return the local folder or file that `source` names.

    A hub id is looked up in the hub's cache, and downloaded if it is not there.

    Args:
        spec: the encoder.
        source: path, or hub id.
        patterns: files of a hub id that are read.

    Raises:
        EncoderWeightsError: nothing is at the path, or the hub id is neither in the cache nor within reach.
    """
    if is_path(source):
        path = Path(source).expanduser()
        if path.exists():
            return path
        raise EncoderWeightsError(f"weights of {spec.name}: {source} does not exist: {_cure(spec)}")
    try:
        return Path(snapshot_download(source, allow_patterns=list(patterns)))
    except Exception as error:  # the hub's client raises its own errors and those of its transport
        raise EncoderWeightsError(
            f"weights of {spec.name}: {source} is neither a local folder nor in the hub's cache, and the hub does not "
            f"give it ({type(error).__name__}: {first_line(error)}): {_cure(spec)}"
        ) from error


def _cure(spec: EncoderSpec) -> str:
    return f"download {spec.weights} (docs/guide/weights.md) and give the path of its folder or file"


def find_file(folder: Path, names: Sequence[str]) -> Path:
    """Return the first of several files that the folder has.

    Raises:
        EncoderWeightsError: it has none of them.
    """
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise EncoderWeightsError(f"{folder} has no {' or '.join(names)}: copy the folder again, with its weights")


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a safetensors file, or a pickle of tensors; no code of a pickle runs.

    Raises:
        ModelWeightsError: the file is damaged, or holds anything but finite floating-point tensors by name.
    """
    tensors = read_safetensors(path) if path.suffix == ".safetensors" else read_pickled_tensors(path)
    return Checkpoint(path, float_tensors(path, tensors))


def float_tensors(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the floating-point tensors in float32; integers are positions and sizes, which the networks know.

    Raises:
        ModelWeightsError: a value is NaN or infinite.
    """
    numbers = {name: tensor.float() for name, tensor in tensors.items() if tensor.is_floating_point()}
    check_numbers(path, numbers, "copy or download it again")
    return numbers


def require(where: Path, found: Mapping[str, Any], expected: Mapping[str, Any], spec: EncoderSpec) -> None:
    """Check properties of a network.

    Args:
        where: file that the properties come from.
        found: properties by name.
        expected: those of the encoder.
        spec: the encoder.

    Raises:
        EncoderWeightsError: one differs; the message names both values.
    """
    for name, value in expected.items():
        if found.get(name) != value:
            raise EncoderWeightsError(
                f"{where}: {name} is {found.get(name)!r}, but {spec.name} has {value!r}: give the weights of "
                f"{spec.weights}"
            )


@contextmanager
def full_float32() -> Iterator[None]:
    """Compute convolutions of float32 in float32; on recent GPUs cuDNN would round their inputs to 10 bits (TF32)."""
    with torch.backends.cudnn.flags(enabled=torch.backends.cudnn.enabled, allow_tf32=False):
        yield
