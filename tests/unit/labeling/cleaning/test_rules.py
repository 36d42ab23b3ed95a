"""The cleaning rules: each breaks at its limit, none by default, and the ledger has its name."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from labeling.cleaning.rules import broken_entity_rules, broken_image_rules, mask_quality
from labeling.config import CleanConfig, RulesConfig
from labeling.finish import FinishJob
from labeling.sdd.schema import Candidate, LedgerRow
from labeling.sdd.shards import ShardStore
from tests.factories import CAT, DOG, candidate, key
from tests.unit.labeling.cleaning.labelled_images import CAPTION, LAYERS, hashed, verdicts, write_labelled

IMAGES = [hashed(1, punsafe=0.3, pwatermark=0.9), hashed(2, punsafe=0.7, pwatermark=0.1), hashed(3)]
"""The third comes from a list without these columns."""
assert DOG.segment is not None
SHAKY = replace(DOG, segment=replace(DOG.segment, stability=0.4))
ZEBRA = candidate((22, 31, 62, 47), label="zebra", size=(64, 48))
NOT_IN_CAPTION = replace(ZEBRA, span_start=0, span_end=len(CAPTION))


def judge(root: Path, clean: CleanConfig, candidates: Sequence[Candidate] = (DOG,)) -> dict[int, tuple[str, str]]:
    shards = write_labelled(root, [IMAGES], {image.key: candidates for image in IMAGES})
    return verdicts(FinishJob(root=str(root), rules=RulesConfig(), layers=LAYERS, clean=clean), shards)


def test_nothing_is_cleaned_by_default(tmp_path: Path) -> None:
    judged = judge(tmp_path, CleanConfig(), [DOG, SHAKY, NOT_IN_CAPTION])
    assert {reason for reason, _ in judged.values()} == {""}


@pytest.mark.parametrize(
    ("clean", "reasons"),
    [
        ({"max_punsafe": 0.5}, {2: "unsafe"}),
        ({"max_pwatermark": 0.5}, {1: "watermark"}),
        ({"max_punsafe": 0.2, "max_pwatermark": 0.5}, {1: "unsafe", 2: "unsafe"}),
        ({"max_punsafe": 0.7, "max_pwatermark": 0.9}, {}),
        ({"min_mask_share": 0.13}, {}),
        ({"min_mask_share": 0.14}, dict.fromkeys((1, 2, 3), "near_empty_mask")),
        ({"min_mask_quality": 0.9}, {}),
        ({"min_mask_quality": 0.91}, dict.fromkeys((1, 2, 3), "low_mask_quality")),
    ],
)
def test_each_rule_breaks_at_its_limit(tmp_path: Path, clean: dict[str, float], reasons: dict[int, str]) -> None:
    """The dog covers 400 of 3,072 pixels, .1302; the network estimates its IoU as .9."""
    judged = judge(tmp_path, CleanConfig.model_validate(clean))
    assert {number: reason for number, (reason, _) in judged.items() if reason} == reasons


def test_a_doubtful_entity_goes_and_the_others_of_its_image_stay(tmp_path: Path) -> None:
    clean = CleanConfig(min_mask_quality=0.5, label_in_caption=True)
    judged = judge(tmp_path, clean, [CAT, SHAKY, NOT_IN_CAPTION])
    assert {reason for reason, _ in judged.values()} == {""}
    row = next(ShardStore(str(tmp_path)).read(LedgerRow, ("ledger",), "shard-00000"))
    broken = {candidate.label: candidate.broken for candidate in row.candidates}
    assert broken == {"cat": (), "dog": ("low_mask_quality",), "zebra": ("label_off_caption",)}


def test_a_candidate_without_a_mask_breaks_no_rule_about_masks() -> None:
    (names,) = broken_entity_rules(
        [replace(DOG, segment=None)], Captioned(), CleanConfig(min_mask_share=1.0, min_mask_quality=1.0)
    )
    assert names == ()


def test_a_caption_that_is_the_label_names_it() -> None:
    whole = replace(DOG, label=CAPTION, span_start=0, span_end=len(CAPTION))
    assert broken_entity_rules([whole], Captioned(), CleanConfig(label_in_caption=True)) == [()]


def test_a_mask_beside_its_box_is_doubtful() -> None:
    assert DOG.segment is not None
    assert mask_quality(DOG.box, DOG.segment) == pytest.approx(0.9)
    aside = replace(DOG.segment, mask=replace(DOG.segment.mask, x0=10))
    assert mask_quality(DOG.box, aside) == pytest.approx(1 / 3)


def test_all_rules_that_an_image_breaks_are_in_its_detail() -> None:
    assert broken_image_rules(Captioned(), CleanConfig(max_punsafe=0.1, max_pwatermark=0.1)) == ("unsafe", "watermark")


class Captioned:
    """An image of 64 x 48 pixels."""

    key = key(1)
    caption = CAPTION
    width_px = 64
    height_px = 48
    punsafe: float | None = 0.5
    pwatermark: float | None = 0.5
