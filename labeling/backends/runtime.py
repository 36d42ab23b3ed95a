"""Where a network runs and where its weights come from: the same for all backends."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch

from labeling.child import WORKER_NUMBER
from labeling.config import Device, Precision
from labeling.errors import CheckpointError

log = logging.getLogger(__name__)


@cache
def torch_device(device: Device) -> torch.device:
    """The device that the setting means on this machine, which is what "cuda" means from then on.

    Of several GPUs each of a stage's workers has one in turn. A worker on Ray that asked for a GPU sees no other.
    """
    if device is Device.AUTO:
        device = _best()
    if device is not Device.CUDA or not torch.cuda.is_available():
        return torch.device(device.value)
    chosen = torch.device("cuda", card(int(os.environ.get(WORKER_NUMBER, "0")), torch.cuda.device_count()))
    torch.cuda.set_device(chosen)
    log.info("on %s, %s", chosen, torch.cuda.get_device_name(chosen))
    return chosen


def card(worker: int, cards: int) -> int:
    """Which of the GPUs that it sees the `worker`th of a stage takes, both from 0."""
    return worker % cards


def _best() -> Device:
    if torch.cuda.is_available():
        return Device.CUDA
    return Device.MPS if torch.backends.mps.is_available() else Device.CPU


def torch_dtype(precision: Precision) -> torch.dtype:
    """The floating-point type that the setting means."""
    return {Precision.FLOAT32: torch.float32, Precision.BFLOAT16: torch.bfloat16}[precision]


@contextmanager
def pretrained(checkpoint: str, setting: str) -> Iterator[str]:
    """The folder, `~` expanded, or hub id to give to from_pretrained, and in one line what goes wrong while it loads.

    Raises:
        CheckpointError: names the setting to change.
    """
    try:
        yield os.path.expanduser(checkpoint)
    except CheckpointError:
        raise
    except Exception as error:  # a bad folder raises whatever the hub, JSON, safetensors and pickle do
        raise _error(checkpoint, setting, error) from error


def _error(checkpoint: str, setting: str, error: Exception) -> CheckpointError:
    first_line = str(error).strip().splitlines()[0] if str(error).strip() else ""
    kind = "folder" if Path(checkpoint).expanduser().is_dir() else "hub id (no such local folder)"
    return CheckpointError(
        f"{setting}={checkpoint!r} does not load as a {kind}: {type(error).__name__}: {first_line}. "
        f"Give a local folder in the layout of save_pretrained, or a hub id that this machine can reach"
    )
