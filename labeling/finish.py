"""The last step of a build: the rules of App. B.1 make `sdd/`, and every input URL gets its row in `ledger/`.

It runs no network, so a change of rules takes minutes. It writes the ledger of a shard last: a shard with a ledger is
finished.
"""

import logging
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import ClassVar, Self

from infra.storage import sweep
from labeling.cleaning import duplicates as cleaning
from labeling.cleaning.duplicates import NO_DUPLICATES, Duplicate, Duplicates
from labeling.config import CleanConfig, RulesConfig
from labeling.correction.mask_job import read_segments
from labeling.correction.replay import Outcome, corrections_by_key
from labeling.errors import ShardCorrupt, StageFailed
from labeling.execution.report import ShardReport, failure_report
from labeling.judgement import JudgedImage, Judgement, Labelled
from labeling.sdd.corrections import NO_CORRECTIONS, Corrections, ReviewedCorrection, digest
from labeling.sdd.lock import shard_lock
from labeling.sdd.schema import (
    CONFIRMATIONS,
    Confirmations,
    Layer,
    LedgerRow,
    ListedUrl,
    RemovedNoun,
    SddRow,
    State,
    Verdict,
)
from labeling.sdd.shards import ShardStore
from labeling.stages.nouns import NounStage
from labeling.steps import Step, stamp_of

log = logging.getLogger(__name__)
NO_CLEANING = CleanConfig()
"""Settings without any cleaning rule."""
REMOVED_MARK = "r"
"""First character of `Stamp.removed`, which no other part of a stamp begins with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaggedCaption:
    """Columns of nouns/ that the ledger reads. They include the state, so refused images are read too."""

    key: bytes
    state: str
    removed_nouns: tuple[RemovedNoun, ...] | None


@dataclass
class FinishJob:
    """Job that makes `sdd/` and `ledger/`, shard by shard."""

    root: str
    rules: RulesConfig
    layers: tuple[str, ...]
    """Layers from images/ to entities/, whose stages may have refused an image."""
    replace: bool = False
    corrections: Corrections = field(default_factory=lambda: NO_CORRECTIONS)
    """Corrections of people by shard. The masks of their boxes must exist: see `labeling.correction.mask_job`."""
    clean: CleanConfig = field(default_factory=CleanConfig)
    duplicates: Duplicates = field(default_factory=lambda: NO_DUPLICATES)
    """Duplicates by shard, if `clean` looks for them."""
    confirm: Step | None = None
    """Step of the second detector, whose files must exist; None if no rule reads what it found."""

    name: ClassVar[str] = Layer.SDD
    device: ClassVar[None] = None

    def make(self, shard: str) -> ShardReport:
        """Make the shard's two files, unless they exist; reports errors instead of raising them."""
        try:
            return self._make(shard)
        except Exception as error:
            return failure_report(Layer.SDD, shard, error)

    def report_of_finished(self, store: ShardStore, shard: str) -> ShardReport | None:
        """Return the report of a shard whose two files have the expected stamp; None where there is work to do."""
        return self._report_of_finished(store, shard, self.expected_stamp(store, shard))

    def for_worker(self, number: int) -> Self:
        """Return the job itself: it has no process."""
        return self

    def close(self) -> None:
        """Do nothing, as there are no processes to end."""

    def stop(self) -> None:
        """Do nothing: a shard takes seconds, and is finished."""

    def expected_stamp(self, store: ShardStore, shard: str) -> str | None:
        """Return the stamp that the shard's files will have; None if its entities do not exist yet."""
        parent = store.stamp(self.layers[-1], shard)
        if parent is None:
            return None
        corrections, duplicates = self.corrections.get(shard, ()), self.duplicates.get(shard, {})
        confirmed = self.confirm.stamp(parent.stamp) if self.confirm else ""
        return finish_stamp(self.rules, parent.stamp, corrections, parent.removed, self.clean, duplicates, confirmed)

    def _make(self, shard: str) -> ShardReport:
        store = ShardStore(self.root)
        start, start_thread_s = time.monotonic(), time.thread_time()
        with shard_lock(store.root, Layer.SDD, shard):
            stamp = self.expected_stamp(store, shard)
            if stamp is None:
                raise StageFailed(f"{store.path(self.layers[-1], shard)} does not exist")
            if finished := self._report_of_finished(store, shard, stamp):
                return finished
            for layer in (Layer.SDD, Layer.LEDGER):
                if not self.replace:
                    _refuse_other_settings(store, layer, shard, stamp)
                sweep(store.path(layer, shard))
            corrections = self.corrections.get(shard, ())
            segments = read_segments(store, shard) if corrections else {}
            duplicates = self.duplicates.get(shard, {})
            judgement = Judgement(
                self.rules,
                corrections_by_key(corrections),
                segments,
                self.clean,
                duplicates,
                self._confirmations(store, shard),
            )
            rows = judgement.rows_of(store.read(Labelled, self.layers, shard))
            store.write(Layer.SDD, shard, rows, SddRow, stamp, replace=True)
            rows_of_ledger = _ledger_rows(store, shard, self.layers, judgement)
            counts = store.write(Layer.LEDGER, shard, rows_of_ledger, LedgerRow, stamp, replace=True)
            _log_corrections(shard, judgement)
        seconds, cpu_s = time.monotonic() - start, time.thread_time() - start_thread_s
        return ShardReport(stage=Layer.SDD, shard=shard, counts=counts, seconds=seconds, cpu_s=cpu_s)

    def _report_of_finished(self, store: ShardStore, shard: str, stamp: str | None) -> ShardReport | None:
        sdd, ledger = store.stamp(Layer.SDD, shard), store.stamp(Layer.LEDGER, shard)
        if sdd and ledger and sdd.stamp == ledger.stamp == stamp:
            return ShardReport(stage=Layer.SDD, shard=shard, counts=ledger.counts, reused=True)
        return None

    def _confirmations(self, store: ShardStore, shard: str) -> dict[bytes, Confirmations]:
        if self.confirm is None:
            return {}
        return {row.key: row for row in store.read(Confirmations, (CONFIRMATIONS,), shard)}


def finish_stamp(
    rules: RulesConfig,
    parent: str,
    corrections: Sequence[ReviewedCorrection] = (),
    removed: str | None = None,
    clean: CleanConfig = NO_CLEANING,
    duplicates: Mapping[bytes, Duplicate] = MappingProxyType({}),
    confirmed: str = "",
) -> str:
    """Return the stamp of `sdd/` and `ledger/` that are made from an entities/ file stamped `parent`.

    Corrections, duplicates, confirmations and removed images, which depend on other files, are suffixes, so that
    `stamp_of_settings` tells a file with others from one of other rules.

    Args:
        rules: settings of the rules.
        parent: stamp of the entities.
        corrections: corrections of people.
        removed: `Stamp.removed` of the entities.
        clean: settings of the cleaning rules.
        duplicates: images of the shard that repeat an earlier one.
        confirmed: stamp of the confirmations that the rules read; empty for none.
    """
    stamp = stamp_of(Layer.SDD, f"{rules.fingerprint()} {clean.fingerprint()}".strip(), parent)
    return "-".join(filter(None, (stamp, digest(corrections), cleaning.digest(duplicates), confirmed, removed)))


def with_removed(stamp: str, removed: str) -> str:
    """Return a stamp of `finish_stamp` with other removed images."""
    return "-".join([*(part for part in stamp.split("-") if not part.startswith(REMOVED_MARK)), removed])


def stamp_of_settings(stamp: str) -> str:
    """Return the part of a stamp of `finish_stamp` that depends on the settings, without its suffixes."""
    return stamp.partition("-")[0]


def _refuse_other_settings(store: ShardStore, layer: str, shard: str, stamp: str) -> None:
    """Check that a file, if it exists, was made under the settings of `stamp`; its suffix may be another.

    Raises:
        ShardStale: it was not.
        ShardCorrupt: it belongs to another dataset.
    """
    former = store.stamp(layer, shard)
    if former is None or stamp_of_settings(former.stamp) != stamp_of_settings(stamp):
        store.has(layer, shard, stamp)


def _log_corrections(shard: str, judgement: Judgement) -> None:
    """Log the number of corrections by outcome, and name those that could not be applied or break a rule."""
    outcomes: Counter[str] = Counter()
    for key, image in judgement.images.items():
        for each in image.corrections or ():
            outcomes[each.outcome] += 1
            if each.outcome not in (Outcome.APPLIED, Outcome.SUPERSEDED):
                log.warning("correction of %s, %s (%s): %s", key.hex(), each.label, each.review, each.outcome)
    for key, label, broken in judgement.left_out:
        log.warning("%s: the corrected %r is not in sdd/, it breaks %s", key.hex(), label, ", ".join(broken))
    if outcomes:
        counts = ", ".join(f"{number} {outcome.replace('_', ' ')}" for outcome, number in outcomes.items())
        log.info("%s: corrections: %s", shard, counts)


def _ledger_rows(store: ShardStore, shard: str, layers: tuple[str, ...], judgement: Judgement) -> Iterator[LedgerRow]:
    refused: dict[bytes, tuple[str, Verdict]] = {}
    for layer in layers:
        refused |= {key: (layer, verdict) for key, verdict in store.verdicts(layer, shard).items()}
    refused |= {key: (Layer.SDD, verdict) for key, verdict in judgement.verdicts.items()}
    kept = Verdict(state=State.KEPT, reason="")
    removed = {row.key: row.removed_nouns for row in store.read(TaggedCaption, (NounStage.name,), shard)}
    for listed in store.read(ListedUrl, (Layer.URLS,), shard):
        if listed.key not in refused and listed.key not in judgement.images:
            raise ShardCorrupt(f"shard {shard}: no layer has a verdict on {listed.key.hex()} ({listed.url})")
        stage, verdict = refused.get(listed.key, (Layer.SDD, kept))
        image = judgement.image(listed.key)
        yield _ledger_row(listed, stage, verdict, image, removed.get(listed.key))


def _ledger_row(
    listed: ListedUrl, stage: str, verdict: Verdict, image: JudgedImage, removed: tuple[RemovedNoun, ...] | None
) -> LedgerRow:
    return LedgerRow(
        key=listed.key,
        list_row=listed.list_row,
        url=listed.url,
        width_px=image.width_px,
        height_px=image.height_px,
        state=verdict.state,
        stage=stage,
        reason=verdict.reason,
        detail=verdict.detail,
        candidates=image.candidates,
        removed_nouns=removed,
        corrections=image.corrections,
    )
