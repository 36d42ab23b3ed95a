"""Entities of an image after several reviews."""

from dataclasses import replace
from typing import Any

import pytest

from labeling.correction.replay import correct
from labeling.sdd.corrections import Action, Correction, ReviewedCorrection, SeenEntity
from labeling.sdd.schema import Box, Candidate
from tests.factories import CAT, DOG, key

MOVED = Box(x0=2.0, y0=2.0, x1=30.0, y1=30.0)
MOVED_ON = Box(x0=4.0, y0=4.0, x1=32.0, y1=32.0)
CAPTION = "a dog and a cat"


def seen(candidate: Candidate, **others: Any) -> SeenEntity:
    return replace(SeenEntity(label=candidate.label, box=candidate.box), **others)


def correction(action: Action, entity: SeenEntity | None, review: str = "first", **others: Any) -> ReviewedCorrection:
    values = {"key": key(1), "shard": "shard-00000", "label": None, "box": None, "mask": None, "author": "eve"}
    made = Correction(**(values | {"action": action, "entity": entity, "made_at": None} | others))
    return ReviewedCorrection(made, review)


def corrected(*corrections: ReviewedCorrection):
    """Labels and boxes after the corrections, of what was not removed, and the outcome of each correction."""
    image = correct((DOG, CAT), CAPTION, 64, 48, corrections)
    left = [(c.candidate.label, c.candidate.box) for c in image.candidates if not c.is_removed]
    return left, [each.outcome for each in image.corrections]


def test_a_moved_entity_has_the_new_box_the_score_of_a_person_and_no_mask():
    image = correct((DOG, CAT), CAPTION, 64, 48, [correction(Action.MOVED, seen(DOG), box=MOVED)])
    assert [c.is_corrected for c in image.candidates] == [True, False]
    (dog,) = image.without_mask
    assert (dog.label, dog.box, dog.score, dog.segment) == ("dog", MOVED, 1.0, None)
    assert image.candidates[1].candidate is CAT
    masked = image.with_segments([CAT.segment])
    assert (masked.candidates[0].candidate.segment, masked.without_mask) == (CAT.segment, ())


def test_a_relabelled_entity_keeps_its_mask_and_gets_the_span_of_its_label():
    image = correct((DOG, CAT), CAPTION, 64, 48, [correction(Action.RELABELLED, seen(DOG), label="cat")])
    dog = image.candidates[0].candidate
    assert (dog.label, dog.box, dog.segment) == ("cat", DOG.box, DOG.segment)
    assert CAPTION[dog.span_start : dog.span_end] == "cat"
    assert image.without_mask == ()


def test_an_added_entity_that_the_caption_lacks_has_the_whole_caption_as_span():
    image = correct((DOG,), CAPTION, 64, 48, [correction(Action.ADDED, None, label="bird", box=MOVED)])
    bird = image.candidates[1].candidate
    assert (bird.label, bird.box, bird.span_start, bird.span_end) == ("bird", MOVED, 0, len(CAPTION))


def test_a_box_is_clipped_to_the_image_and_one_outside_is_not_applied():
    beyond = Box(x0=-5.0, y0=2.0, x1=100.0, y1=30.0)
    outside = Box(x0=64.0, y0=2.0, x1=100.0, y1=30.0)
    left, outcomes = corrected(
        correction(Action.MOVED, seen(DOG), box=beyond), correction(Action.MOVED, seen(CAT), box=outside)
    )
    assert left == [("dog", Box(x0=0.0, y0=2.0, x1=64.0, y1=30.0)), ("cat", CAT.box)]
    assert outcomes == ["applied", "box_outside"]


def test_one_review_moves_and_relabels_the_entity_that_it_saw():
    both = (
        correction(Action.RELABELLED, seen(DOG), label="wolf"),
        correction(Action.MOVED, seen(DOG), box=MOVED),
    )
    assert corrected(*both) == ([("wolf", MOVED), ("cat", CAT.box)], ["applied", "applied"])


def test_a_later_review_refers_to_what_the_first_one_made():
    first = correction(Action.MOVED, seen(DOG), box=MOVED)
    second = correction(Action.RELABELLED, seen(DOG, box=MOVED), "second", label="wolf")
    added = correction(Action.ADDED, None, label="bird", box=MOVED_ON)
    removed = correction(Action.REMOVED, SeenEntity(label="bird", box=MOVED_ON), "second")
    left, outcomes = corrected(first, added, second, removed)
    assert left == [("wolf", MOVED), ("cat", CAT.box)]
    assert outcomes == ["applied", "superseded", "applied", "applied"]


def test_of_two_reviews_of_the_same_entity_the_latest_wins():
    first = correction(Action.MOVED, seen(DOG), box=MOVED)
    second = correction(Action.MOVED, seen(DOG), "second", box=MOVED_ON)
    assert corrected(first, second) == ([("dog", MOVED_ON), ("cat", CAT.box)], ["superseded", "applied"])
    removed = correction(Action.REMOVED, seen(DOG), "second")
    assert corrected(first, removed) == ([("cat", CAT.box)], ["superseded", "applied"])
    assert corrected(removed, first) == ([("dog", MOVED), ("cat", CAT.box)], ["superseded", "applied"])


def test_a_name_that_two_entities_have_had_means_the_one_that_has_it_now():
    away = correction(Action.MOVED, seen(DOG), box=MOVED)
    new = correction(Action.ADDED, None, label="dog", box=DOG.box)
    then = correction(Action.REMOVED, seen(DOG), "second")
    assert corrected(away, new, then)[0] == [("dog", MOVED), ("cat", CAT.box)]


@pytest.mark.parametrize("action", [Action.REMOVED, Action.MOVED])
def test_an_entity_that_is_not_there_is_reported(action):
    gone = SeenEntity(label="dog", box=MOVED)
    box = MOVED if action is Action.MOVED else None
    assert corrected(correction(action, gone, box=box)) == ([("dog", DOG.box), ("cat", CAT.box)], ["no_entity"])
