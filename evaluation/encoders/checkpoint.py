"""Files of an encoder's weights: find them, read their tensors, hash them; every fault names the file and the cure."""

import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path
from typing import Any, TypeAlias

import torch
from huggingface_hub import snapshot_download
from torch import Tensor

from evaluation.errors import EncoderWeightsError
from evaluation.protocols import EncoderPrecision, EncoderSpec
from infra.weights.files import first_line, open_file, require_tensors
from infra.weights.sources import is_path
from model.errors import ModelError
from model.weights.check import HEADERS
from model.weights.files import read_pickled_tensors, read_safetensors

HF_NAMES = ("model.safetensors", "pytorch_model.bin")
"""Names of the file of weights in a folder of transformers, in the order in which it looks for them."""
DTYPES = {
    EncoderPrecision.FLOAT32: torch.float32,
    EncoderPrecision.FLOAT16: torch.float16,
    EncoderPrecision.BFLOAT16: torch.bfloat16,
}


Tensors: TypeAlias = dict[str, Tensor]
"""Tensors by name."""
Reader = Callable[[Path], Tensors]
"""Reader of a file of weights: `read_tensors`, or `read_headers` for names, shapes and types only."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A file of weights."""

    path: Path
    tensors: Mapping[str, Tensor]
    """Floating-point tensors by their names in the file; integers are positions and sizes, which the networks know."""

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


def floats(tensors: Mapping[str, Tensor]) -> Tensors:
    """Return the floating-point tensors."""
    return {name: tensor for name, tensor in tensors.items() if tensor.is_floating_point()}


def read_tensors(path: Path) -> Tensors:
    """Read a safetensors file, a TorchScript archive, or a pickle of tensors; no code of a pickle runs.

    Raises:
        ModelWeightsError: the file is damaged, or a pickle of more than tensors.
    """
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    return _read_torchscript(path, "cpu") if _is_torchscript(path) else read_pickled_tensors(path)


def read_headers(path: Path) -> Tensors:
    """Read names, shapes and types only, to tensors on the meta device.

    Raises:
        WeightsFault: the file is damaged, or a pickle of more than tensors.
    """
    if _is_torchscript(path):
        return _read_torchscript(path, "meta")
    return require_tensors(path, open_file(path, HEADERS))


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("constants.pkl") for name in archive.namelist())


def _read_torchscript(path: Path, device: str) -> Tensors:
    """Return the tensors of a TorchScript archive, the format of openai/CLIP's downloads."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # deprecated, but the only reader of these files
        archive: torch.nn.Module = torch.jit.load(path, map_location="cpu")  # type: ignore[no-untyped-call]  # torch annotates none
    return {name: tensor.to(device) for name, tensor in archive.state_dict().items()}


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
