"""Each check of an audit finds the ways in which a row can break it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from labeling.quality.marks import MARKS, AuditedImage, Mark
from labeling.sdd.schema import LedgerRow, State
from labeling.sdd.shards import ShardStore
from labeling.validation.audit_checks import (
    AuditCheck,
    AuditFile,
    audited_images,
    authors_of_marks,
    marks_of_states,
    strata_of_audits,
)

SHARD = "shard-00000"
KEYS = tuple(bytes([number]) * 16 for number in range(3))
"""Keys of a kept, a dropped and a removed image."""
REASONS = ("", "small_box", "removed")
MARKED = AuditedImage(
    key=KEYS[0],
    shard=SHARD,
    state="kept",
    stratum="1 of common labels",
    stratum_images=2,
    mark=Mark.OTHER,
    author="eve",
    made_at="2026-11-30T12:00:00",
)
UNMARKED = replace(
    MARKED, key=KEYS[1], state="dropped", stratum="small_box", mark=None, author=None, made_at=None, stratum_images=1
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ShardStore:
    store = ShardStore(str(tmp_path_factory.mktemp("audited")))
    store.write("ledger", SHARD, map(_judged, KEYS, REASONS), LedgerRow, "stamp")
    return store


def _judged(key: bytes, reason: str) -> LedgerRow:
    return LedgerRow(
        key=key,
        list_row=key[0],
        url=f"https://a.example/{key[0]}.jpg",
        state="dropped" if reason else "kept",
        stage="sdd",
        reason=reason,
        detail="",
        width_px=None,
        height_px=None,
        candidates=(),
        removed_nouns=None,
    )


def faults(store: ShardStore, check: AuditCheck, *images: AuditedImage) -> list[str]:
    return [f"{fault.row} {fault.column}: {fault.message}" for fault in check(AuditFile(store, "first", images))]


@pytest.mark.parametrize("check", [audited_images, marks_of_states, authors_of_marks, strata_of_audits])
def test_a_sound_audit_has_no_fault(store: ShardStore, check: AuditCheck) -> None:
    assert faults(store, check, MARKED, UNMARKED) == []


STRATUM, RIGHT = MARKED.stratum, {"mark": Mark.RIGHTLY_DROPPED, "author": "eve", "made_at": "2026-11-30"}


@pytest.mark.parametrize(
    ("check", "change", "fault"),
    [
        (audited_images, {"key": KEYS[0]}, "key: is in the audit twice"),
        (audited_images, {"key": bytes(16 * [9])}, f"key: is no image of {SHARD}"),
        (audited_images, {"key": KEYS[2]}, "key: was removed: finish the removal with `remove ROOT`"),
        (audited_images, {"shard": "shard-00001"}, "key: is no image of shard-00001"),
        (marks_of_states, {"state": "failed"}, "state: 'failed' is neither kept nor dropped"),
        (
            marks_of_states,
            {"mark": "fine"},
            f"mark: 'fine' is no mark of dropped images: {', '.join(MARKS[State.DROPPED])}",
        ),
        (authors_of_marks, {"author": "eve"}, "author: is 'eve', though the image has no mark"),
        (authors_of_marks, RIGHT | {"author": None}, "author: is missing, though the image has a mark"),
        (authors_of_marks, RIGHT | {"made_at": None}, "made_at: None is not a time in ISO 8601"),
        (authors_of_marks, RIGHT | {"made_at": "noon"}, "made_at: 'noon' is not a time in ISO 8601"),
        (strata_of_audits, {"stratum": STRATUM}, f"stratum_images: is 1, but 2 in another row of {STRATUM!r}"),
        (
            strata_of_audits,
            {"stratum": STRATUM, "stratum_images": 2},
            f"state: is dropped, but kept in another row of {STRATUM!r}",
        ),
        (strata_of_audits, {"stratum_images": 0}, "stratum_images: is 0, but the audit has more of them"),
    ],
)
def test_a_fault_of_a_row_is_named(store: ShardStore, check: AuditCheck, change: dict[str, Any], fault: str) -> None:
    assert faults(store, check, MARKED, replace(UNMARKED, **change)) == [f"1 {fault}"]


def test_without_a_ledger_images_are_not_looked_for(tmp_path: Path) -> None:
    assert faults(ShardStore(str(tmp_path)), audited_images, replace(MARKED, key=bytes(16))) == []
