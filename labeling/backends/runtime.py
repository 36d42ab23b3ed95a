"""Device, floating-point format and weights of a network, for all backends."""

import logging
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch

from infra.precision import Precision
from labeling.config import Device
from labeling.errors import BackendWeightsError, DeviceError
from labeling.stages.worker import RESERVED_GPUS, WORKER_NUMBER

log = logging.getLogger(__name__)


@cache
def torch_device(device: Device) -> torch.device:
    """Return the device that the setting selects on this machine, and make it PyTorch's current CUDA device.

    The workers of a stage take a machine's GPUs in turn. On Ray a worker sees only the GPUs that it reserved.

    Raises:
        DeviceError: a GPU is named or reserved, and PyTorch finds none.
    """
    number, reserved = int(os.environ.get(WORKER_NUMBER, "0")), os.environ.get(RESERVED_GPUS)
    if not torch.cuda.is_available() and (device is Device.CUDA or (device is Device.AUTO and reserved)):
        raise DeviceError(_no_gpu(f"device={device.value}", reserved))
    chosen = torch.device((_best_device() if device is Device.AUTO else device).value)
    name = ""
    if chosen.type == "cuda":
        chosen = torch.device("cuda", gpu_index(number, torch.cuda.device_count()))
        torch.cuda.set_device(chosen)
        name = f" ({torch.cuda.get_device_name(chosen)})"
    log.info("worker %d on %s: %s%s%s", number, socket.gethostname(), chosen, name, _visible_gpus())
    return chosen


def _no_gpu(setting: str, reserved: str | None) -> str:
    wanted = f"{setting} on GPU {reserved}, which this worker reserved," if reserved else f"{setting}"
    build = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
    return (
        f"{wanted} needs a GPU, and PyTorch finds none on {socket.gethostname()}{_visible_gpus()}; it is {build}. "
        "Check nvidia-smi and the driver there, or set the stage's device to cpu"
    )


def _visible_gpus() -> str:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return "" if visible is None else f", CUDA_VISIBLE_DEVICES={visible}"


def gpu_index(worker: int, cards: int) -> int:
    """Return the index of a worker's GPU among the visible ones."""
    return worker % cards


def _best_device() -> Device:
    if torch.cuda.is_available():
        return Device.CUDA
    return Device.MPS if torch.backends.mps.is_available() else Device.CPU


def torch_dtype(precision: Precision) -> torch.dtype:
    """Return PyTorch's type for a floating-point format."""
    return {Precision.FLOAT32: torch.float32, Precision.BFLOAT16: torch.bfloat16}[precision]


@contextmanager
def pretrained_source(checkpoint: str, setting: str) -> Iterator[str]:
    """Yield the folder, `~` expanded, or hub id for from_pretrained; errors in the block become one line.

    Raises:
        BackendWeightsError: the checkpoint does not load; the message names the setting.
    """
    try:
        yield os.path.expanduser(checkpoint)
    except BackendWeightsError:
        raise
    except Exception as error:  # a bad folder raises whatever the hub, JSON, safetensors and pickle do
        raise _error(checkpoint, setting, error) from error


def _error(checkpoint: str, setting: str, error: Exception) -> BackendWeightsError:
    first_line = str(error).strip().splitlines()[0] if str(error).strip() else ""
    kind = "folder" if Path(checkpoint).expanduser().is_dir() else "hub id (no such local folder)"
    return BackendWeightsError(
        f"{setting}={checkpoint!r} does not load as a {kind}: {type(error).__name__}: {first_line}. "
        f"Give a local folder in the layout of save_pretrained, or a hub id that this machine can reach"
    )


def refuse_incomplete(loading: Mapping[str, Any], checkpoint: str, setting: str, network: str) -> None:
    """Check that a checkpoint held all weights of a network.

    Args:
        loading: loading info of transformers' `from_pretrained`.
        checkpoint: folder or hub id.
        setting: setting that names it.
        network: name of the network's class.

    Raises:
        BackendWeightsError: tensors are missing or have other shapes.
    """
    if wrong := sorted(loading["missing_keys"]) + sorted(key for key, *_ in loading["mismatched_keys"]):
        raise BackendWeightsError(
            f"{setting}={checkpoint!r} lacks {len(wrong)} tensors of a {network} of its config.json or has them in "
            f"other shapes, the first is {wrong[0]!r}: download it again"
        )
