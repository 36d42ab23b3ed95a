"""Corrections in the files of a dataset: what they change, and that they change nothing else."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from labeling.config import RulesConfig, SegmentConfig, Workers
from labeling.correction.mask_job import MASKS, CorrectionMaskJob, CorrectionMaskStage
from labeling.errors import CorrectionError
from labeling.finish import FinishJob
from labeling.sdd import masks, shards
from labeling.sdd.arrow import schema_of
from labeling.sdd.corrections import (
    Action,
    Correction,
    SeenEntity,
    read_corrections,
    refuse_unknown_images,
    write_corrections,
)
from labeling.sdd.query import connect
from labeling.sdd.schema import Box, Layer, LedgerRow, Mask, SddRow
from labeling.sdd.shards import ShardStore
from labeling.steps import Step
from tests.box_segmenter import load_box_segmenter
from tests.datasets import NEXT, dataset_of_two
from tests.factories import CAT, DOG, SHARD, key

LAYERS = tuple(Layer)[1:6]
BOX = Box(x0=10.0, y0=10.0, x1=40.0, y1=40.0)
THIN = Box(x0=0.0, y0=40.0, x1=64.0, y1=48.0)


def drawn(box: Box) -> Mask:
    """The mask that fills a box."""
    mask = np.zeros((48, 64), bool)
    mask[int(box.y0) : int(box.y1), int(box.x0) : int(box.x1)] = True
    return masks.encode(mask)


def of(number: int, action: Action, seen: Any = None, **others: Any) -> Correction:
    values = {"shard": SHARD if number < 20 else NEXT, "label": None, "box": None, "mask": None, "author": "eve"}
    entity = seen and SeenEntity(label=seen.label, box=seen.box)
    values |= {"key": key(number), "action": action, "entity": entity, "made_at": "2026-01-02T03:04:05Z"}
    return Correction(**(values | others))


@pytest.fixture
def store(tmp_path: Path) -> ShardStore:
    return ShardStore(str(dataset_of_two(tmp_path / "sdd")))


def build(store: ShardStore) -> list[bool]:
    """Take the corrections in, as a build does; return whether each shard was reused."""
    corrections = read_corrections(store)
    refuse_unknown_images(store, corrections)
    stage = CorrectionMaskStage(SegmentConfig(), load_box_segmenter)
    step = Step(stage=stage, reads=LAYERS, identity="boxes")
    root = str(store.root)
    masking = CorrectionMaskJob(
        step=step, root=root, workers=Workers(), run="run", torch_threads=1, replace=True, corrections=corrections
    )
    finishing = FinishJob(root=root, rules=RulesConfig(), layers=LAYERS, corrections=corrections)
    try:
        reports = [masking.make(shard) for shard in corrections]
        reports += [finishing.make(shard) for shard in (SHARD, NEXT)]
    finally:
        masking.close()
    assert [report.error for report in reports] == [None] * len(reports)
    return [report.reused for report in reports[-2:]]


def rows(store: ShardStore, row: type, layer: str, shard: str) -> dict[int, Any]:
    return {int.from_bytes(each.key, "big"): each for each in store.read(row, (layer,), shard)}


def contents(store: ShardStore) -> dict[str, bytes]:
    root = Path(store.root.path)
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*.parquet")}


def test_corrections_change_their_entities_and_nothing_else(store):
    before, sdd, ledger = contents(store), rows(store, SddRow, "sdd", NEXT), rows(store, LedgerRow, "ledger", NEXT)
    review = [
        of(22, Action.MOVED, DOG, box=BOX),
        of(22, Action.RELABELLED, CAT, label="bird"),
        of(22, Action.ADDED, label="fox", box=THIN),
        of(23, Action.REMOVED, CAT),
        of(24, Action.REMOVED, CAT),
    ]
    write_corrections(store, "first", review)
    assert build(store) == [True, False]

    after = contents(store)
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed == {
        f"sdd/{NEXT}.parquet",
        f"ledger/{NEXT}.parquet",
        "corrections/first.parquet",
        f"{MASKS}/{NEXT}.parquet",
    }
    corrected, verdicts = rows(store, SddRow, "sdd", NEXT), rows(store, LedgerRow, "ledger", NEXT)
    assert corrected.keys() == {21, 22}
    assert (corrected[21], verdicts[21]) == (sdd[21], ledger[21])
    assert replace(corrected[22], entities=()) == replace(sdd[22], entities=())
    bird, dog = corrected[22].entities
    assert (dog.label, dog.box, dog.score, dog.mask_area_px, dog.predicted_iou) == (
        "dog",
        BOX,
        1.0,
        900,
        pytest.approx(0.8),
    )
    assert masks.decode(dog.mask, 48, 64)[10:40, 10:40].all()
    assert (bird.label, bird.box, bird.mask) == ("bird", CAT.box, CAT.segment.mask)

    assert [(c.label, c.broken) for c in verdicts[22].candidates] == [
        ("dog", ()),
        ("bird", ()),
        ("fox", ("aspect_ratio",)),
    ]
    assert (verdicts[23].state, verdicts[23].reason) == ("dropped", "removed")
    assert [c.outcome for c in verdicts[24].corrections] == ["not_labelled"]
    outcomes = [(c.action, c.outcome, c.author, c.review) for c in verdicts[22].corrections]
    assert outcomes == [(action, "applied", "eve", "first") for action in ("moved", "relabelled", "added")]


def test_a_corrected_entity_that_breaks_a_rule_is_named(store, caplog):
    changes = [of(22, Action.ADDED, label="fox", box=THIN), of(22, Action.MOVED, DOG, box=BOX)]
    write_corrections(store, "first", [*changes, of(23, Action.REMOVED, CAT)])
    build(store)
    warnings = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert warnings == [f"{key(22).hex()}: the corrected 'fox' is not in sdd/, it breaks aspect_ratio"]


def test_without_its_corrections_a_shard_is_as_before(store):
    before = contents(store)
    write_corrections(store, "first", [of(23, Action.REMOVED, CAT)])
    assert build(store) == [True, False]
    assert build(store) == [True, True]
    store.path("corrections", "first").unlink()
    assert build(store) == [True, False]
    assert {name: each for name, each in contents(store).items() if not name.startswith("corrections")} == before


def test_a_second_review_corrects_what_the_first_one_made(store):
    write_corrections(store, "first", [of(22, Action.MOVED, DOG, box=BOX, mask=drawn(BOX))])
    build(store)
    made = rows(store, SddRow, "sdd", NEXT)[22].entities[1]
    write_corrections(store, "second", [of(22, Action.RELABELLED, made, label="wolf", made_at="2026-02-01T00:00:00Z")])
    build(store)
    labels = {(entity.label, entity.box) for entity in rows(store, SddRow, "sdd", NEXT)[22].entities}
    assert labels == {("wolf", BOX), ("cat", CAT.box)}


def test_the_view_shows_outcome_person_time_and_review(store):
    write_corrections(store, "first", [of(22, Action.MOVED, DOG, box=BOX, author=None)])
    write_corrections(store, "second", [of(22, Action.MOVED, DOG, box=THIN, mask=drawn(THIN))])
    build(store)
    shown = connect(str(store.root)).execute("SELECT action, label, outcome, author, review FROM corrections")
    assert shown.fetchall() == [
        ("moved", "dog", "superseded", None, "first"),
        ("moved", "dog", "applied", "eve", "second"),
    ]


def test_layers_of_version_2_take_corrections_without_their_column(store, monkeypatch):
    for layer in ("sdd", "ledger"):
        shutil.rmtree(Path(store.root.path) / layer)
    with monkeypatch.context() as before:
        before.setattr(shards, "VERSION", 2)
        before.setattr(
            shards, "schema_of", lambda row: pa.schema([f for f in schema_of(row) if f.name != "corrections"])
        )
        build(store)
    write_corrections(store, "first", [of(22, Action.RELABELLED, DOG, label="wolf")])
    assert build(store) == [True, False]
    schemas = [pq.read_schema(store.path("ledger", shard).path).remove_metadata() for shard in (SHARD, NEXT)]
    assert schemas[0] == schemas[1]
    assert "wolf" in [entity.label for entity in rows(store, SddRow, "sdd", NEXT)[22].entities]
    assert rows(store, LedgerRow, "ledger", NEXT)[22].corrections is None


def test_an_image_that_the_dataset_lacks_is_an_error_that_names_it(store):
    for correction in (of(99, Action.REMOVED, CAT), of(21, Action.REMOVED, CAT, shard="shard-00007")):
        write_corrections(store, "first", [correction])
        with pytest.raises(
            CorrectionError, match=rf"first.parquet corrects the image {correction.key.hex()} of .*lacks"
        ):
            build(store)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (of(22, Action.MOVED, DOG), "box is missing, but the action is moved"),
        (of(22, Action.MOVED, box=BOX), "entity is missing, but the action is moved"),
        (of(22, Action.ADDED, label="", box=BOX), "label is '', but the action is added"),
        (of(22, Action.MOVED, DOG, box=replace(BOX, x1=5.0)), "has no area"),
        (replace(of(22, Action.REMOVED, DOG), action="turned"), "action 'turned' is none of moved"),
        (of(22, Action.REMOVED, DOG, made_at="yesterday"), "made_at 'yesterday' is not a time"),
    ],
)
def test_an_unusable_correction_is_named(store, wrong, message):
    write_corrections(store, "first", [of(21, Action.REMOVED, DOG), wrong])
    with pytest.raises(CorrectionError, match=rf"first.parquet, row 1, image {wrong.key.hex()}: .*{message}"):
        read_corrections(store)


def test_another_file_is_named(store):
    path = Path(store.path("corrections", "first").path)
    path.parent.mkdir()
    pq.write_table(pa.table({"key": [b"x"], "entity": [0]}), path)
    with pytest.raises(CorrectionError, match=r"first\.parquet is no file of corrections"):
        read_corrections(store)
