"""What is written down while a job trains: lines of JSON, TensorBoard's files, and a line for people.

OUT/metrics.jsonl      one object a line; a job that goes on from a checkpoint first drops the lines after it
OUT/tensorboard/       the same numbers, and sample grids
"""

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tensorboardX import SummaryWriter

from infra.storage import publish_bytes, storage_path
from training.errors import TrainingError

log = logging.getLogger(__name__)
FILE = "metrics.jsonl"
Values = Mapping[str, Any]


class MetricsLog:
    """Writes the metrics of one job.

    Args:
        done: steps done before; what was logged after them is dropped.

    Raises:
        TrainingError: its file cannot be written.
    """

    def __init__(self, out: Path, done: int) -> None:
        self._path = out / FILE
        kept = [line for line in read_metrics(out) if line["step"] <= done]
        text = "".join(json.dumps(line) + "\n" for line in kept)
        with self._told():
            publish_bytes(storage_path(self._path), text.encode())
        self._board = SummaryWriter(str(out / "tensorboard"), purge_step=done + 1)

    def write(self, values: Values) -> None:
        """Add the metrics after step `values["step"]`; None stands for what is not known.

        Raises:
            TrainingError: the file cannot be written.
        """
        with self._told(), self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")
        for name, number in _scalars(values):
            self._board.add_scalar(name, number, values["step"])
        self._board.flush()

    def add_picture(self, name: str, picture: Image.Image, step: int) -> None:
        """Show a picture of step `step` in TensorBoard."""
        self._board.add_image(name, np.asarray(picture), step, dataformats="HWC")
        self._board.flush()

    def close(self) -> None:
        """Finish TensorBoard's file."""
        self._board.close()

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise TrainingError(
                f"cannot write {self._path}: {error.strerror}; checkpoints are as they were, --resume latest goes on"
            ) from error


def read_metrics(out: Path) -> list[dict[str, Any]]:
    """The lines that a job wrote, without one that a killed job left unfinished."""
    path = out / FILE
    if not path.exists():
        return []
    whole = path.read_text(encoding="utf-8").rpartition("\n")[0]
    return [json.loads(line) for line in whole.splitlines()]


def progress_line(values: Values, steps: int) -> str:
    """`values` in words, with the time that is left of `steps`."""
    left = (steps - values["step"]) * values["seconds_per_step"]
    mfu = "" if values["mfu"] is None else f"  MFU {values['mfu']:.1%}"
    return (
        f"step {values['step']:,} of {steps:,}  loss {_said(values['loss'])}  L_attn {_said(values['L_attn'])}  "
        f"in mask {_said(values['attention_in_mask'], '.0%')}  {per_second(values['images_per_s'])} images/s{mfu}  "
        f"waited for data {values['stall']:.1%}  {duration(left)} left"
    )


def per_second(rate: float) -> str:
    """A rate with three digits or more, so that a slow one does not read as zero."""
    return f"{rate:.1f}" if rate >= 100 else f"{rate:.3g}"


def duration(seconds: float) -> str:
    """For people, in its two largest units."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    units = [f"{days} d", f"{hours} h", f"{minutes} min", f"{rest} s"]
    first = next((i for i, amount in enumerate((days, hours, minutes)) if amount), 3)
    return " ".join(units[first : first + 2])


def _said(value: float | None, form: str = ".4f") -> str:
    return "none" if value is None else format(value, form)


def _scalars(values: Values, prefix: str = "") -> Iterator[tuple[str, float]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _scalars(value, f"{prefix}{name}/")
        elif isinstance(value, int | float):
            yield f"{prefix}{name}", value
