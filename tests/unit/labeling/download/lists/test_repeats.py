"""One row of each repeated URL is fetched: the first that its own values do not refuse."""

import random
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra.storage import publish
from labeling.config import DownloadConfig, LabelingConfig, Stale
from labeling.download.lists import planned_rows
from labeling.download.lists.repeats import repeats_to_fetch
from labeling.download.lists.url_list import plan_urls, variants_path
from labeling.download.screening.stage import verdict_of_listing, verdict_of_values
from labeling.errors import ShardCorrupt
from labeling.sdd.arrow import schema_of
from labeling.sdd.schema import ListedUrl
from labeling.sdd.shards import ShardStore
from tests import factories

PAPER = DownloadConfig()
LISTED: list[tuple[str, float | None, int | None]] = [
    ("refused first", 1.0, 2000),
    ("good first", 6.0, 2000),
    ("always refused", 1.0, 2000),
    ("", 1.0, 2000),
    ("refused first", 1.0, 2000),
    ("good first", 1.0, 2000),
    ("refused first", 6.0, 600),
    ("always refused", 6.0, 600),
    ("", None, None),
    ("refused first", None, 2000),
    ("good first", 6.0, 2000),
    ("refused first", 7.0, 3000),
    ("refused first", None, 2000),
]
"""URL, aesthetic score, width and height."""


def planned(root: Path) -> tuple[ShardStore, LabelingConfig]:
    """A plan of `LISTED`, three rows a shard."""
    urls, scores, sides = zip(*LISTED, strict=True)
    table = {"URL": urls, "AESTHETIC_SCORE": pa.array(scores, pa.float32()), "WIDTH": sides, "HEIGHT": sides}
    pq.write_table(pa.table(table), root / "list.parquet")
    config = LabelingConfig(root=str(root / "sdd"), urls=str(root / "list.parquet"), images_per_shard=3)
    plan_urls(config)
    return ShardStore(config.root), config


def verdicts(store: ShardStore, config: DownloadConfig) -> list[str]:
    """The reason why each row of the list is not fetched; "fetched" for those that are."""
    repeats = repeats_to_fetch(store, config)
    rows = [row for shard in store.shards("urls") for row in store.read(ListedUrl, ("urls",), shard)]
    found = [verdict_of_listing(row, config, repeats) for row in sorted(rows, key=lambda row: row.list_row)]
    return [verdict.reason if verdict else "fetched" for verdict in found]


def test_a_usable_url_is_fetched_once_whatever_the_order_of_its_rows(tmp_path: Path) -> None:
    store, _ = planned(tmp_path)
    assert verdicts(store, PAPER) == [
        "low_aesthetic",
        "fetched",
        "low_aesthetic",
        "invalid_url",
        "low_aesthetic",
        "low_aesthetic",
        "small_listed",
        "small_listed",
        "invalid_url",
        "fetched",
        "duplicate_url",
        "duplicate_url",
        "duplicate_url",
    ]


NAMES = ("listed_width_px", "listed_height_px", "aesthetic_score", "punsafe", "pwatermark")
SIDES = (None, 0, 1024, 1025, 5000)
SCORES = (None, 0.0, 0.3, 0.5, 0.50001, 0.8, 0.80001, 1.0, 4.99, 5.0, 6.0)


def test_rows_are_judged_in_bulk_as_they_are_one_by_one(tmp_path: Path) -> None:
    """2,000 URLs of four rows each, with values at and around the limits."""
    draw, store = random.Random(0), ShardStore(str(tmp_path))
    rows = [
        replace(factories.listed(i), **{name: draw.choice(SIDES if "px" in name else SCORES) for name in NAMES})
        for i in range(8000)
    ]
    columns = {name: [getattr(row, name) for row in rows] for name in ("list_row", *NAMES)}
    table = pa.table(
        {name: pa.array(column, schema_of(ListedUrl).field(name).type) for name, column in columns.items()}
    ).append_column("url_id", [[str(i // 4).encode() for i in range(8000)]])
    publish(variants_path(store), lambda file: pq.write_table(table, file), replace=True)
    for limits in (PAPER, DownloadConfig(min_aesthetic_score=None, max_punsafe=0.8), DownloadConfig(min_side_px=0)):
        passed = [row.list_row for row in rows if verdict_of_values(row, limits) is None]
        first_of = {row // 4: row for row in reversed(passed)}
        chosen = repeats_to_fetch(store, limits)
        assert chosen == {row for row in first_of.values() if row % 4}
        assert len(chosen) > 100


def test_other_limits_choose_other_rows(tmp_path: Path) -> None:
    store, _ = planned(tmp_path)
    assert repeats_to_fetch(store, PAPER) == {9}
    assert repeats_to_fetch(store, DownloadConfig(min_side_px=512)) == {6, 7}
    assert repeats_to_fetch(store, DownloadConfig(min_aesthetic_score=None)) == frozenset()
    assert repeats_to_fetch(store, DownloadConfig(min_side_px=2500, min_aesthetic_score=None)) == {11}


@pytest.mark.parametrize("damage", ["empty", "torn", "foreign", "folder"])
def test_a_damaged_file_of_the_plan_is_named_and_made_again_without_it(tmp_path: Path, damage: str) -> None:
    store, config = planned(tmp_path)
    path = Path(variants_path(store).path)
    whole = path.read_bytes()
    path.unlink()
    if damage == "folder":
        path.mkdir()
    elif damage == "foreign":
        pq.write_table(pa.table({"another": [1]}), path)
    else:
        path.write_bytes(whole[:-20] if damage == "torn" else b"")
    with pytest.raises(ShardCorrupt, match=rf"^{path} .*: move it away and run again$") as error:
        repeats_to_fetch(store, PAPER)
    assert "\n" not in str(error.value)
    path.rename(tmp_path / "away")
    plan_urls(config)
    assert repeats_to_fetch(store, PAPER) == {9}


def test_a_plan_of_an_earlier_version_is_completed_from_the_list(tmp_path: Path) -> None:
    store, config = planned(tmp_path)
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "sdd/urls").iterdir()}
    Path(variants_path(store).path).unlink()
    plan_urls(config.model_copy(update={"urls": None}))
    assert repeats_to_fetch(store, PAPER) == frozenset(), "without the list, only first rows are fetched, as before"
    plan_urls(config)
    assert repeats_to_fetch(store, PAPER) == {9}
    assert {path: path.stat().st_mtime_ns for path in files} == files, "the shards stay as they are"


def shard_stamps(root: Path, scores: list[float], stale: Stale = Stale.REFUSE) -> list[str]:
    """The stamps of the planned shards of a list: two rows a shard, and "a" in the first and in the last of them."""
    pq.write_table(pa.table({"URL": ["a", "b", "c", "d", "a", "e"], "AESTHETIC_SCORE": scores}), root / "list.parquet")
    urls = str(root / "list.parquet")
    config = LabelingConfig(root=str(root / "sdd"), urls=urls, images_per_shard=2, stale=stale)
    store, shards = ShardStore(config.root), plan_urls(config)
    return [store.stamp("urls", shard).stamp for shard in shards]


def test_a_corrected_value_changes_the_shards_of_later_rows_with_the_same_url(tmp_path: Path) -> None:
    """Whether such a row is fetched depends on it, so the images of those shards are stale too."""
    first, middle, last = shard_stamps(tmp_path, [6.0] * 6)
    corrected = shard_stamps(tmp_path, [1.0, *[6.0] * 5], Stale.REBUILD)
    assert (corrected[0] != first, corrected[1] == middle, corrected[2] != last) == (True, True, True)
    assert shard_stamps(tmp_path, [6.0] * 6, Stale.REBUILD) == [first, middle, last]
    later_alone = shard_stamps(tmp_path, [*[6.0] * 4, 1.0, 6.0], Stale.REBUILD)
    assert later_alone[:2] == [first, middle], "no row depends on later ones"


def test_shards_that_earlier_versions_stamped_are_current_until_they_are_rebuilt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as earlier_version:
        earlier_version.setattr(planned_rows, "_earlier_rows", lambda shard, repeats: [])
        former = shard_stamps(tmp_path, [6.0] * 6)
    Path(variants_path(ShardStore(str(tmp_path / "sdd"))).path).unlink()
    assert shard_stamps(tmp_path, [6.0] * 6) == former
    rebuilt = shard_stamps(tmp_path, [6.0, 1.0, *[6.0] * 4], Stale.REBUILD)
    assert [a == b for a, b in zip(rebuilt, former, strict=True)] == [False, True, False]
