"""Validates a dataset: runs all checks over all shards, in parallel processes, and collects the faults.

A process holds the rows of one shard without pixels, and the images of one row group, so memory does not grow with the
dataset.
"""

import multiprocessing
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

import duckdb

from labeling.audit import Audit, audit
from labeling.correction.mask_job import MASKS
from labeling.errors import CorrectionError, LabelingError, QualityError, ShardCorrupt
from labeling.quality.marks import AUDITS, audit_names, read_audited_images
from labeling.sdd.corrections import read_corrections, refuse_unknown_images
from labeling.sdd.layers import FOLDERS
from labeling.sdd.schema import Layer
from labeling.sdd.shards import ShardStore
from labeling.validation.audit_checks import AUDIT_CHECKS, AuditFile
from labeling.validation.contents import ShardContents, StoredMask
from labeling.validation.correction_masks import drawn_masks, segmented_masks
from labeling.validation.faults import Fault
from labeling.validation.file_checks import BYTE_CHECKS, FILE_CHECKS, PREREQUISITES
from labeling.validation.label_checks import LABEL_CHECKS
from labeling.validation.layer_file import LayerFile
from labeling.validation.link_checks import LINK_CHECKS
from labeling.validation.list_checks import LIST_CHECKS, key_table
from labeling.validation.optional_checks import OPTIONAL_CHECKS
from labeling.validation.picture_checks import PICTURE_CHECKS, Picture

T = TypeVar("T")
Check = Callable[[T], Iterator[Fault]]
_PICTURES = (Layer.IMAGES, Layer.SDD)
"""Layers with encoded images."""
_PLACE = re.compile(r"(\w+)/(shard-\d{5,})\.parquet\b")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """Part of a dataset that is checked, and of its faults that is kept."""

    layers: tuple[str, ...] = tuple(FOLDERS)
    """Layers and optional folders whose faults count, beside those of corrections/ and audits/. The others are read
    where needed."""
    pixels: bool = True
    """Whether images are decoded, and files compared with their checksums."""
    kept_faults: int = 20
    """Faults of each check that are kept; all are counted."""


@dataclass(slots=True)
class Findings:
    """Rows that were read and faults that were found."""

    scope: Scope
    shards: int = 0
    """Shards of the dataset."""
    done: int = 0
    """Shards that were checked."""
    rows: Counter[str] = field(default_factory=Counter)
    """Checked rows by layer or optional folder."""
    counts: Counter[str] = field(default_factory=Counter)
    """Faults by check."""
    faults: list[Fault] = field(default_factory=list)
    """First faults of each check."""

    def run(self, checks: Iterable[Check[T]], subject: T) -> bool:
        """Run checks on a subject; return whether there is no fault."""
        found = False
        for check in checks:
            for fault in check(subject):
                self.add(replace(fault, check=check.__name__))
                found = True
        return not found

    def add(self, fault: Fault) -> None:
        """Count a fault of the scope's layers, and keep it if it is one of the first of its check."""
        if fault.layer in FOLDERS and fault.layer not in self.scope.layers:
            return
        if self.counts[fault.check] < self.scope.kept_faults:
            self.faults.append(fault)
        self.counts[fault.check] += 1

    def merge(self, other: "Findings") -> None:
        """Add the findings of another part of the dataset."""
        kept = Counter(fault.check for fault in self.faults)
        for fault in other.faults:
            if kept[fault.check] < self.scope.kept_faults:
                self.faults.append(fault)
                kept[fault.check] += 1
        self.counts += other.counts
        self.rows += other.rows


def validate(root: str, scope: Scope, workers: int | None = None) -> Iterator[Findings]:
    """Check a dataset, and yield the findings so far: those of the footers and the list, then those of each shard too.

    Args:
        root: folder of the dataset.
        scope: part of it to check.
        workers: processes; the number of cores by default, and none for 1.

    Raises:
        LabelingError: a process died while it checked.
    """
    files = audit(root)
    shards = [(shard, _layers_of(files, shard)) for shard in shards_of(files)]
    findings = Findings(scope, shards=len(shards))
    findings.run(DATASET_CHECKS, files)
    _check_audits(files.store, findings)
    _check_list(files, findings)
    yield findings
    for part in _map(partial(check_shard, root, scope), shards, workers):
        findings.merge(part)
        findings.done += 1
        yield findings


def shards_of(files: Audit) -> list[str]:
    """Return all shards that have a readable file, in order."""
    return sorted({shard for by_shard in files.files.values() for shard in by_shard})


def complete_files(files: Audit) -> Iterator[Fault]:
    """Check that all files exist, are whole, are made from each other and of one dataset: the faults of `status`."""
    for problem in files.problems:
        place = _PLACE.search(problem.split(" ")[0])
        yield Fault(message=problem, layer=place[1] if place else "", shard=place[2] if place else "")


def usable_corrections(files: Audit) -> Iterator[Fault]:
    """Check that the files of corrections/ can be read, and correct images of the dataset."""
    try:
        corrections = read_corrections(files.store)
        if files.files[Layer.URLS]:
            refuse_unknown_images(files.store, corrections)
    except CorrectionError as error:
        yield Fault(message=str(error))


def usable_audits(files: Audit) -> Iterator[Fault]:
    """Check that the files of audits/ can be read."""
    for name in audit_names(files.store):
        try:
            read_audited_images(files.store, name)
        except QualityError as error:
            yield Fault(message=str(error), layer=AUDITS, shard=name)


DATASET_CHECKS: tuple[Check[Audit], ...] = (complete_files, usable_corrections, usable_audits)
"""Checks of all files together."""


def check_shard(root: str, scope: Scope, shard_layers: tuple[str, Sequence[str]]) -> Findings:
    """Check the files of one shard, whose footers are readable.

    Args:
        root: folder of the dataset.
        scope: part of it to check.
        shard_layers: name of the shard, and the layers and optional folders that have a file of it.
    """
    shard, layers = shard_layers
    store, findings = ShardStore(root), Findings(scope)
    files = {layer: LayerFile(store, layer, shard) for layer in layers}
    sound = {layer: file for layer, file in files.items() if findings.run(PREREQUISITES, file)}
    for layer, file in sound.items():
        findings.rows[layer] += len(file.records) if layer in scope.layers else 0
        findings.run(FILE_CHECKS, file)
    contents = ShardContents(sound, _correction_masks(store, shard, findings))
    findings.run(LINK_CHECKS, contents)
    findings.run(LABEL_CHECKS, contents)
    findings.run(OPTIONAL_CHECKS, contents)
    if scope.pixels:
        for layer in [layer for layer in files if layer in scope.layers]:
            findings.run(BYTE_CHECKS, files[layer])
        for layer in [layer for layer in _PICTURES if layer in sound and layer in scope.layers]:
            _check_pictures(sound[layer], findings)
    return findings


def _check_pictures(file: LayerFile, findings: Findings) -> None:
    try:
        for row, encoded in enumerate(file.pictures()):
            if encoded is not None:
                findings.run(PICTURE_CHECKS, Picture(file, row, encoded))
    except ShardCorrupt as error:
        findings.add(replace(file.fault(str(error)), check=PREREQUISITES[0].__name__))


def _correction_masks(store: ShardStore, shard: str, findings: Findings) -> list[StoredMask]:
    """Return the masks of corrections of a shard."""
    masks = list(drawn_masks(store, shard))
    try:
        masks += segmented_masks(store, shard)
    except ShardCorrupt as error:
        findings.add(Fault(message=str(error), layer=MASKS, shard=shard, check=PREREQUISITES[0].__name__))
    return masks


def _check_audits(store: ShardStore, findings: Findings) -> None:
    for name in audit_names(store):
        with suppress(QualityError):  # `usable_audits` reports it
            findings.run(AUDIT_CHECKS, AuditFile(store, name, read_audited_images(store, name)))


def _check_list(files: Audit, findings: Findings) -> None:
    """Check the keys of urls/, or of sdd/ where a copy of the dataset lacks urls/."""
    layer = next((layer for layer in (Layer.URLS, Layer.SDD) if files.files[layer]), None)
    if layer is None or not {layer, Layer.URLS} & set(findings.scope.layers):
        return
    try:
        with key_table(files.store, layer, sorted(files.files[layer])) as table:
            findings.run(LIST_CHECKS, table)
    except duckdb.Error as error:
        message = f"the keys cannot be read: {' '.join(str(error).split())}"
        findings.add(Fault(message=message, layer=layer, check=LIST_CHECKS[0].__name__))


def _layers_of(files: Audit, shard: str) -> list[str]:
    return [layer for layer in FOLDERS if shard in files.files[layer]]


def _map(
    check: Callable[[tuple[str, Sequence[str]]], Findings],
    shards: Sequence[tuple[str, Sequence[str]]],
    workers: int | None,
) -> Iterator[Findings]:
    """Check the shards, in processes if there are several workers and shards."""
    processes = min(workers or os.cpu_count() or 1, len(shards))
    if processes <= 1:
        yield from map(check, shards)
        return
    pool = ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn"))
    try:
        yield from pool.map(check, shards)
    except BrokenProcessPool as error:
        raise LabelingError(
            "a process died while it checked a shard, perhaps for lack of memory: run with --workers 1, which names "
            "the shard that it reads, or with --fast, which decodes no images"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def descriptions() -> dict[str, str]:
    """Return what each check compares, by its name."""
    of_files = (*PREREQUISITES, *FILE_CHECKS, *BYTE_CHECKS, *LIST_CHECKS, *LINK_CHECKS)
    of_rows = (*LABEL_CHECKS, *OPTIONAL_CHECKS, *PICTURE_CHECKS)
    checks = (*DATASET_CHECKS, *AUDIT_CHECKS, *of_files, *of_rows)
    lines = {check.__name__: (check.__doc__ or "").split("\n")[0] for check in checks}
    return {name: line.removeprefix("Check that ").removesuffix(".") for name, line in lines.items()}
