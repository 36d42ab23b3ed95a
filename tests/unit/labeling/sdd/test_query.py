"""What people ask of a dataset, asked of a small one in DuckDB."""

import shutil
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest

from labeling.config import RulesConfig
from labeling.download.fetching.fetch import host_of
from labeling.errors import LabelingError, ShardCorrupt
from labeling.finish import FinishJob
from labeling.sdd import masks
from labeling.sdd.corrections import Action, Correction, ReviewedCorrection, SeenEntity
from labeling.sdd.query import connect, funnel, refuse_writes
from labeling.sdd.schema import VERSION, ListedUrl, Mask
from labeling.sdd.shards import ShardStore
from tests.factories import DOG, SHARD, entity, finished, image, key, labelled, listed, refused, sdd_row

NOT_RECORDED = {1: {"removed_nouns"}}
"""Views that are empty over a dataset of a version."""
NO_SUCH_ENTITY = ReviewedCorrection(
    Correction(
        key=key(1),
        shard=SHARD,
        entity=SeenEntity(label="wolf", box=DOG.box),
        action=Action.REMOVED,
        label=None,
        box=None,
        mask=None,
        author="eve",
        made_at=None,
    ),
    "first",
)
"""A correction that changes nothing."""
OLD = Path(__file__).parents[3] / "golden" / "sdd_version_1"


@pytest.fixture(scope="module", params=[1, VERSION], ids="version {}".format)
def version(request) -> int:
    return request.param


@pytest.fixture(scope="module")
def root(version, tmp_path_factory) -> str:
    """A finished dataset in a folder whose name needs quoting, and is no pattern."""
    root = tmp_path_factory.mktemp("the owner's data set [1]*")
    if version == 1:
        shutil.copytree(OLD, root, ignore=shutil.ignore_patterns("shard-00001.parquet"), dirs_exist_ok=True)
        return str(root)
    labelled(root)
    finish(root)
    return str(root)


def finish(root: Path) -> None:
    layers = ("images", "captions", "nouns", "detections", "entities")
    job = FinishJob(root=str(root), rules=RulesConfig(), layers=layers, corrections={SHARD: [NO_SUCH_ENTITY]})
    assert job.make(SHARD).error is None


@pytest.fixture
def ask(root):
    session = connect(root)
    yield lambda sql: session.execute(sql).fetchall()
    session.close()


def test_every_view_answers(ask, version):
    views = [name for (name,) in ask("SELECT view_name FROM duckdb_views() WHERE NOT internal")]
    assert set(views) >= {"urls", "images", "captions", "nouns", "detections", "sdd", "entities", "labels", "ledger"}
    for view in set(views) - NOT_RECORDED.get(version, set()):
        assert ask(f"SELECT count(*) FROM {view}")[0][0] > 0, view


@pytest.mark.parametrize(
    "sql",
    [
        "FROM labels LIMIT 1",
        "DESCRIBE sdd",
        "EXPLAIN ANALYZE FROM labels",
        "SUMMARIZE labels",
        "PIVOT labels ON label USING sum(images)",
        "CREATE TEMP TABLE mine AS FROM labels; FROM mine",
        "SET VARIABLE least = 1; SELECT getvariable('least')",
        "-- a comment\nFROM labels",
        "PRAGMA version",
        "-- a comment\npragma table_info('sdd')",
    ],
)
def test_what_reads_is_let_through(ask, sql):
    refuse_writes(sql)
    assert ask(sql)


@pytest.mark.parametrize(
    "sql",
    [
        "IMPORT DATABASE '{folder}'",
        "FROM labels; PRAGMA import_database('{folder}')",
        "/**/ PRAGMA \"import_database\"('{folder}')",
    ],
)
def test_statements_in_files_are_not_run(tmp_path, sql):
    """They could lie in the dataset itself, where the session may read."""
    (tmp_path / "schema.sql").write_text("COPY (SELECT 1) TO 'labels.csv'")
    with pytest.raises(LabelingError, match="may write files: allow it with --unsafe"):
        refuse_writes(sql.format(folder=tmp_path))


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


def test_every_candidate_has_its_figures_and_the_rules_that_it_broke(ask):
    columns = "url, state, width_px, height_px, label, mask_fill, predicted_iou, stability, broken"
    ((url, *first), *others) = ask(f"SELECT {columns} FROM candidates ORDER BY key, label DESC, score DESC")
    assert url == image(1).url
    assert first[:5] == ["kept", 64, 48, "dog", 1.0]
    assert first[5:] == [pytest.approx(0.9), pytest.approx(0.95), []]
    assert [(row[0], row[5], row[8]) for row in others] == [
        (image(2).url, 1.0, []),
        (image(2).url, 1.0, []),
        (image(2).url, pytest.approx(1200 / (60 * 28)), ["low_score"]),
        (image(3).url, 0.5, ["thin_mask"]),
        (image(4).url, 1.0, ["aspect_ratio", "box_share"]),
        (image(4).url, 1.0, ["aspect_ratio"]),
        (image(5).url, None, ["no_mask"]),
    ]


@pytest.mark.parametrize("view", ["nouns", "detections", "entities"])
def test_spans_have_names_that_need_no_quotes(ask, view):
    spans = set(ask(f"SELECT label, span_start, span_end FROM {view} WHERE key <= from_hex('{key(2).hex()}')"))
    assert spans == {("dog", 2, 5), ("cat", 12, 15)}
    assert ask("SELECT entities[1].span_end FROM sdd ORDER BY key") == [(5,), (15,)]


def test_removed_nouns_are_counted_by_reason(ask, version):
    counted = [("repeated", "dog", 1), ("stop_word", "photo", 1)]
    assert ask("FROM removed_nouns") == ([] if version == 1 else counted)


def test_failures_by_host(tmp_path):
    ends = [("not_downloaded", "timeout")] * 3 + [("not_downloaded", "http_404"), ("failed", "truncated")]
    ends += [("dropped", "small_image")] * 5
    urls = {n: f"https://{'Slow.example:8080' if n <= 4 else 'b.example'}/{n}.jpg" for n in range(1, 11)}
    refusals = {n: ("images", refused(n, *end)) for n, end in enumerate(ends, start=1)}
    store = labelled(tmp_path, {}, refusals)
    store.write("urls", SHARD, [listed(n, urls[n]) for n in urls], ListedUrl, "list", replace=True)
    finish(tmp_path)
    assert connect(str(tmp_path)).execute("FROM hosts").fetchall() == [
        ("slow.example", "not_downloaded", "timeout", 3, 0.75),
        ("b.example", "failed", "truncated", 1, round(1 / 6, 4)),
        ("slow.example", "not_downloaded", "http_404", 1, 0.25),
    ]


@pytest.mark.parametrize(
    "url",
    ["HTTP://A.Example/x:y@z", "https://u:p@b.c:80?q=://d", " http://[::1]:8/", "http://a#b", "ftp://1.2.3.4", ""],
)
def test_the_host_of_a_url_is_that_of_the_download(tmp_path, url):
    assert connect(str(tmp_path)).execute("SELECT host_of(?)", [url]).fetchone() == (host_of(url),)


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


def test_no_view_reads_pictures_unless_they_are_selected(root, version, tmp_path):
    shutil.copytree(root, tmp_path, dirs_exist_ok=True)
    for layer in ("images", "sdd"):
        destroy_pictures(tmp_path / layer / f"{SHARD}.parquet")
    session = connect(str(tmp_path))
    for (view,) in session.execute("SELECT view_name FROM duckdb_views() WHERE NOT internal").fetchall():
        columns = [name for name, *_ in session.execute(f"DESCRIBE {view}").fetchall() if name != "image"]
        rows = session.execute(f"SELECT {', '.join(columns)} FROM {view}").fetchall()
        assert rows or view in NOT_RECORDED.get(version, set()), view
    for view in ("images", "sdd"):
        with pytest.raises(duckdb.Error):
            session.execute(f"SELECT image FROM {view}").fetchall()


def destroy_pictures(path: Path) -> None:
    """Make the `image` column of a shard unreadable."""
    group = pq.read_metadata(path).row_group(0)
    (column,) = (c for c in map(group.column, range(group.num_columns)) if c.path_in_schema == "image")
    whole = bytearray(path.read_bytes())
    whole[column.data_page_offset : column.data_page_offset + 16] = b"\xff" * 16
    path.write_bytes(whole)


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


def test_a_dataset_in_an_object_store_is_queried_alike(tmp_path):
    root = f"memory://{tmp_path.name}/data set [1]"
    finished(root, [sdd_row(1, [entity((8, 8, 32, 40))])])
    assert connect(root).execute("SELECT label FROM labels").fetchall() == [("dog",)]


def test_an_empty_shard_does_no_harm(tmp_path):
    store: ShardStore = labelled(tmp_path, {}, {})
    finish(tmp_path)
    assert store.shards("sdd") == [SHARD]
    assert funnel(str(tmp_path)) == []
    assert connect(str(tmp_path)).execute("FROM labels").fetchall() == []
