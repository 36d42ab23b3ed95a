"""What people ask of a dataset, asked of a small one in DuckDB."""

from pathlib import Path

import duckdb
import pytest

from labeling.config import RulesConfig
from labeling.errors import ShardCorrupt
from labeling.finish import FinishJob
from labeling.sdd import masks
from labeling.sdd.query import connect, funnel
from labeling.sdd.schema import Mask
from labeling.sdd.shards import ShardStore
from tests.factories import SHARD, image, key, labelled


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> str:
    """A finished dataset in a folder whose name needs quoting, and is no pattern."""
    root = tmp_path_factory.mktemp("the owner's data set [1]*")
    labelled(root)
    layers = ("images", "captions", "nouns", "detections", "entities")
    assert FinishJob(root=str(root), rules=RulesConfig(), layers=layers).make(SHARD).error is None
    return str(root)


@pytest.fixture
def ask(root):
    session = connect(root)
    yield lambda sql: session.execute(sql).fetchall()
    session.close()


def test_every_view_answers(ask):
    views = [name for (name,) in ask("SELECT view_name FROM duckdb_views() WHERE NOT internal")]
    assert set(views) >= {"urls", "images", "captions", "nouns", "detections", "sdd", "entities", "labels", "ledger"}
    for view in views:
        assert ask(f"SELECT count(*) FROM {view}")[0][0] > 0, view


def test_the_funnel_adds_up_to_the_input(ask, root):
    rows = funnel(root)
    assert rows == ask("FROM funnel")
    assert [(state, stage, reason, urls) for state, stage, reason, urls, _ in rows] == [
        ("not_downloaded", "images", "http_404", 1),
        ("dropped", "images", "small_image", 1),
        ("failed", "captions", "ValueError", 1),
        ("dropped", "nouns", "no_noun", 1),
        ("dropped", "detections", "no_box", 1),
        ("quarantined", "entities", "crash", 1),
        ("kept", "sdd", "", 2),
        ("dropped", "sdd", "aspect_ratio", 1),
        ("dropped", "sdd", "no_candidate", 1),
        ("dropped", "sdd", "no_mask", 1),
        ("dropped", "sdd", "thin_mask", 1),
    ]
    assert sum(row[3] for row in rows) == ask("SELECT count(*) FROM urls")[0][0] == 12
    assert sum(row[4] for row in rows) == pytest.approx(1.0, abs=0.01)


def test_a_histogram_of_labels(ask):
    assert ask("SELECT label, entities, images FROM labels") == [("dog", 2, 2), ("cat", 1, 1)]


def test_boxes_per_image(ask):
    assert ask("FROM boxes_per_image") == [(1, 1), (2, 1)]


def test_why_images_were_dropped(ask):
    broken = {"aspect_ratio": 2, "box_share": 1, "low_score": 1, "no_mask": 1, "thin_mask": 1}
    assert dict(ask("FROM broken_rules")) == broken
    ((url, state, stage, reason),) = ask("SELECT url, state, stage, reason FROM why('/3.jpg')")
    assert (url, state, stage, reason) == (image(3).url, "dropped", "sdd", "thin_mask")
    assert ask("SELECT len(candidates), candidates[1].broken FROM why('/4.jpg')") == [
        (2, ["aspect_ratio", "box_share"]),
    ]
    assert ask("SELECT detail FROM why('/12.jpg')") == [("detail of 12",)]


def test_the_share_of_the_image_that_masks_cover(ask):
    shares = ask("SELECT label, mask_share FROM entities ORDER BY key, label")
    assert shares == [("dog", 400 / (64 * 48)), ("cat", 1200 / (64 * 48)), ("dog", 400 / (64 * 48))]


def test_captions_that_contain_a_word(ask):
    assert ask("SELECT count(*) FROM captions_with('cat')") == [(2,)]
    assert ask("SELECT count(*) FROM captions_with('CAT')") == [(2,)]
    assert ask("SELECT count(*) FROM captions_with('ca')") == [(0,)]
    assert ask("SELECT caption FROM captions_with('cat 2')") == [("a dog and a cat 2",)]


def test_pictures_and_masks_come_out_as_they_went_in(ask):
    ((encoded, mask),) = ask("SELECT image, entities[1].mask FROM sdd WHERE caption LIKE '%1'")
    assert encoded == image(1).image
    assert masks.decode(Mask(**mask), 48, 64)[:20, :20].all()
    assert masks.decode(Mask(**mask), 48, 64).sum() == 400


def test_layers_join_on_their_key(ask):
    joined = "SELECT count(*) FROM urls JOIN images USING (key) JOIN captions USING (key) JOIN ledger USING (key)"
    assert ask(joined) == [(9,)]
    assert ask(f"SELECT caption FROM captions WHERE key = from_hex('{key(2).hex()}')") == [("a dog and a cat 2",)]


def test_layers_that_are_not_there_yet_are_left_out(tmp_path):
    assert funnel(str(tmp_path)) == []
    labelled(tmp_path)
    session = connect(str(tmp_path))
    assert session.execute("SELECT count(*) FROM images").fetchall() == [(10,)]
    assert session.execute("SELECT count(*) FROM detections").fetchall() == [(8,)]
    with pytest.raises(duckdb.CatalogException):
        session.execute("FROM sdd")
    assert funnel(str(tmp_path)) == []


def test_a_damaged_file_is_told_in_one_line(tmp_path):
    path = Path(labelled(tmp_path).path("captions", SHARD).path)
    path.write_bytes(b"PAR1 is how I begin")
    with pytest.raises(ShardCorrupt, match=f"{path}.*move it away") as error:
        connect(str(tmp_path))
    assert "\n" not in str(error.value)


def test_tables_of_python_are_no_tables_of_the_session(root):
    sdd_of_python = duckdb.sql("SELECT 1")
    assert sdd_of_python is not None
    with pytest.raises(duckdb.CatalogException):
        connect(root).execute("FROM sdd_of_python")


def test_an_empty_shard_does_no_harm(tmp_path):
    store: ShardStore = labelled(tmp_path, {}, {})
    layers = ("images", "captions", "nouns", "detections", "entities")
    assert FinishJob(root=str(tmp_path), rules=RulesConfig(), layers=layers).make(SHARD).error is None
    assert store.shards("sdd") == [SHARD]
    assert funnel(str(tmp_path)) == []
    assert connect(str(tmp_path)).execute("FROM labels").fetchall() == []
