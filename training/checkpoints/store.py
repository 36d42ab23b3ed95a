"""Checkpoints: folders that appear complete or not at all, and continue only the run that wrote them.

    OUT/checkpoints/step-00001000/
      __R_N.distcp .metadata     tensors in torch's distributed format, each worker's part in its own file
      record.json                position, settings, stamp of the dataset, checksums of the other files
    OUT/checkpoints/best         link to the checkpoint with the best evaluation, if the job evaluates

A checkpoint can be resumed with any number of workers. It holds no state of random number generators, because all
random numbers of a step follow from the numbers of its batches.
"""

import logging
import re
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from infra.storage import fsync_folder
from training.checkpoints.checksums import file_sums
from training.checkpoints.record import Record, Settings, find_damage, read_record, write_record
from training.checkpoints.retention import best_checkpoints, link_best, lowest_loss
from training.config import EvaluationConfig, TrainingJob
from training.distributed.parallel import Worker, broadcast_from_leader, wait_for_all
from training.errors import CheckpointError
from training.optimization.state import Position

log = logging.getLogger(__name__)
LATEST, LATEST_GOOD = "latest", "latest-good"
CHANGEABLE_ON_RESUME = frozenset(
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
        "training.evaluation",
        "training.non_finite_limit",
        "training.max_failures",
        "training.data.dataset",
        "training.data.processes",
        "training.data.prefetch",
        "training.data.row_groups_mb",
    }
)
"""Settings and tables of settings that may change when a job is resumed.

They affect speed, duration and where the job runs, but not the result, except for the learning rate and, through
workers and accumulation, the number of images in a step. The dataset is identified by its stamp, not by its path."""
_NAME = re.compile(r"step-\d{8}")
"""Names of checkpoints; folders with other names, such as copies, are never removed."""
Tensors = Mapping[str, Mapping[str, Tensor]]
"""Tensors of a training state by kind and name."""


@dataclass(frozen=True)
class RunIdentity:
    """Settings and data that a checkpoint must share with the run that resumes it."""

    settings: Mapping[str, object]
    """Values of the settings that may not change, by dotted name."""
    stamp: str
    """Stamp of the dataset and the order of its rows."""

    @classmethod
    def of(cls, job: TrainingJob, stamp: str) -> "RunIdentity":
        """Return the identity of a job on data of `stamp`."""
        return cls(_fixed_settings(job.model_dump(mode="json")), stamp)


class Checkpoints:
    """The checkpoints of one run.

    Args:
        keep: number of latest checkpoints to keep; the one with the lowest loss is kept as well.
        evaluation: settings of the job's evaluation; the best checkpoints by its metric are kept in place of the one
            with the lowest loss.
    """

    def __init__(self, out: Path, keep: int, worker: Worker, evaluation: EvaluationConfig | None = None) -> None:
        self.folder = out / "checkpoints"
        self._keep, self._worker, self._evaluation = keep, worker, evaluation
        self._unreadable: set[Path] = set()

    def all(self) -> list[Path]:
        """Return the folders of all checkpoints, from the first to the last."""
        return _checkpoints_in(self.folder)

    def latest(self) -> Path | None:
        """Return the folder of the last checkpoint; None where there is none."""
        return max(self.all(), default=None)

    def save(
        self,
        tensors: Tensors,
        job: TrainingJob,
        stamp: str,
        position: Position,
        loss: float,
        scores: Mapping[str, float] | None = None,
    ) -> Path:
        """Write a checkpoint under a temporary name, rename it, and remove checkpoints that are no longer kept.

        Args:
            loss: mean loss of the images since the checkpoint before.
            scores: scores of the evaluation at this step.

        Raises:
            CheckpointError: the checkpoint cannot be written; earlier ones are unchanged.
        """
        folder = self.folder / f"step-{position.step:08d}"
        partial = folder.with_name(f".{folder.name}.partial")
        with self._remove_on_failure(partial, folder):
            if self._worker.is_leader:
                shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir(parents=True)
            wait_for_all(self._worker)
            with _ignore_single_process_warning():
                save(_as_dicts(tensors), checkpoint_id=partial, no_dist=self._worker.count == 1)
            files = file_sums(partial, self._worker)
            if self._worker.is_leader:
                settings = job.model_dump(mode="json")
                record = Record(position, loss, self._worker.count, settings, stamp, files, scores or {})
                write_record(partial, record)
                partial.rename(folder)
                fsync_folder(self.folder)
        if self._worker.is_leader:
            self._prune()
        return folder

    def restore(self, path: Path, tensors: Tensors, identity: RunIdentity) -> Position:
        """Read a checkpoint into `tensors` and return its position.

        Raises:
            CheckpointError: the checkpoint is damaged, belongs to other data or settings, or cannot be read.
        """
        if damage := find_damage(path, self._worker):
            raise self._damage_error(path, damage)
        record = read_record(path)
        check_same_run(path, record, identity)
        _load(path, tensors, single_process=self._worker.count == 1)
        return record.position

    def record(self, path: Path) -> Record:
        """Read the record of the checkpoint in `path`. Called by one process alone.

        Raises:
            CheckpointError: the record cannot be read; the message names an earlier intact checkpoint.
        """
        try:
            return read_record(path)
        except CheckpointError as error:
            raise self._damage_error(path, str(error)) from error

    def latest_good(self) -> Path | None:
        """Return the last intact checkpoint and rename the damaged ones after it; None where there is no checkpoint.

        Called by one process alone.

        Raises:
            CheckpointError: all checkpoints are damaged; none is renamed.
        """
        damaged: list[tuple[Path, str]] = []
        for path in reversed(self.all()):
            damage = find_damage(path, self._worker)
            if damage is None:
                for each, why in damaged:
                    log.warning("%s; moved to %s", why, _move_aside(each))
                return path
            damaged.append((path, damage))
        if damaged:
            raise self._damage_error(*damaged[0])
        return None

    def _damage_error(self, path: Path, damage: str) -> CheckpointError:
        """Return the error for a damaged checkpoint, with a remedy. All workers call this together."""
        if not _NAME.fullmatch(path.name):
            return CheckpointError(damage)
        candidates = broadcast_from_leader(self._worker, _checkpoints_in(path.parent))
        earlier = [one for one in candidates if one.name < path.name]
        good = next((one for one in reversed(earlier) if find_damage(one, self._worker) is None), None)
        if good is None:
            cure = "No earlier checkpoint is intact: give another one, or start in another training.out"
        else:
            resume = LATEST_GOOD if good.parent == self.folder else good
            cure = f"{good} is intact: --resume {resume} continues from it"
        return CheckpointError(f"{damage}. {cure}")

    def sweep(self) -> None:
        """Remove the partly written and partly removed checkpoints of killed runs."""
        for leftover in self.folder.glob(".step-*"):
            shutil.rmtree(leftover, ignore_errors=True)

    def _prune(self) -> None:
        records = self._records()
        best = best_checkpoints(records, self._evaluation) if self._evaluation else []
        if best:
            link_best(best[0])
        kept = {*sorted(records)[-self._keep :], *(best or lowest_loss(records))}
        for path in records.keys() - kept:
            gone = path.with_name(f".{path.name}.gone")
            try:
                path.rename(gone)  # so that no reader sees a partly removed checkpoint
                shutil.rmtree(gone)
            except OSError as error:
                log.warning("%s is no longer needed, but cannot be removed: %s", path, error)

    def _records(self) -> dict[Path, Record]:
        """Return the readable records of the checkpoints; checkpoints with other records are never removed."""
        records: dict[Path, Record] = {}
        for path in self.all():
            try:
                records[path] = read_record(path)
            except CheckpointError as error:
                if path not in self._unreadable:
                    log.warning("%s; it is never removed", error)
                self._unreadable.add(path)
        return records

    @contextmanager
    def _remove_on_failure(self, partial: Path, folder: Path) -> Iterator[None]:
        try:
            yield
        except (OSError, RuntimeError, CheckpointException) as error:
            if self._worker.is_leader:
                shutil.rmtree(partial, ignore_errors=True)
            if _is_lost_worker(error, single_process=self._worker.count == 1):
                raise
            last = self.latest()
            earlier = "there is no earlier one" if last is None else f"the last one is {last}"
            raise CheckpointError(f"cannot write the checkpoint {folder}: {error_line(error)}; {earlier}") from error


def check_same_run(path: Path, record: Record, identity: RunIdentity) -> None:
    """Check that the checkpoint belongs to the run with this identity.

    Raises:
        CheckpointError: it does not; the message names the settings that differ, or both datasets.
    """
    recorded = _fixed_settings(_add_defaults(record.settings))
    names = sorted(recorded.keys() | identity.settings.keys())
    if changed := [name for name in names if recorded.get(name) != identity.settings.get(name)]:
        changes = "; ".join(
            f"{name} was {recorded.get(name)!r}, is {identity.settings.get(name)!r}" for name in changed
        )
        raise CheckpointError(f"{path} has other settings: {changes}. Set them back, or start in another training.out")
    if record.stamp != identity.stamp:
        raise CheckpointError(
            f"{path} was trained on another dataset ({record.stamp}, this one is {identity.stamp}). Set "
            "training.data.dataset to that dataset, or start in another training.out"
        )


def read_tensors(path: Path, tensors: Tensors) -> None:
    """Read the checkpoint's tensors into the tensors of the same names in `tensors`, in this process alone.

    Raises:
        CheckpointError: a tensor is missing, or a file is missing or damaged.
    """
    if damage := find_damage(path, Worker()):
        raise CheckpointError(damage)
    _load(path, tensors, single_process=True)


def _load(path: Path, tensors: Tensors, single_process: bool) -> None:
    try:
        with _ignore_single_process_warning():
            load(_as_dicts(tensors), checkpoint_id=path, no_dist=single_process)
    except (OSError, RuntimeError, ValueError, CheckpointException) as error:
        if _is_lost_worker(error, single_process):
            raise
        raise CheckpointError(f"{path} cannot be read: {error_line(error)}") from error


def error_line(error: BaseException) -> str:
    """Return the first line of an error, or of the operating system's error that caused it."""
    chain = [next(iter(error.failures.values()))[0] if isinstance(error, CheckpointException) else error]
    while before := chain[-1].__cause__ or chain[-1].__context__:
        chain.append(before)
    cause = next((one for one in chain if isinstance(one, OSError)), chain[0])
    return f"{type(cause).__name__}: {cause}".splitlines()[0]


def _is_lost_worker(error: BaseException, single_process: bool) -> bool:
    """Return whether the error means that a worker was lost: the checkpoint is not at fault, and a retry may succeed.

    Errors of files reach all workers as a `CheckpointException`.
    """
    return not single_process and isinstance(error, RuntimeError)


def _checkpoints_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("step-*") if _NAME.fullmatch(path.name) and path.is_dir())


def _move_aside(path: Path) -> Path:
    """Rename the folder `path` so that it no longer counts as a checkpoint, and return its new path."""
    number = 1
    while (aside := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    return path.rename(aside)


@contextmanager
def _ignore_single_process_warning() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield


def _as_dicts(tensors: Tensors) -> dict[str, dict[str, Tensor]]:
    return {kind: dict(named) for kind, named in tensors.items()}


def _add_defaults(settings: Settings) -> Settings:
    """Return the settings of a checkpoint, with defaults for settings that its version did not have."""
    try:
        return TrainingJob.model_validate(settings).model_dump(mode="json")
    except ValidationError:  # it has settings that no longer exist; the comparison names them
        return settings


def _fixed_settings(settings: Settings) -> dict[str, object]:
    """Return the settings that may not change when a job is resumed, by dotted name."""
    changeable = tuple(f"{name}." for name in CHANGEABLE_ON_RESUME)
    return {name: value for name, value in _flatten(settings) if not f"{name}.".startswith(changeable)}


def _flatten(tree: Settings, prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
