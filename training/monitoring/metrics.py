"""Metrics of a training job: lines of JSON, TensorBoard's files, and progress lines in the log.

OUT/metrics.jsonl      one object a line; a resumed job first removes the lines after its checkpoint
OUT/tensorboard/       the same numbers, and sample grids
"""

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypedDict

import numpy as np
from PIL import Image
from tensorboardX import SummaryWriter

from infra.storage import publish_bytes, storage_path
from training.errors import TrainingError

log = logging.getLogger(__name__)
FILE = "metrics.jsonl"


class Metrics(TypedDict):
    """One line of `metrics.jsonl`. None stands for a value that is unknown or not finite."""

    step: int
    """Steps done."""
    epoch: int
    """Epoch of the next batch, from 0."""
    batches: int
    """Batches that all workers together have consumed."""
    loss: float | None
    """Eq. 3, mean over the images since the last line, as for the next three values."""
    denoising: float | None
    """First term of Eq. 3."""
    L_attn: float | None
    """Eq. 2."""
    attention_in_mask: float | None
    """Share of the entities' attention that falls inside their masks, 0 to 1."""
    learning_rate: float
    """Learning rate of the last step."""
    gradient_norm: float | None
    """Norm of the gradients of the last step, before clipping."""
    identity_probe: float | None
    """Result of `identity_probe` for the last batch."""
    images_per_s: float
    """Images per second of all workers."""
    stall: float
    """Share of the time that the first worker waited for data, 0 to 1."""
    tflops: float | None
    """TFLOP/s of the first worker, without recomputation."""
    mfu: float | None
    """Share of the device's peak, 0 to 1."""
    seconds_per_step: float
    """Mean duration of a step since the last line."""
    skipped_rows: int
    """Rows since the last line that could not be trained on."""
    steps_left_out: int
    """Steps since the last line that were skipped because their gradients were not finite."""
    gates: dict[str, float]
    """tanh(gamma) of each adapter."""
    evaluation: Mapping[str, float]
    """Scores of the evaluation at this step by name; empty without one."""
    failed_evaluations: int
    """Evaluations since the last line that failed."""


class MetricsLog:
    """Writes the metrics of one job.

    Args:
        done: steps done before; lines of later steps are removed.

    Raises:
        TrainingError: the file cannot be written.
    """

    def __init__(self, out: Path, done: int) -> None:
        self._path = out / FILE
        with self._as_training_error():
            kept = [line for line in read_metrics(out) if line["step"] <= done]
            text = "".join(json.dumps(line) + "\n" for line in kept)
            publish_bytes(storage_path(self._path), text.encode())
        self._board = SummaryWriter(str(out / "tensorboard"), purge_step=done + 1)

    def write(self, values: Metrics) -> None:
        """Append the metrics after step `values["step"]`.

        Raises:
            TrainingError: the file cannot be written.
        """
        with self._as_training_error(), self._path.open("a", encoding="utf-8") as file:
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
    def _as_training_error(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise TrainingError(
                f"cannot write {self._path}: {error.strerror}. Make it writable and use --resume latest"
            ) from error


def read_metrics(out: Path) -> list[Metrics]:
    """Return the lines that a job wrote, without an incomplete last line of a killed job.

    Damaged lines, such as a loss of power leaves, are left out with a warning.
    """
    path = out / FILE
    if not path.exists():
        return []
    whole = path.read_bytes().rpartition(b"\n")[0]
    lines = [_parse(line) for line in whole.split(b"\n")] if whole else []
    if damaged := [number for number, line in enumerate(lines, start=1) if line is None]:
        log.warning("%s: %d damaged lines are left out, first line %d", path, len(damaged), damaged[0])
    return [line for line in lines if line is not None]


def _parse(line: bytes) -> Metrics | None:
    """Return a line of the file; None if it is damaged."""
    try:
        values: Metrics = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return values if isinstance(values, dict) and type(values.get("step")) is int else None


def progress_line(values: Metrics, steps: int) -> str:
    """Return `values` in words, with the time left until step `steps`."""
    left = (steps - values["step"]) * values["seconds_per_step"]
    losses = f"loss {_format_or_none(values['loss'])}  L_attn {_format_or_none(values['L_attn'])}"
    in_mask = _format_or_none(values["attention_in_mask"], ".0%")
    mfu = "" if values["mfu"] is None else f"  MFU {values['mfu']:.1%}"
    return (
        f"step {values['step']:,} of {steps:,}  {losses}  in mask {in_mask}  "
        f"{format_rate(values['images_per_s'])} images/s{mfu}  "
        f"waited for data {values['stall']:.1%}  {format_duration(left)} left"
    )


def format_rate(rate: float) -> str:
    """Return a rate with at least three digits: a slow one does not read as zero."""
    return f"{rate:.1f}" if rate >= 100 else f"{rate:.3g}"


def format_duration(seconds: float) -> str:
    """Return a duration in its two largest units."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    units = [f"{days} d", f"{hours} h", f"{minutes} min", f"{rest} s"]
    first = next((i for i, amount in enumerate((days, hours, minutes)) if amount), 3)
    return " ".join(units[first : first + 2])


def _format_or_none(value: float | None, form: str = ".4f") -> str:
    return "none" if value is None else format(value, form)


def _scalars(values: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, float]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _scalars(value, f"{prefix}{name}/")
        elif isinstance(value, int | float):
            yield f"{prefix}{name}", value
