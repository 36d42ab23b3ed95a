"""Stages with faults for tests of the supervisor.

The URL of a row names its fault: raise an exception, exit, hang, run out of memory, or block a path with a folder. The
module is importable by worker processes.
"""

import ctypes
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from infra.config import Config
from labeling.config import NetworkConfig
from labeling.errors import BackendWeightsError
from labeling.sdd.schema import Caption
from labeling.stages.base import Drop
from labeling.stages.worker import WORKER_NUMBER


class FaultyConfig(Config):
    seconds_per_row: float = 0.0
    memory_rows: int = 10_000
    """Largest batch that fits into memory, in rows; a larger one raises MemoryError."""
    start: str = "well"
    """Behaviour of `setup`: "well", "raises", "dies", "does not fit", or "waits for PATH" until that file exists."""
    results: str = "one each"
    """Results of a batch: "one each"; "too few", which breaks the contract of a stage; "no weights" raises the error of
    weights that do not load, and "no weights to prepare" raises it before the batch."""
    device: str = "works"
    """State of the device: "works"; "dies" ends the process at each batch; "is poisoned" raises CUDA's error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    key: bytes
    url: str


class FaultyStage:
    name: ClassVar[str] = "captions"
    reads: ClassVar[type] = Address
    writes: ClassVar[type] = Caption

    def __init__(self, config: FaultyConfig) -> None:
        self.config = config

    def setup(self) -> None:
        if self.config.start == "raises":
            raise RuntimeError("no device")
        if self.config.start == "does not fit":
            raise MemoryError("a network too many")
        if self.config.start == "dies":
            os._exit(5)
        while self.config.start.startswith("waits") and not Path(self.config.start.split()[-1]).exists():
            time.sleep(0.01)

    def prepare(self, row: Address) -> Address:
        if self.config.results == "no weights to prepare":
            raise BackendWeightsError("no weights in /nowhere")
        if "unreadable" in row.url:
            raise ValueError("cannot decode")
        return row

    def process(self, batch: Sequence[Address]) -> list[Any]:
        time.sleep(self.config.seconds_per_row * len(batch))
        if self.config.device == "dies":
            os._exit(9)
        if self.config.device == "is poisoned":
            raise RuntimeError("CUDA error: unspecified launch failure")
        if len(batch) > self.config.memory_rows:
            raise MemoryError("too many rows")
        for row in batch:
            _act(row.url)
        if self.config.results == "no weights":
            raise BackendWeightsError("no weights in /nowhere")
        if self.config.results == "too few":
            return []
        return [_outcome(Caption(key=r.key, caption=r.url)) for r in batch]


class GroupedFaultyStage(FaultyStage):
    """Faulty stage whose batches hold rows with URLs of one length. Its captions name the URLs of their batch."""

    @property
    def batch_key(self) -> Callable[[Address], int]:
        return _length_of_url

    def process(self, batch: Sequence[Address]) -> list[Any]:
        super().process(batch)
        return [Caption(key=row.key, caption=" ".join(each.url for each in batch)) for row in batch]


class OverlappedFaultyStage(FaultyStage):
    """Faulty stage whose rows are completed beside the network, when some of them fail."""

    late_faults: ClassVar[dict[str, str]] = {"fails late": "raise", "dies late": "exit"}
    batches = 0
    """Batches that the network has computed."""

    def compute(self, batch: Sequence[Address]) -> list[Any]:
        self.batches += 1
        return super().process(batch)

    def finish(self, computed: Any) -> Any:
        if "too large" in computed.caption:
            raise MemoryError("no memory beside the network")
        while "waits for the next batch" in computed.caption and self.batches < 2:  # the batch deadline bounds it
            time.sleep(0.01)
        for words, fault in self.late_faults.items():
            if words in computed.caption:
                _act(fault)
        return computed

    def process(self, batch: Sequence[Address]) -> list[Any]:
        return [self.finish(computed) for computed in self.compute(batch)]


def _length_of_url(row: Address) -> int:
    return len(row.url)


class RendezvousStage:
    """Stage whose captions name the worker that made them and its visible GPUs. Each worker waits for all others."""

    name: ClassVar[str] = "captions"
    reads: ClassVar[type] = Address
    writes: ClassVar[type] = Caption

    def __init__(self, folder: str, workers: int) -> None:
        self.config = NetworkConfig()
        self.folder, self.workers = Path(folder), workers

    def setup(self) -> None:
        self.folder.mkdir(exist_ok=True)

    def prepare(self, row: Address) -> Address:
        return row

    def process(self, batch: Sequence[Address]) -> list[Caption]:
        number, visible = os.environ[WORKER_NUMBER], os.environ.get("CUDA_VISIBLE_DEVICES", "no card reserved")
        (self.folder / str(os.getpid())).touch()
        while len(list(self.folder.iterdir())) < self.workers:  # the batch deadline bounds it
            time.sleep(0.02)
        return [Caption(key=row.key, caption=f"{number}: {visible}") for row in batch]


def _outcome(caption: Caption) -> Caption | Drop:
    if "remembered" in caption.caption:
        return Drop("boring", row=caption)
    return Drop("boring") if "boring" in caption.caption else caption


def _act(url: str) -> None:
    if url.startswith("blocks "):
        os.makedirs(url.removeprefix("blocks "), exist_ok=True)
    if "who" in url:
        raise ValueError(f"worker {os.environ[WORKER_NUMBER]}")
    if "raise" in url:
        raise ValueError("bad row")
    if "poison" in url:
        raise RuntimeError("CUDA error: device-side assert triggered")
    if "exit" in url:
        os._exit(3)
    if "segfault" in url:
        ctypes.string_at(0)
    if "hang" in url:
        ctypes.PyDLL(None).sleep(1000)  # holds the interpreter lock, as native code can
