"""The last step of a build: the rules of App. B.1 make `sdd/`, and every input URL gets its row in `ledger/`.

It runs no network, so a change of rules takes minutes. It writes the ledger of a shard last: a shard with a ledger is
finished.
"""

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Self

from infra.storage import sweep
from labeling.config import RulesConfig
from labeling.errors import ShardCorrupt, StageFailed
from labeling.execution.report import ShardReport, failure_report
from labeling.rules import broken_rules, mask_fill
from labeling.sdd.lock import shard_lock
from labeling.sdd.schema import (
    Candidate,
    Entity,
    JudgedCandidate,
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
from labeling.steps import stamp_of

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """Columns that the rules read: all of `sdd/` except the entities."""

    key: bytes
    caption: str
    candidates: tuple[Candidate, ...]
    width_px: int
    height_px: int
    url: str
    alt_text: str | None
    aesthetic_score: float | None
    punsafe: float | None
    pwatermark: float | None
    similarity: float | None
    sha256: bytes
    perceptual_hash: int
    media_type: str
    image: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class TaggedCaption:
    """Columns of nouns/ that the ledger reads. They include the state, so refused images are read too."""

    key: bytes
    state: str
    removed_nouns: tuple[RemovedNoun, ...] | None


class JudgedImage(NamedTuple):
    """Columns of the ledger for an image that the rules judged."""

    width_px: int | None
    height_px: int | None
    candidates: tuple[JudgedCandidate, ...]


NOT_JUDGED = JudgedImage(None, None, ())
"""Columns of the ledger for an image that the rules did not judge."""


@dataclass
class Judgement:
    """Verdicts of the rules on the images of one shard, collected while its `sdd/` is written."""

    rules: RulesConfig
    images: dict[bytes, JudgedImage]
    verdicts: dict[bytes, Verdict]

    def rows(self, labelled: Iterator[Labelled]) -> Iterator[SddRow]:
        """Judge the images and yield the rows of those that keep an entity."""
        for image in labelled:
            broken = broken_rules(image.candidates, image.width_px, image.height_px, self.rules)
            judged = tuple(map(_judged_candidate, image.candidates, broken))
            self.images[image.key] = JudgedImage(image.width_px, image.height_px, judged)
            kept = [_entity(c) for c, names in zip(image.candidates, broken, strict=True) if not names]
            if kept:
                yield _sdd_row(image, kept)
            else:
                self.verdicts[image.key] = _drop_verdict(broken)


@dataclass
class FinishJob:
    """Job that makes `sdd/` and `ledger/`, shard by shard."""

    root: str
    rules: RulesConfig
    layers: tuple[str, ...]
    """Layers from images/ to entities/, whose stages may have refused an image."""
    replace: bool = False

    name: ClassVar[str] = Layer.SDD
    device: ClassVar[None] = None

    def make(self, shard: str) -> ShardReport:
        """Make the shard's two files, unless they exist; reports errors instead of raising them."""
        try:
            return self._make(shard)
        except Exception as error:
            return failure_report(Layer.SDD, shard, error)

    def for_worker(self, number: int) -> Self:
        """Return the job itself: it has no process."""
        return self

    def close(self) -> None:
        """Do nothing, as there are no processes to end."""

    def stop(self) -> None:
        """Do nothing: a shard takes seconds, and is finished."""

    def expected_stamp(self, shard: str) -> str | None:
        """Return the stamp that the shard's files will have; None if its entities do not exist yet."""
        parent = ShardStore(self.root).stamp(self.layers[-1], shard)
        return finish_stamp(self.rules, parent.stamp) if parent else None

    def _make(self, shard: str) -> ShardReport:
        store = ShardStore(self.root)
        start = time.monotonic()
        with shard_lock(store.root, Layer.SDD, shard):
            stamp = self.expected_stamp(shard)
            if stamp is None:
                raise StageFailed(f"{store.path(self.layers[-1], shard)} does not exist")
            sdd, ledger = store.stamp(Layer.SDD, shard), store.stamp(Layer.LEDGER, shard)
            if sdd and ledger and sdd.stamp == ledger.stamp == stamp:
                return ShardReport(stage=Layer.SDD, shard=shard, counts=ledger.counts, reused=True)
            for layer in (Layer.SDD, Layer.LEDGER):
                if not self.replace:
                    store.has(layer, shard, stamp)
                sweep(store.path(layer, shard))
            judgement = Judgement(self.rules, {}, {})
            rows = judgement.rows(store.read(Labelled, self.layers, shard))
            store.write(Layer.SDD, shard, rows, SddRow, stamp, replace=True)
            rows_of_ledger = _ledger_rows(store, shard, self.layers, judgement)
            counts = store.write(Layer.LEDGER, shard, rows_of_ledger, LedgerRow, stamp, replace=True)
        return ShardReport(stage=Layer.SDD, shard=shard, counts=counts, seconds=time.monotonic() - start)


def finish_stamp(rules: RulesConfig, parent: str) -> str:
    """Return the stamp of `sdd/` and `ledger/` that are made from an entities/ file stamped `parent`."""
    return stamp_of(Layer.SDD, rules.fingerprint(), parent)


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
        image = judgement.images.get(listed.key, NOT_JUDGED)
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
    )


def _drop_verdict(broken: list[tuple[str, ...]]) -> Verdict:
    """Return the verdict on an image without an entity, by the first rule of the candidate that breaks fewest."""
    if not broken:
        return Verdict(state=State.DROPPED, reason="no_candidate")
    fewest = min(broken, key=len)
    return Verdict(state=State.DROPPED, reason=fewest[0], detail="; ".join(" ".join(names) for names in broken)[:500])


def _judged_candidate(candidate: Candidate, broken: tuple[str, ...]) -> JudgedCandidate:
    segment = candidate.segment
    return JudgedCandidate(
        label=candidate.label,
        score=candidate.score,
        box=candidate.box,
        mask_fill=None if segment is None else mask_fill(candidate.box, segment),
        predicted_iou=None if segment is None else segment.predicted_iou,
        stability=None if segment is None else segment.stability,
        broken=broken,
    )


def _entity(candidate: Candidate) -> Entity:
    assert candidate.segment is not None, "a candidate without a mask breaks the rule no_mask"
    return Entity(
        label=candidate.label,
        span_start=candidate.span_start,
        span_end=candidate.span_end,
        score=candidate.score,
        box=candidate.box,
        mask=candidate.segment.mask,
        mask_area_px=candidate.segment.area_px,
        predicted_iou=candidate.segment.predicted_iou,
        stability=candidate.segment.stability,
    )


def _sdd_row(image: Labelled, entities: list[Entity]) -> SddRow:
    return SddRow(
        key=image.key,
        caption=image.caption,
        entities=tuple(sorted(entities, key=lambda e: e.box.area_px, reverse=True)),
        width_px=image.width_px,
        height_px=image.height_px,
        url=image.url,
        alt_text=image.alt_text,
        aesthetic_score=image.aesthetic_score,
        punsafe=image.punsafe,
        pwatermark=image.pwatermark,
        similarity=image.similarity,
        sha256=image.sha256,
        perceptual_hash=image.perceptual_hash,
        media_type=image.media_type,
        image=image.image,
    )
