"""A lost file of images/ is restored to the byte, or nothing is changed and the message says what would help."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from labeling.config import DownloadConfig, RulesConfig
from labeling.download.fetching.fetch_result import FetchedBody, FetchFailure, FetchResult
from labeling.download.image_shards import ImageShard, images_stamp
from labeling.errors import ImagesLost
from labeling.finish import FinishJob
from labeling.sdd.schema import Caption, Detections, Entities, Image, Layer, Nouns, SddRow
from tests.factories import DOG, SHARD, jpeg
from tests.unit.labeling.download.test_image_shards import CONFIG, close_screeners, collecting, planned

COUNT = 5
"""Images that the servers had; the sixth URL had none."""


@pytest.fixture(scope="module", autouse=True)
def _no_process_is_left() -> Iterator[None]:
    yield
    close_screeners()


class Servers:
    """What the URLs give: a picture each, but for the last one."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.down = False

    def fetch(self, url: str) -> FetchResult:
        number = int(url.rsplit("/", 1)[-1])
        self.asked.append(url)
        if self.down:
            return FetchFailure("connection", "refused")
        return FetchFailure("http_404", "") if number == COUNT else FetchedBody(jpeg(number))


@pytest.fixture
def servers() -> Servers:
    return Servers()


@pytest.fixture
def shard(tmp_path, servers) -> Iterator[ImageShard]:
    """Finished: three images are in sdd/, two were dropped by the rules, and one URL had none."""
    shard = planned(tmp_path, [f"http://example.com/{n}" for n in range(COUNT + 1)])
    make(shard, servers)
    keys = shard.store.keys("images", SHARD)
    images = {image.key: image for image in shard.store.read(Image, ("images",), SHARD)}
    for layer, row, payload in (
        ("captions", Caption, {"caption": "a dog and a cat"}),
        ("nouns", Nouns, {"nouns": ()}),
        ("detections", Detections, {"detections": ()}),
    ):
        rows = [row(key=key, **payload) for key in keys if key in images]
        shard.store.write_outcomes(layer, SHARD, rows, row, layer)
    good = {key for key, image in images.items() if int(image.url.rsplit("/", 1)[-1]) < 3}
    rows = [Entities(key=key, candidates=(DOG,) if key in good else ()) for key in keys if key in images]
    shard.store.write_outcomes("entities", SHARD, rows, Entities, "entities")
    report = FinishJob(root=str(tmp_path), rules=RulesConfig(), layers=tuple(Layer)[1:6]).make(SHARD)
    assert (report.error, report.counts) == (None, {"kept": 3, "dropped": 2, "not_downloaded": 1})
    servers.asked.clear()
    return shard


def make(shard: ImageShard, servers: Servers, **options: bool) -> dict[str, int]:
    with collecting(shard, fetch=servers.fetch) as collector:
        return shard.make(collector, **options)


def files(shard: ImageShard) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in Path(shard.store.root.path).rglob("*.parquet")}


def lose(shard: ImageShard, layer: str = "images") -> None:
    shard.store.path(layer, SHARD).unlink()


def test_the_file_is_restored_to_the_byte_and_only_images_outside_sdd_are_fetched(shard, servers):
    before = files(shard)
    lose(shard)
    make(shard, servers)
    assert files(shard) == before
    assert sorted(servers.asked) == ["http://example.com/3", "http://example.com/4"]


def test_nothing_is_changed_while_the_servers_are_down(shard, servers):
    lose(shard)
    before, servers.down = files(shard), True
    with pytest.raises(ImagesLost) as error:
        make(shard, servers)
    message = str(error.value)
    for part in (
        f"{shard.store.path('images', SHARD)} was deleted",
        "lost 2 of 5 images (2 connection)",
        "put the file back from a copy",
        "labeling.stale=rebuild",
    ):
        assert part in message
    assert "\n" not in message
    assert files(shard) == before


def test_the_file_is_restored_once_the_servers_respond(shard, servers):
    before, servers.down = files(shard), True
    lose(shard)
    with pytest.raises(ImagesLost):
        make(shard, servers)
    servers.down = False
    make(shard, servers)
    assert files(shard) == before


def test_the_rows_of_sdd_stay_where_the_loss_is_accepted(shard, servers):
    lose(shard)
    servers.down = True
    assert make(shard, servers, accept_loss=True) == {"kept": 3, "not_downloaded": 3}
    kept = {image.key: image.image for image in shard.store.read(Image, ("images",), SHARD)}
    assert kept == {row.key: row.image for row in shard.store.read(SddRow, ("sdd",), SHARD)}


def test_other_pictures_under_the_same_urls_are_refused(shard, servers):
    lose(shard)
    servers.fetch = lambda url: FetchedBody(jpeg(77))
    with pytest.raises(ImagesLost, match="its URLs have other images now"):
        make(shard, servers)


def test_before_the_shard_is_finished_all_its_images_are_fetched_again(shard, servers):
    before = files(shard)
    for layer in ("images", "sdd", "ledger"):
        lose(shard, layer)
    servers.down = True
    with pytest.raises(ImagesLost, match=r"lost 5 of 5 images"):
        make(shard, servers)
    servers.down = False
    make(shard, servers)
    assert files(shard).items() <= before.items()


def test_other_settings_make_other_files(shard, servers):
    """Which are stale then, and refused or made again as everywhere."""
    lose(shard)
    other = DownloadConfig(**CONFIG.model_dump() | {"min_side_px": 33})
    servers.down = True
    shard = replace(shard, stamp_prefix=images_stamp(other, shard.store, SHARD))
    assert make(shard, servers) == {"not_downloaded": COUNT + 1}
