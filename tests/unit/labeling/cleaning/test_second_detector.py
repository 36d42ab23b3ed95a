"""What a second detector found drops entities by rules of their own, and is in the stamp of `sdd/` only then."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import ValidationError

from labeling.cleaning.second_detector import confirm_step
from labeling.config import CleanConfig, LabelingConfig, RulesConfig
from labeling.finish import FinishJob
from labeling.removal import remove
from labeling.sdd.query import connect
from labeling.sdd.removed import Removal
from labeling.sdd.schema import CONFIRMATIONS, Confirmation, Confirmations, LedgerRow
from labeling.sdd.shards import Refused, ShardStore
from labeling.steps import Step, chain_stages
from tests.factories import CAT, DOG, SHARD, key, refused
from tests.faulty_stage import FaultyConfig, FaultyStage
from tests.unit.labeling.cleaning.labelled_images import LAYERS, hashed, verdicts, write_labelled

AGREES = Confirmation(confirmed_iou=0.9, confirmed_score=0.8, label_quality=0.95, mask_quality=0.9)
ELSEWHERE = replace(AGREES, confirmed_iou=0.3)
SWAPPED = replace(AGREES, label_quality=0.2)
FOUND: Mapping[int, tuple[Confirmation, ...]] = {
    1: (AGREES, AGREES),
    2: (AGREES, ELSEWHERE),
    3: (ELSEWHERE, SWAPPED),
}
"""Confirmations of dog and cat; the second detector failed on image 4."""
ON = {"confirm": {"enabled": True, "checkpoint": "miniature/weights/grounding_dino"}}
RULES = {"min_confirmed_iou": 0.5, "min_label_quality": 0.4}


def step(root: Path, **detector: object) -> Step:
    config = LabelingConfig.model_validate({"root": str(root), "confirm": ON["confirm"] | detector})
    entities = type("Named", (FaultyStage,), {"name": "entities"})(FaultyConfig())
    found = confirm_step(config, chain_stages([(entities, "")]))
    assert found is not None
    return found


@pytest.fixture
def confirm(tmp_path: Path) -> Step:
    """Step of the second detector, whose files exist."""
    write_labelled(tmp_path, [[hashed(n) for n in range(1, 5)]], {key(n): (DOG, CAT) for n in range(1, 5)})
    made = step(tmp_path)
    rows: list[Confirmations | Refused] = [
        Confirmations(key=key(n), confirmations=found, overlooked=()) for n, found in FOUND.items()
    ]
    store = ShardStore(str(tmp_path))
    store.write_outcomes(CONFIRMATIONS, SHARD, [*rows, refused(4)], Confirmations, made.stamp("entities"))
    return made


def job(root: Path, confirm: Step, **clean: object) -> FinishJob:
    used = CleanConfig.model_validate(clean)
    return FinishJob(
        root=str(root),
        rules=RulesConfig(),
        layers=LAYERS,
        clean=used,
        confirm=confirm if used.needs_second_detector else None,
        replace=True,
    )


def test_unconfirmed_entities_are_dropped_with_their_reason(tmp_path: Path, confirm: Step) -> None:
    judged = verdicts(job(tmp_path, confirm, **RULES), [SHARD])
    assert judged == {
        1: ("", ""),
        2: ("", ""),
        3: ("unconfirmed", "unconfirmed; doubtful_label"),
        4: ("not_compared", "not_compared; not_compared"),
    }
    rows = ShardStore(str(tmp_path)).read(LedgerRow, ("ledger",), SHARD)
    assert [candidate.broken for candidate in list(rows)[1].candidates] == [(), ("unconfirmed",)]
    stamp = ShardStore(str(tmp_path)).stamp("ledger", SHARD)
    assert stamp is not None
    assert Counter(stamp.counts) == {"kept": 2, "dropped": 2}


def test_entities_that_are_most_likely_wrong_come_first_in_sql(tmp_path: Path, confirm: Step) -> None:
    verdicts(job(tmp_path, confirm), [SHARD])
    rows = connect(str(tmp_path)).execute("SELECT key, label, round(quality::DOUBLE, 3) FROM label_errors").fetchall()
    assert rows[:3] == [(key(3), "cat", 0.2), (key(2), "cat", 0.3), (key(3), "dog", 0.3)]
    assert len(rows) == 6, "image 4 was not compared"


def test_without_a_rule_nothing_is_dropped_and_stamps_are_what_they_were(tmp_path: Path, confirm: Step) -> None:
    plain = FinishJob(root=str(tmp_path), rules=RulesConfig(), layers=LAYERS)
    store = ShardStore(str(tmp_path))
    assert job(tmp_path, confirm).expected_stamp(store, SHARD) == plain.expected_stamp(store, SHARD)
    assert {reason for reason, _ in verdicts(job(tmp_path, confirm), [SHARD]).values()} == {""}


def test_files_of_another_second_detector_are_other_files(tmp_path: Path, confirm: Step) -> None:
    other = step(tmp_path, box_threshold=0.4)
    store = ShardStore(str(tmp_path))
    one, two = (job(tmp_path, each, **RULES).expected_stamp(store, SHARD) for each in (confirm, other))
    assert one != two
    assert step(tmp_path, device="cpu").identity == confirm.identity


def test_a_removed_image_leaves_what_the_second_detector_found(tmp_path: Path, confirm: Step) -> None:
    verdicts(job(tmp_path, confirm, **RULES), [SHARD])
    gone = Removal(made_at="2026-11-30T12:00:00+00:00", urls=("https://example.com/2.jpg",), hosts=())
    assert [each.listed for each in remove(ShardStore(str(tmp_path)), "first", gone)] == [1]
    assert ShardStore(str(tmp_path)).keys(CONFIRMATIONS, SHARD) == [key(1), key(3), key(4)]
    assert job(tmp_path, confirm, **RULES).make(SHARD).reused


def test_rules_about_a_second_detector_need_one() -> None:
    with pytest.raises(ValidationError, match=r"set labeling\.confirm\.enabled=true too"):
        LabelingConfig.model_validate({"root": "-", "clean": RULES})
    assert LabelingConfig.model_validate({"root": "-", "clean": RULES, **ON}).clean.needs_second_detector
