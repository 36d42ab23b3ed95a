"""The sample of an audit: its strata, its size, and its marks on disk."""

from collections import Counter

import pytest

from labeling.errors import QualityError
from labeling.explorer.session import DatasetSession
from labeling.quality.marks import Mark, audit_names, read_audit
from labeling.quality.sample import LEAST, allot, draw_audit
from tests.datasets import dataset_of_two, write_confirmations
from tests.factories import key


@pytest.fixture
def session(tmp_path) -> DatasetSession:
    return DatasetSession(str(dataset_of_two(tmp_path / "sdd")))


def test_strata_are_verdicts_numbers_of_entities_and_frequencies_of_labels(session):
    audit = draw_audit(session.store, session, "first", 100, seed=0)
    strata = {int.from_bytes(image.key, "big"): (image.state, image.stratum) for image in audit.images}
    assert strata == {
        1: ("kept", "1 of common labels"),
        2: ("kept", "2 of rarer labels"),
        3: ("dropped", "thin_mask"),
        4: ("dropped", "aspect_ratio"),
        5: ("dropped", "no_mask"),
        6: ("dropped", "no_candidate"),
        21: ("kept", "1 of common labels"),
        22: ("kept", "2 of rarer labels"),
        23: ("kept", "1 of rarer labels"),
    }
    sizes = {image.stratum: image.stratum_images for image in audit.images}
    assert sizes == Counter(stratum for _, stratum in strata.values())


def test_doubtful_images_are_strata_of_their_own(tmp_path):
    root = dataset_of_two(tmp_path / "sdd")
    write_confirmations(root, {key(22): (0.9, 0.3)})
    session = DatasetSession(str(root))
    audit = draw_audit(session.store, session, "first", 100, seed=0)
    strata = {image.key: image.stratum for image in audit.images}
    assert (strata[key(2)], strata[key(22)]) == ("2 of rarer labels", "2 of rarer labels, doubtful")


def test_a_sample_is_the_same_for_the_same_seed(session):
    first, second, other = (
        draw_audit(session.store, session, name, 100, seed) for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert first.images == second.images
    assert [image.key for image in first.images] != [image.key for image in other.images]


def test_strata_contribute_by_size_but_enough_to_judge_them():
    assert allot({"large": 9000, "small": 900, "tiny": 3}, 100) == {"large": 91, "small": 9, "tiny": 3}
    assert allot({"large": 9000, "small": 90}, 100)["small"] == LEAST


def test_marks_are_saved_with_who_and_when(session):
    audit = draw_audit(session.store, session, "first", 100, seed=0)
    audit.mark(key(1), Mark.LOW_RECALL, "eve", "2026-01-02T03:04:05+00:00")
    audit.mark(key(3), Mark.WRONGLY_DROPPED, "eve", "2026-01-02T03:04:06+00:00")
    audit.mark(key(3), None, "eve", "2026-01-02T03:04:07+00:00")
    again = read_audit(session.store, "first")
    assert again.images == audit.images
    marked = {image.key: (image.mark, image.author, image.made_at) for image in again.images if image.mark}
    assert marked == {key(1): ("low_recall", "eve", "2026-01-02T03:04:05+00:00")}
    assert audit_names(session.store) == ["first"]


def test_a_mark_that_the_image_cannot_get_is_refused(session):
    audit = draw_audit(session.store, session, "first", 100, seed=0)
    with pytest.raises(QualityError, match="is kept, so it cannot be marked wrongly_dropped"):
        audit.mark(key(1), Mark.WRONGLY_DROPPED, "eve", "")
    with pytest.raises(QualityError, match="the audit first lacks the image"):
        audit.mark(key(7), Mark.OTHER, "eve", "")


@pytest.mark.parametrize("name", ["../first", "", "a b", ".hidden"])
def test_a_name_that_is_no_file_name_is_refused(session, name):
    with pytest.raises(QualityError, match="cannot name an audit"):
        draw_audit(session.store, session, name, 100, seed=0)


def test_an_audit_is_not_drawn_twice_nor_read_where_there_is_none(session):
    draw_audit(session.store, session, "first", 100, seed=0)
    with pytest.raises(QualityError, match="the audit first exists"):
        draw_audit(session.store, session, "first", 100, seed=0)
    with pytest.raises(QualityError, match="has no audit second: it has first"):
        read_audit(session.store, "second")
