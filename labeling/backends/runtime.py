"""Where a network runs and where its weights come from: the same for all backends."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from labeling.config import Device, Precision
from labeling.errors import CheckpointError


def torch_device(device: Device) -> torch.device:
    """The device that the setting means on this machine."""
    if device is not Device.AUTO:
        return torch.device(device.value)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


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
