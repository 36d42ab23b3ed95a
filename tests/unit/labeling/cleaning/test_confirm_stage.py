"""The second detector runs on images with a mask, and its boxes are compared with the candidates."""

from dataclasses import replace

from labeling.cleaning.second_detector import ConfirmInput, ConfirmStage
from labeling.config import ConfirmConfig
from labeling.sdd.schema import Confirmations, Noun
from tests.corner_detector import load_corner_detector
from tests.factories import CAT, DOG, jpeg, key

NOUNS = (Noun(label="dog", span_start=2, span_end=5), Noun(label="cat", span_start=12, span_end=15))
WITHOUT_MASKS = (replace(DOG, segment=None), replace(CAT, segment=None))


def confirmations(*rows: ConfirmInput) -> list[Confirmations]:
    stage = ConfirmStage(ConfirmConfig(), load_corner_detector)
    stage.setup()
    return stage.process([stage.prepare(row) for row in rows])


def row(number: int, candidates: tuple, encoded: bytes) -> ConfirmInput:
    return ConfirmInput(key=key(number), image=encoded, width_px=64, height_px=48, nouns=NOUNS, candidates=candidates)


def test_each_candidate_has_its_confirmation() -> None:
    first, second = confirmations(row(1, (DOG, CAT), jpeg(1, (64, 20))), row(2, (CAT,), jpeg(2, (64, 48))))
    assert [each.confirmed_iou for each in first.confirmations] == [1.0, 0.0]
    assert [each.label_quality for each in first.confirmations] == [0.5, 1.0]
    assert [box.label for box in first.overlooked] == ["cat"]
    assert (first.key, second.key) == (key(1), key(2))
    assert [box.label for box in second.overlooked] == ["dog", "cat"]


def test_an_image_without_a_mask_is_not_decoded_and_compares_nothing() -> None:
    blank, other = confirmations(row(1, WITHOUT_MASKS, b"no image"), row(2, (DOG,), jpeg(2, (64, 20))))
    assert [each.confirmed_iou for each in blank.confirmations] == [None, None]
    assert blank.overlooked == ()
    assert [each.confirmed_iou for each in other.confirmations] == [1.0]
