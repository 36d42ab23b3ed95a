"""From lists of URLs to planned shards."""

import gzip
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest

from labeling.config import LabelingConfig, Stale
from labeling.download.lists.names import key_of
from labeling.download.lists.url_list import plan_urls, planned_shards
from labeling.errors import BadInput, ShardStale
from labeling.sdd.schema import ListedUrl
from labeling.sdd.shards import ShardStore

GOLDEN = Path(__file__).parents[4] / "golden" / "url_stamps.json"
LAION = {
    "URL": ["http://a.example/1", "http://a.example/2", "http://a.example/1"],
    "TEXT": ["one, with a comma", None, 'three "quoted"\nlines'],
    "WIDTH": [1025, None, 2000],
    "HEIGHT": [1026, 7, 1],
    "similarity": [0.5, 0.25, None],
    "hash": [-(2**62) - 1, 2**62 + 1, None],
    "punsafe": [0.125, None, 0.5],
    "pwatermark": [0.75, 0.0, None],
    "AESTHETIC_SCORE": [5.5, 6.25, None],
    "another": ["x", "y", "z"],
}


def planned(root: Path, *urls: Path, images_per_shard: int = 2, **more: Any) -> list[list[ListedUrl]]:
    """The rows of each shard that the lists give, in the order of the lists."""
    lists = tuple(map(str, urls)) if len(urls) > 1 else str(urls[0])
    config = LabelingConfig(root=str(root / "sdd"), urls=lists, images_per_shard=images_per_shard, **more)
    store = ShardStore(config.root)
    shards = [list(store.read(ListedUrl, ("urls",), shard)) for shard in plan_urls(config)]
    assert all(rows == sorted(rows, key=lambda row: row.key) for rows in shards), (
        "rows stand in the order of their keys"
    )
    return [sorted(rows, key=lambda row: row.list_row) for rows in shards]


def in_list_order(shards: Sequence[Sequence[ListedUrl]]) -> list[ListedUrl]:
    return [row for rows in shards for row in rows]


def test_parquet_and_csv_give_the_same_rows(tmp_path: Path) -> None:
    table = pa.table(LAION)
    pq.write_table(table, tmp_path / "list.parquet")
    pa_csv.write_csv(table, tmp_path / "list.csv")
    (tmp_path / "list.csv.gz").write_bytes(gzip.compress((tmp_path / "list.csv").read_bytes()))
    first, second = planned(tmp_path / "p", tmp_path / "list.parquet")
    assert [first, second] == planned(tmp_path / "c", tmp_path / "list.csv")
    assert [first, second] == planned(tmp_path / "z", tmp_path / "list.csv.gz")
    assert first[0] == ListedUrl(
        key=key_of("http://a.example/1", 0),
        list_row=0,
        url="http://a.example/1",
        alt_text="one, with a comma",
        similarity=0.5,
        laion_hash=-(2**62) - 1,
        punsafe=0.125,
        pwatermark=0.75,
        aesthetic_score=5.5,
        listed_width_px=1025,
        listed_height_px=1026,
    )
    assert second[0].key == key_of("http://a.example/1", 1), "the second occurrence has a key of its own"
    assert second[0].alt_text == 'three "quoted"\nlines'
    assert second[0].aesthetic_score is None


def test_only_the_url_is_required_and_case_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("width,Url\n1024.0,http://a.example/1\nnan,\n")
    ((row, empty),) = planned(tmp_path, tmp_path / "list.csv")
    assert (row.url, row.listed_width_px, row.alt_text) == ("http://a.example/1", 1024, None)
    assert (empty.url, empty.listed_width_px) == ("", None), "a row without a URL is a row"


@pytest.mark.parametrize("spelling", ["nan", "NaN", " nan "])
def test_a_score_that_is_not_a_number_is_missing(tmp_path: Path, spelling: str) -> None:
    """pandas writes them so on request. DuckDB takes NaN for the largest number, Python for none."""
    (tmp_path / "list.csv").write_text(f"url,punsafe,AESTHETIC_SCORE\nhttp://a.example/1,{spelling},5.5\n")
    pq.write_table(pa.table({"url": ["http://a.example/1"], "punsafe": [spelling]}), tmp_path / "list.parquet")
    for number, name in enumerate(("list.csv", "list.parquet")):
        (tmp_path / str(number)).mkdir()
        ((row,),) = planned(tmp_path / str(number), tmp_path / name)
        assert (row.punsafe, row.aesthetic_score) == (None, None if number else 5.5)


def test_a_folder_is_one_list_in_the_order_of_names(tmp_path: Path) -> None:
    folder = tmp_path / "lists"
    folder.mkdir()
    (folder / "b.csv").write_text("URL\nhttp://a.example/3\nhttp://a.example/1\n")
    pq.write_table(pa.table({"url": [f"http://a.example/{i}" for i in (1, 2)]}), folder / "a.parquet")
    (folder / "README.txt").write_text("no list")
    rows = in_list_order(planned(tmp_path, folder, images_per_shard=3))
    assert [(row.list_row, row.url[-1]) for row in rows] == [(0, "1"), (1, "2"), (2, "3"), (3, "1")]
    assert rows[3].key == key_of("http://a.example/1", 1), "occurrences are counted over all files"


def test_shards_cut_the_list_wherever_it_is_stored(tmp_path: Path) -> None:
    urls = [f"http://a.example/{i % 70}" for i in range(250)]
    pq.write_table(pa.table({"URL": urls}), tmp_path / "list.parquet", row_group_size=33)
    shards = planned(tmp_path, tmp_path / "list.parquet", images_per_shard=100)
    assert [len(rows) for rows in shards] == [100, 100, 50]
    rows = in_list_order(shards)
    assert [row.url for row in rows] == urls
    assert [row.key for row in rows] == [key_of(url, i // 70) for i, url in enumerate(urls)]
    assert len({row.key for row in rows}) == 250


def test_planning_again_writes_nothing(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("URL\nhttp://a.example/1\nhttp://a.example/2\nhttp://a.example/3\n")
    shards = planned(tmp_path, tmp_path / "list.csv")
    files = sorted((tmp_path / "sdd/urls").glob("*.parquet"))
    before = [(file, file.stat().st_mtime_ns) for file in files]
    assert planned(tmp_path, tmp_path / "list.csv") == shards
    (tmp_path / "list.csv").touch()
    assert planned(tmp_path, tmp_path / "list.csv") == shards
    assert [(file, file.stat().st_mtime_ns) for file in files] == before
    files[1].unlink()
    assert planned(tmp_path, tmp_path / "list.csv") == shards, "a lost file is made again"
    assert files[0].stat().st_mtime_ns == before[0][1]


@pytest.mark.parametrize("damage", ["", "[]", "null", '{"shards": 2}', "[" * 100_000, None])
def test_a_damaged_plan_is_made_again_from_the_list(tmp_path: Path, damage: str | None) -> None:
    (tmp_path / "list.csv").write_text("URL\nhttp://a.example/1\nhttp://a.example/2\nhttp://a.example/3\n")
    shards = planned(tmp_path, tmp_path / "list.csv")
    plan = tmp_path / "sdd/work/urls/plan.json"
    whole = plan.read_text()
    plan.write_text(whole.replace("2,", '"many",') if damage is None else damage)
    assert planned_shards(ShardStore(str(tmp_path / "sdd"))) == []
    assert planned(tmp_path, tmp_path / "list.csv") == shards
    assert plan.read_text() == whole


def test_without_a_list_the_last_plan_counts(tmp_path: Path) -> None:
    config = LabelingConfig(root=str(tmp_path / "sdd"))
    with pytest.raises(BadInput, match=r"labeling\.urls is not set"):
        plan_urls(config)
    (tmp_path / "list.csv").write_text("URL\nhttp://a.example/1\n")
    planned(tmp_path, tmp_path / "list.csv")
    assert plan_urls(config) == ["shard-00000"]


def test_a_longer_list_keeps_the_full_shards_and_another_is_refused(tmp_path: Path) -> None:
    urls = tmp_path / "list.csv"
    urls.write_text("URL\nhttp://a.example/1\nhttp://a.example/2\n")
    planned(tmp_path, urls)
    stamp = ShardStore(str(tmp_path / "sdd")).stamp("urls", "shard-00000")
    urls.write_text("URL\nhttp://a.example/1\nhttp://a.example/2\nhttp://a.example/1\n")
    assert len(planned(tmp_path, urls)) == 2
    assert ShardStore(str(tmp_path / "sdd")).stamp("urls", "shard-00000") == stamp
    urls.write_text("URL\nhttp://a.example/1\nhttp://a.example/9\nhttp://a.example/1\n")
    with pytest.raises(
        ShardStale, match=r"shard-00000\.parquet was not planned from the rows .*labeling\.stale=rebuild"
    ):
        planned(tmp_path, urls)
    assert planned(tmp_path, urls, stale=Stale.REBUILD)[0][1].url == "http://a.example/9"
    urls.write_text("URL\nhttp://a.example/1\nhttp://a.example/9\n")
    with pytest.raises(ShardStale, match="no longer has"):
        planned(tmp_path, urls)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gone.csv", None, r"gone\.csv'?: no such file or folder"),
        ("list.txt", b"http://a.example/1\n", r"list\.txt'?: the name does not end in \.parquet, \.csv"),
        ("list.csv", b"", r"list\.csv is not a readable list of URLs \(Empty CSV file\)"),
        ("list.csv", b"URL\n", r"list\.csv'? has no rows: a list needs at least one URL"),
        ("list.csv", b"link,TEXT\na,b\n", r"list\.csv has no URL column, only link, TEXT: rename"),
        ("list.csv", b"URL,url\na,b\n", r"list\.csv has the columns URL and url: rename all but one"),
        ("list.csv", b"URL,WIDTH\na,1\nb,wide\n", r"list\.csv, row 2: WIDTH is 'wide', not a number"),
        ("list.csv", b"URL,AESTHETIC_SCORE\na,high\n", r"row 1: AESTHETIC_SCORE is 'high', not a number"),
        ("list.csv", b"URL,HEIGHT\na,99999999999\n", r"row 1: HEIGHT is '99999999999', not a number \(int32\)"),
        (
            "list.csv",
            b"URL,TEXT\na,b\nc,d,e\n",
            r"list\.csv is not a readable list .*Row #3: Expected 2 columns, got 3",
        ),
        ("list.csv", "URL,TEXT\na,é\n".encode("latin-1"), r"list\.csv is not a readable list .*UTF8"),
        ("list.csv.gz", b"URL\na\n", r"list\.csv\.gz is not a readable list"),
        ("list.parquet", b"PAR1 no parquet", r"list\.parquet is not a readable list of URLs"),
    ],
)
def test_lists_that_cannot_be_used(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(BadInput, match=message) as error:
        planned(tmp_path, tmp_path / name)
    assert "\n" not in str(error.value)


def test_a_parquet_column_of_the_wrong_type(tmp_path: Path) -> None:
    pq.write_table(pa.table({"URL": ["a", "b"], "punsafe": ["0.5", "low"]}), tmp_path / "list.parquet")
    with pytest.raises(BadInput, match=r"list\.parquet, row 2: punsafe is 'low', not a number"):
        planned(tmp_path, tmp_path / "list.parquet")
    pq.write_table(pa.table({"URL": ["a"], "WIDTH": [[1, 2]]}), tmp_path / "list.parquet")
    with pytest.raises(BadInput, match=r"row 1: WIDTH is \[1, 2\], not a number"):
        planned(tmp_path, tmp_path / "list.parquet")


def test_text_in_another_encoding_is_named_with_its_row(tmp_path: Path) -> None:
    latin = pa.array([b"fine", b"caf\xe9"]).view(pa.string())
    pq.write_table(pa.table({"URL": ["a", "b"], "TEXT": latin}), tmp_path / "list.parquet")
    with pytest.raises(BadInput, match=r"list\.parquet, row 2: TEXT is b'caf\\xe9', not text"):
        planned(tmp_path, tmp_path / "list.parquet")


def test_numbers_that_are_written_in_several_ways_are_refused_as_a_whole(tmp_path: Path) -> None:
    pq.write_table(pa.table({"URL": ["a", "b"], "WIDTH": ["0x10", "12.5"]}), tmp_path / "list.parquet")
    with pytest.raises(
        BadInput, match=r"list\.parquet: WIDTH is not a number .* throughout .*; write all values in one way"
    ):
        planned(tmp_path, tmp_path / "list.parquet")


def test_a_folder_without_lists(tmp_path: Path) -> None:
    (tmp_path / "lists").mkdir()
    with pytest.raises(BadInput, match="the folder has no file whose name ends in"):
        planned(tmp_path, tmp_path / "lists")


def test_an_added_list_begins_a_shard_and_leaves_the_others_as_they_are(tmp_path: Path) -> None:
    first, second = tmp_path / "first.csv", tmp_path / "second.csv"
    first.write_text("URL\nhttp://a.example/1\nhttp://a.example/2\nhttp://a.example/3\n")
    second.write_text("URL\nhttp://a.example/2\nhttp://a.example/4\nhttp://a.example/4\n")
    before = planned(tmp_path, first)
    files = {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in (tmp_path / "sdd/urls").iterdir()}
    grown = planned(tmp_path, first, second)
    assert grown[:2] == before
    assert {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in files} == files
    assert [[(row.list_row, row.url[-1]) for row in rows] for rows in grown[2:]] == [[(3, "2"), (4, "4")], [(5, "4")]]
    assert [row.key for row in in_list_order(grown[2:])] == [
        key_of("http://a.example/2", 1),
        key_of("http://a.example/4", 0),
        key_of("http://a.example/4", 1),
    ]
    (tmp_path / "new").mkdir()
    assert planned(tmp_path / "new", first, second) == grown, "as if it had begun with both"


def test_lists_in_another_order_or_without_the_first_are_refused(tmp_path: Path) -> None:
    first, second = tmp_path / "first.csv", tmp_path / "second.csv"
    first.write_text("URL\nhttp://a.example/1\n")
    second.write_text("URL\nhttp://a.example/2\n")
    planned(tmp_path, first)
    for lists in ([second], [second, first]):
        with pytest.raises(ShardStale, match=r"rows 0 to 0 of '.*second\.csv': .* name it after the lists before it"):
            planned(tmp_path, *lists)
    planned(tmp_path, first, second)
    with pytest.raises(ShardStale, match=r"shard-00001\.parquet has rows that .* no longer has"):
        planned(tmp_path, first)


def awkward_list(folder: Path) -> list[Path]:
    """Lists with values whose text is easily changed, repeated URLs, missing columns and columns that are not read."""
    texts = [
        "it's",
        '"quoted"',
        "both ' and \"",
        "back\\slash",
        "tab\t\r\n\x00\x7f",
        "café",
        "日本 🐕",
        "\u200b\xa0",
        "",
        None,
    ]
    floats = [0.0, -0.0, 1.0, 0.1, 1e-5, 1e-45, 1e10, 1e16, 3.4e38, math.inf, -math.inf, math.nan, None]
    count = 300
    table = {
        "url": [None if n % 50 == 7 else f"http://a.example/{n % 110}?q='é" for n in range(count)],
        "TEXT": [texts[n % len(texts)] for n in range(count)],
        "similarity": pa.array([floats[n % len(floats)] for n in range(count)], pa.float32()),
        "punsafe": pa.array([floats[-n % len(floats)] for n in range(count)], pa.float64()),
        "hash": pa.array([[2**63 - 1, -(2**63), None][n % 3] for n in range(count)], pa.int64()),
        "WIDTH": pa.array([[2**31 - 1, 0, None, -1][n % 4] for n in range(count)], pa.int64()),
        "exif": [{"tags": [{"name": "it's", "value": n}]} for n in range(count)],
    }
    pq.write_table(pa.table(table), folder / "a.parquet", row_group_size=37)
    numbers = "\n".join(f"http://a.example/{n},{n}.5,{n}e-7," for n in range(100, 130))
    (folder / "b.csv").write_text(f"URL,AESTHETIC_SCORE,pwatermark,HEIGHT\n{numbers}\n")
    return [folder / "a.parquet", folder / "b.csv"]


@pytest.mark.parametrize("images_per_shard", [7, 64, 1000])
def test_stamps_are_those_of_earlier_versions(tmp_path: Path, images_per_shard: int) -> None:
    """Another stamp would make every dataset stale that an earlier version of this program planned."""
    planned(tmp_path, *awkward_list(tmp_path), images_per_shard=images_per_shard)
    store = ShardStore(str(tmp_path / "sdd"))
    stamps = [store.stamp("urls", shard).stamp for shard in store.shards("urls")]
    assert stamps == json.loads(GOLDEN.read_text())[str(images_per_shard)]
