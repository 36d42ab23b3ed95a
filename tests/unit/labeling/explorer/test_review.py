"""Corrections that a person makes in the explorer, as files and as proposals of masks."""

from dataclasses import replace

import pytest

from labeling.config import SegmentConfig
from labeling.errors import ExplorerError
from labeling.explorer.browse import Place
from labeling.explorer.mask_proposals import MaskProposals
from labeling.explorer.pictures import Pictures
from labeling.explorer.review import Change, Review
from labeling.sdd import masks
from labeling.sdd.corrections import SeenEntity, read_corrections
from labeling.sdd.schema import Box
from labeling.sdd.shards import ShardStore
from tests.box_segmenter import load_box_segmenter
from tests.datasets import NEXT, dataset_of_two
from tests.factories import CAT, DOG, SHARD, key

PLACE = Place(NEXT, key(22))
BOX = Box(x0=10.0, y0=10.0, x1=40.0, y1=40.0)
SEEN = SeenEntity(label="dog", box=DOG.box)


@pytest.fixture
def store(tmp_path) -> ShardStore:
    return ShardStore(str(dataset_of_two(tmp_path / "sdd")))


@pytest.fixture
def proposals(store, tmp_path) -> MaskProposals:
    return MaskProposals(Pictures(store, tmp_path / "cache"), lambda: load_box_segmenter(SegmentConfig()))


@pytest.fixture
def review(store, proposals) -> Review:
    return Review(store, "Eve Doe", proposals)


def change(seen: SeenEntity | None = SEEN, label: str = "dog", box: Box = DOG.box, is_removed: bool = False) -> Change:
    return Change(seen=seen, label=label, box=box, is_removed=is_removed)


def saved(store: ShardStore) -> list[tuple[str, str | None, Box | None]]:
    corrections = [each.correction for made in read_corrections(store).values() for each in made]
    return [(each.action, each.label, each.box) for each in corrections]


def test_changes_are_corrections_with_who_and_when(store, review):
    cat = SeenEntity(label="cat", box=CAT.box)
    review.save(PLACE, [change(label=" wolf ", box=BOX), change(cat, is_removed=True), change(None, "fox", BOX)])
    (made,) = read_corrections(store).values()
    assert [(each.correction.action, each.correction.label) for each in made] == [
        ("relabelled", "wolf"),
        ("moved", None),
        ("removed", None),
        ("added", "fox"),
    ]
    assert {(each.correction.author, each.correction.shard, each.review) for each in made} == {
        ("Eve Doe", NEXT, review.name)
    }
    assert review.name.startswith("explore-Eve-Doe-20")
    assert review.corrections(PLACE) == sorted(made, key=lambda each: review.corrections(PLACE).index(each))


def test_saving_an_image_again_replaces_its_corrections(store, review):
    review.save(PLACE, [change(box=BOX)])
    review.save(Place(NEXT, key(21)), [change(is_removed=True)])
    review.save(PLACE, [change(label="wolf")])
    assert sorted(saved(store)) == [("relabelled", "wolf", None), ("removed", None, None)]
    review.save(PLACE, [change()])
    assert saved(store) == [("removed", None, None)]


def test_a_session_shows_the_corrections_of_earlier_ones(store, review, proposals):
    review.save(PLACE, [change(box=BOX)])
    (earlier,) = Review(store, "Mallory", proposals).corrections(PLACE)
    assert (earlier.review, earlier.correction.box) == (review.name, BOX)


def test_boxes_are_clipped_and_empty_ones_refused(store, review):
    review.save(PLACE, [change(box=Box(x0=-9.0, y0=10.0, x1=900.0, y1=40.0))])
    assert saved(store) == [("moved", None, Box(x0=0.0, y0=10.0, x1=64.0, y1=40.0))]
    for bad in (change(box=replace(BOX, x0=90.0, x1=95.0)), change(label=" "), change(None, "", BOX)):
        with pytest.raises(ExplorerError, match="needs a label, and a place inside the image"):
            review.save(PLACE, [bad])


def test_an_entity_that_a_build_has_changed_meanwhile_is_refused(store, review):
    with pytest.raises(ExplorerError, match="was built again meanwhile"):
        review.save(PLACE, [change(SeenEntity(label="dog", box=BOX))])
    with pytest.raises(ExplorerError, match="has no boxes to correct"):
        review.save(Place(SHARD, key(9)), [change()])
    assert saved(store) == []


def test_a_box_takes_the_mask_that_was_proposed_for_it(store, review, proposals):
    proposed = proposals.propose(PLACE, BOX)
    assert masks.area_px(proposed) == 900
    review.save(PLACE, [change(box=BOX), change(None, "fox", replace(BOX, x1=50.0))])
    (made,) = read_corrections(store).values()
    assert [each.correction.mask for each in made] == [proposed, None]


def test_without_weights_there_are_no_proposals(store, tmp_path):
    nothing = MaskProposals(Pictures(store, tmp_path / "cache"), None)
    assert not nothing.is_available
    with pytest.raises(ExplorerError, match="start with --config"):
        nothing.propose(PLACE, BOX)
