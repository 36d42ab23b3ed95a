"""Checkpoints: folders that are there whole or not at all, and only continue the run they are of.

    OUT/checkpoints/step-00001000/
      __R_N.distcp .metadata     tensors in torch's distributed format, each worker's part in its own file
      record.json                how far the job was, its settings, the stamp of its data, checksums of all of it

A checkpoint of one number of workers continues with any other. There is no state of random numbers in it: what is
random in a step follows from the numbers of its batches.
"""

import logging
import re
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from infra.storage import fsync_folder
from training.checkpoints.checksums import sums_of
from training.checkpoints.record import Record, damage_of, record_of, write_record
from training.config import TrainingJob
from training.errors import CheckpointError
from training.parallel import Worker, told_by_leader, wait_for_all
from training.state import Position

log = logging.getLogger(__name__)
LATEST, LATEST_GOOD = "latest", "latest-good"
FREE = frozenset(
    {
        "training.out",
        "training.steps",
        "training.optimizer.learning_rate",
        "training.optimizer.decay_steps",
        "training.accumulation",
        "training.images_per_step",
        "training.workers",
        "training.gpu",
        "training.cpus_per_worker",
        "training.strategy",
        "training.compile",
        "training.recompute",
        "training.log_every",
        "training.identity_probe",
        "training.checkpoint_every",
        "training.keep",
        "training.samples",
        "training.non_finite_limit",
        "training.max_failures",
        "training.data.dataset",
        "training.data.processes",
        "training.data.prefetch",
        "training.data.row_groups_mb",
    }
)
"""Settings, or tables of them, that may differ from the checkpoint's: they change how fast, how long and where, not
what is computed, but for the learning rate and, by workers and accumulation, how many images a step has. The dataset
is known by its stamp."""
_NAME = re.compile(r"step-\d{8}")
"""Other folders beside them, such as copies, are nobody's to remove."""
Tensors = Mapping[str, Mapping[str, Tensor]]


@dataclass(frozen=True)
class Identity:
    """What a checkpoint must have in common with the run that continues it."""

    settings: Mapping[str, Any]
    """By dotted name."""
    stamp: str
    """Of the dataset and the order of its rows."""

    @classmethod
    def of(cls, job: TrainingJob, stamp: str) -> "Identity":
        """That of a job on data of `stamp`."""
        return cls(_bound(job.model_dump(mode="json")), stamp)


class Checkpoints:
    """The checkpoints of one run.

    Args:
        keep: how many of the last stay; that of the lowest loss stays as well.
    """

    def __init__(self, out: Path, keep: int, worker: Worker) -> None:
        self.folder = out / "checkpoints"
        self._keep, self._worker = keep, worker
        self._unreadable: set[Path] = set()

    def all(self) -> list[Path]:
        """From the first to the last."""
        return _checkpoints_in(self.folder)

    def latest(self) -> Path | None:
        """The last one, where there is any."""
        return max(self.all(), default=None)

    def save(self, tensors: Tensors, job: TrainingJob, stamp: str, position: Position, loss: float) -> Path:
        """Write a checkpoint beside its place and move it there; then remove those that need not stay.

        Raises:
            CheckpointError: it cannot be written; those before it stay as they are.
        """
        folder = self.folder / f"step-{position.step:08d}"
        partial = folder.with_name(f".{folder.name}.partial")
        with self._cleared_on_failure(partial, folder):
            if self._worker.leads:
                shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir(parents=True)
            wait_for_all(self._worker)
            with _alone_without_warning():
                save(_nested(tensors), checkpoint_id=partial, no_dist=self._worker.count == 1)
            files = sums_of(partial, self._worker)
            if self._worker.leads:
                settings = job.model_dump(mode="json")
                write_record(partial, Record(position, loss, self._worker.count, settings, stamp, files))
                partial.rename(folder)
                fsync_folder(self.folder)
        if self._worker.leads:
            self._prune()
        return folder

    def restore(self, path: Path, tensors: Tensors, identity: Identity) -> Position:
        """Read a checkpoint into `tensors`; return where its run was.

        Raises:
            CheckpointError: it is damaged, is of other data or other settings, or cannot be read.
        """
        if damage := damage_of(path, self._worker):
            raise self._refusal(path, damage)
        record = record_of(path)
        refuse_another(path, record, identity)
        _load(path, tensors, alone=self._worker.count == 1)
        return record.position

    def record(self, path: Path) -> Record:
        """The record of the checkpoint in `path`. Called by one process alone.

        Raises:
            CheckpointError: it cannot be read; says which earlier checkpoint is whole.
        """
        try:
            return record_of(path)
        except CheckpointError as error:
            raise self._refusal(path, str(error)) from error

    def latest_good(self) -> Path | None:
        """The last checkpoint that is not damaged, once those after it are out of the way; None where there is none
        at all. Called by one process alone.

        Raises:
            CheckpointError: all are damaged; they stay where they are.
        """
        damaged: list[tuple[Path, str]] = []
        for path in reversed(self.all()):
            damage = damage_of(path, self._worker)
            if damage is None:
                for each, why in damaged:
                    log.warning("%s; moved to %s", why, _moved_aside(each))
                return path
            damaged.append((path, damage))
        if damaged:
            raise self._refusal(*damaged[0])
        return None

    def _refusal(self, path: Path, damage: str) -> CheckpointError:
        """The error for a checkpoint that cannot be used, with the way to go on. All workers call it together."""
        if not _NAME.fullmatch(path.name):
            return CheckpointError(damage)
        earlier = [one for one in told_by_leader(self._worker, _checkpoints_in(path.parent)) if one.name < path.name]
        good = next((one for one in reversed(earlier) if damage_of(one, self._worker) is None), None)
        if good is None:
            cure = "No checkpoint before it is whole: give another one, or begin in another training.out"
        else:
            cure = f"{good} is whole: --resume {LATEST_GOOD if good.parent == self.folder else good} goes on from it"
        return CheckpointError(f"{damage}. {cure}")

    def sweep(self) -> None:
        """Remove what killed runs left half-written or half-removed."""
        for leftover in self.folder.glob(".step-*"):
            shutil.rmtree(leftover, ignore_errors=True)

    def _prune(self) -> None:
        losses = self._losses()
        stay = {*sorted(losses)[-self._keep :], min(losses, key=lambda path: losses[path], default=None)}
        for path in losses.keys() - stay:
            gone = path.with_name(f".{path.name}.gone")
            try:
                path.rename(gone)  # no reader sees a part of it
                shutil.rmtree(gone)
            except OSError as error:
                log.warning("%s is no longer needed, but cannot be removed: %s", path, error)

    def _losses(self) -> dict[Path, float]:
        """Of the checkpoints whose records can be read; others are not ours to judge and stay."""
        losses: dict[Path, float] = {}
        for path in self.all():
            try:
                losses[path] = record_of(path).loss
            except CheckpointError as error:
                if path not in self._unreadable:
                    log.warning("%s; it is never removed", error)
                self._unreadable.add(path)
        return losses

    @contextmanager
    def _cleared_on_failure(self, partial: Path, folder: Path) -> Iterator[None]:
        try:
            yield
        except (OSError, RuntimeError, CheckpointException) as error:
            if self._worker.leads:
                shutil.rmtree(partial, ignore_errors=True)
            if _is_of_another_worker(error, alone=self._worker.count == 1):
                raise
            last = self.latest()
            stays = "there is none before it" if last is None else f"the last one is {last}"
            raise CheckpointError(f"cannot write the checkpoint {folder}: {reason(error)}; {stays}") from error


def refuse_another(path: Path, record: Record, identity: Identity) -> None:
    """Do nothing where the checkpoint is of this run.

    Raises:
        CheckpointError: it is not; names the settings that differ, or says that the data do.
    """
    theirs = _bound(_completed(record.settings))
    names = sorted(theirs.keys() | identity.settings.keys())
    if differ := [name for name in names if theirs.get(name) != identity.settings.get(name)]:
        said = "; ".join(f"{name} was {theirs.get(name)!r}, is {identity.settings.get(name)!r}" for name in differ)
        raise CheckpointError(f"{path} is of other settings: {said}. Set them back, or begin in another training.out")
    if record.stamp != identity.stamp:
        raise CheckpointError(
            f"{path} is of another dataset ({record.stamp}, this one is {identity.stamp}): give the one it was trained "
            f"on by training.data.dataset, or begin in another training.out"
        )


def read_tensors(path: Path, tensors: Tensors) -> None:
    """Read those of the checkpoint's tensors that `tensors` names into them, in this process alone.

    Raises:
        CheckpointError: one is missing, or a file is missing or damaged.
    """
    if damage := damage_of(path, Worker()):
        raise CheckpointError(damage)
    _load(path, tensors, alone=True)


def _load(path: Path, tensors: Tensors, alone: bool) -> None:
    try:
        with _alone_without_warning():
            load(_nested(tensors), checkpoint_id=path, no_dist=alone)
    except (OSError, RuntimeError, ValueError, CheckpointException) as error:
        if _is_of_another_worker(error, alone):
            raise
        raise CheckpointError(f"{path} cannot be read: {reason(error)}") from error


def reason(error: BaseException) -> str:
    """The first line of what went wrong, in the words of the system where it was the system that refused."""
    chain = [next(iter(error.failures.values()))[0] if isinstance(error, CheckpointException) else error]
    while before := chain[-1].__cause__ or chain[-1].__context__:
        chain.append(before)
    told = next((one for one in chain if isinstance(one, OSError)), chain[0])
    return f"{type(told).__name__}: {told}".splitlines()[0]


def _is_of_another_worker(error: BaseException, alone: bool) -> bool:
    """Whether a worker was lost meanwhile, which is no fault of the checkpoint: another attempt may not meet it again.
    What goes wrong with files reaches all workers as a `CheckpointException`."""
    return not alone and isinstance(error, RuntimeError)


def _checkpoints_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("step-*") if _NAME.fullmatch(path.name) and path.is_dir())


def _moved_aside(path: Path) -> Path:
    """The folder `path` under a name that is no checkpoint's."""
    number = 1
    while (aside := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    return path.rename(aside)


@contextmanager
def _alone_without_warning() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield


def _nested(tensors: Tensors) -> dict[str, Any]:
    return {kind: dict(named) for kind, named in tensors.items()}


def _completed(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """The settings of a checkpoint, with those that are newer than it at their defaults."""
    try:
        return TrainingJob.model_validate(settings).model_dump(mode="json")
    except ValidationError:  # it has settings that are gone: they are named as they are
        return settings


def _bound(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Those that may not differ, by dotted name."""
    free = tuple(f"{name}." for name in FREE)
    return {name: value for name, value in _flat(settings) if not f"{name}.".startswith(free)}


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
