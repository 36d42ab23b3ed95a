"""One shard of images/: every URL has one outcome, whatever its server, its body or its process does."""

import io
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from PIL import Image as Pillow

from labeling.config import DownloadConfig, DownloadWorkers, Workers
from labeling.download.collector import ImageCollector
from labeling.download.fetching.fetch import Fetcher
from labeling.download.fetching.fetch_result import FetchedBody, FetchResult
from labeling.download.image_shards import ImageShard, images_stamp, retryable_keys
from labeling.download.lists.names import key_of
from labeling.download.screening.stage import ScreenStage, SpooledBody
from labeling.download.spool import Spool
from labeling.execution.journal import Journal, journal_path
from labeling.execution.process import StageProcess
from labeling.sdd.schema import Image, ListedUrl
from labeling.sdd.shards import ShardStore
from tests import factories
from tests.faulty_screening import FaultyScreenStage
from tests.processes import PATIENCE_S
from tests.web import Site, page, redirect, serving

SHARD = "shard-00000"
CONFIG = DownloadConfig(
    allow_private_hosts=True, min_side_px=32, timeout_s=PATIENCE_S, backoff_s=0.01, host_pause_s=0.01, max_bytes=100_000
)


SCREENERS: dict[tuple[type[ScreenStage], bool], StageProcess] = {}
"""Processes that screen bodies, for all tests of a module."""


@pytest.fixture(scope="module", autouse=True)
def _no_process_is_left() -> Iterator[None]:
    yield
    close_screeners()


def close_screeners() -> None:
    """End the processes."""
    while SCREENERS:
        SCREENERS.popitem()[1].close()


def planned(root: Path, urls: Sequence[str]) -> ImageShard:
    """A shard whose `urls/` has these URLs."""
    store = ShardStore(str(root))
    seen: dict[str, int] = {}
    listed = []
    for row, url in enumerate(urls):
        listed.append(replace(factories.listed(row), url=url, key=key_of(url, seen.get(url, 0))))
        seen[url] = seen.get(url, 0) + 1
    listed.sort(key=lambda row: row.key)
    store.write("urls", SHARD, listed, ListedUrl, "list")
    return ImageShard(store, SHARD, listed, images_stamp(CONFIG, store, SHARD))


@contextmanager
def collecting(
    shard: ImageShard,
    config: DownloadConfig = CONFIG,
    fetch: Callable[[str], FetchResult] | None = None,
    stage: type[ScreenStage] = ScreenStage,
    elsewhere: bool = False,
) -> Iterator[ImageCollector]:
    """Args:
    elsewhere: whether it runs on another machine, which has a spool and a process of its own.
    """
    journal = Journal.begin(journal_path(shard.store.root, "images", SHARD), "run")
    workers = DownloadWorkers(threads=16, per_host=16)
    screening = Workers(batch_size=16, batch_deadline_s=5 if stage is FaultyScreenStage else PATIENCE_S)
    screener = SCREENERS.setdefault((stage, elsewhere), StageProcess(stage(CONFIG), screening, 1, 16))
    near = shard.store.root / "elsewhere" if elsewhere else shard.store.root
    with Spool.open(near, SHARD, shard.stamp_prefix) as spool:
        yield ImageCollector(fetch or Fetcher(config).fetch, config, workers, journal, spool, screener)


def make(
    shard: ImageShard,
    config: DownloadConfig = CONFIG,
    fetch: Callable[[str], FetchResult] | None = None,
    stage: type[ScreenStage] = ScreenStage,
) -> dict[str, int]:
    with collecting(shard, config, fetch, stage) as collector:
        return shard.make(collector)


def retry(shard: ImageShard) -> dict[str, int]:
    with collecting(shard) as collector:
        return shard.retry(collector)


def outcomes(shard: ImageShard) -> dict[str, str]:
    """State and reason of each URL's outcome, by path."""
    verdicts = shard.store.verdicts("images", SHARD)
    again = {url.key for url in shard.listed if url.key != key_of(url.url, 0)}
    names = {url.key: url.url.rsplit("/", 1)[-1] + " again" * (url.key in again) for url in shard.listed}
    kept = {image.key: "kept" for image in shard.store.read(Image, ("images",), SHARD)}
    assert not set(kept) & set(verdicts)
    assert set(kept) | set(verdicts) == set(names), "one outcome for each URL"
    return {names[key]: kept.get(key) or f"{verdicts[key].state}/{verdicts[key].reason}" for key in names}


@pytest.fixture
def site() -> Iterator[Site]:
    with serving({"/good": page(factories.jpeg())}) as site:
        yield site


def never(handler: BaseHTTPRequestHandler) -> None:
    time.sleep(20)


def drip(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.end_headers()
    while True:
        handler.wfile.write(b"\xff")
        time.sleep(0.05)


def test_every_kind_of_bad_input_becomes_a_verdict(tmp_path: Path, site: Site) -> None:
    good = factories.jpeg(1, (64, 64))
    cmyk, webp = io.BytesIO(), io.BytesIO()
    Pillow.open(io.BytesIO(good)).convert("CMYK").save(cmyk, "JPEG")
    Pillow.open(io.BytesIO(good)).save(webp, "WEBP")
    site.pages |= {
        "/truncated": page(good[: len(good) // 2]),
        "/cut-off": page(good[: len(good) // 2], headers={"Content-Length": str(len(good))}),
        "/empty": page(b""),
        "/html": page(b"<html>Sorry</html>", headers={"Content-Type": "image/jpeg"}),
        "/cmyk": page(cmyk.getvalue()),
        "/webp": page(webp.getvalue(), headers={"Content-Type": "text/plain"}),
        "/small": page(factories.jpeg(2, (64, 31))),
        "/big": page(bytes(100_001)),
        "/loop": redirect("/loop"),
        "/inwards": redirect("ftp://example.com/"),
        "/noai": page(good, headers={"X-Robots-Tag": "noai"}),
        "/500": page(status=500),
    }
    urls = [site.url(path) for path in [*site.pages, "/404", "/good"]]
    urls += ["http://no-such-name.invalid/dead", "ftp://example.com/ftp", "", "not-a-url"]
    shard = planned(tmp_path, urls)
    counts = make(shard)
    found = outcomes(shard)
    assert found.pop("dead") in {"not_downloaded/no_such_host", "not_downloaded/dns"}
    assert found == {
        "good": "kept",
        "good again": "dropped/duplicate_url",
        "truncated": "failed/truncated",
        "cut-off": "not_downloaded/connection",
        "empty": "failed/empty",
        "html": "failed/not_an_image",
        "cmyk": "kept",
        "webp": "kept",
        "small": "dropped/small_image",
        "big": "not_downloaded/too_large",
        "loop": "not_downloaded/redirect_loop",
        "inwards": "not_downloaded/not_http",
        "noai": "not_downloaded/noai",
        "500": "not_downloaded/http_500",
        "404": "not_downloaded/http_404",
        "ftp": "not_downloaded/not_http",
        "": "not_downloaded/invalid_url",
        "not-a-url": "not_downloaded/invalid_url",
    }
    assert sum(counts.values()) == len(urls)
    assert counts["kept"] == 3
    assert site.hits["/good"] == 1, "the second occurrence is not fetched"


def test_a_timeout_becomes_a_verdict(tmp_path: Path, site: Site) -> None:
    site.pages |= {"/never": never, "/drip": drip}
    shard = planned(tmp_path, [site.url(path) for path in ("/never", "/drip")])
    make(shard, CONFIG.model_copy(update={"timeout_s": 0.5}))
    assert outcomes(shard) == {"never": "not_downloaded/timeout", "drip": "not_downloaded/timeout"}


def test_images_are_stored_as_they_came(tmp_path: Path, site: Site) -> None:
    shard = planned(tmp_path, [site.url("/good")])
    make(shard)
    (image,) = shard.store.read(Image, ("images",), SHARD)
    assert image.image == factories.jpeg()
    assert (image.url, image.width_px, image.height_px) == (site.url("/good"), 64, 48)
    assert image.key == key_of(site.url("/good"), 0)


def test_private_hosts_are_refused_by_default(tmp_path: Path, site: Site) -> None:
    shard = planned(tmp_path, [site.url("/good")])
    make(shard, CONFIG.model_copy(update={"allow_private_hosts": False}))
    assert outcomes(shard) == {"good": "not_downloaded/private_address"}
    assert not site.hits


def test_the_stamp_depends_on_settings_on_the_list_and_on_what_came(tmp_path: Path, site: Site) -> None:
    site.pages["/late"] = page(status=503)
    shard = planned(tmp_path / "a", [site.url("/good"), site.url("/late")])
    same = planned(tmp_path / "b", [site.url("/good"), site.url("/late")])
    more = planned(tmp_path / "c", [site.url("/good"), site.url("/late")])
    make(shard)
    make(same)
    site.pages["/late"] = page(factories.jpeg(5))
    make(more)
    stamps = [s.store.stamp("images", SHARD) for s in (shard, same, more)]
    first, second, third = (stamp.stamp for stamp in stamps if stamp)
    assert first == second != third
    assert third.startswith(shard.stamp_prefix)
    strict = images_stamp(CONFIG.model_copy(update={"min_side_px": 33}), shard.store, SHARD)
    patient = images_stamp(CONFIG.model_copy(update={"timeout_s": 60.0, "rounds": 9}), shard.store, SHARD)
    assert strict != shard.stamp_prefix == patient


def test_the_file_of_the_first_of_two_builds_counts(tmp_path: Path, site: Site) -> None:
    """On an object store nothing is locked, and by the time of the second later files may be of the first."""
    first = planned(tmp_path, [site.url(p) for p in ("/good", "/late")])
    second = replace(first)

    def meanwhile(handler: BaseHTTPRequestHandler) -> None:
        site.pages["/late"] = page(status=503)
        with collecting(first, elsewhere=True) as collector:
            first.make(collector)
        page(factories.jpeg(7))(handler)

    site.pages["/late"] = meanwhile
    assert make(second) == {"kept": 1, "not_downloaded": 1}
    assert outcomes(second) == {"good": "kept", "late": "not_downloaded/http_503"}


def test_failed_urls_alone_are_fetched_again(tmp_path: Path, site: Site) -> None:
    site.pages |= {"/late": page(status=503), "/later": page(status=503), "/gone": page(status=404)}
    shard = planned(tmp_path, [site.url(p) for p in ("/good", "/late", "/later", "/gone")])
    make(shard)
    before = shard.store.stamp("images", SHARD)
    assert len(retryable_keys(shard.store, SHARD)) == 2
    file = Path(shard.store.path("images", SHARD).path)
    written = file.stat().st_ino
    retry(shard)
    assert file.stat().st_ino == written, "nothing came: the file, and all later ones, stand"
    site.pages["/late"] = page(factories.jpeg(7))
    site.hits.clear()
    counts = retry(shard)
    assert counts == {"kept": 2, "not_downloaded": 2}
    assert site.hits == {"/late": 1, "/later": CONFIG.rounds}
    after = shard.store.stamp("images", SHARD)
    assert before
    assert after
    assert after.stamp.startswith(shard.stamp_prefix)
    assert after.stamp != before.stamp
    found = {image.url: image.image for image in shard.store.read(Image, ("images",), SHARD)}
    assert found == {site.url("/good"): factories.jpeg(), site.url("/late"): factories.jpeg(7)}
    assert outcomes(shard)["gone"] == "not_downloaded/http_404"


class Server:
    """What is fetched, and how often each URL was."""

    def __init__(self, bodies: Mapping[str, bytes]) -> None:
        self.bodies = bodies
        self.hits: Counter[str] = Counter()

    def fetch(self, url: str) -> FetchedBody:
        self.hits[url] += 1
        return FetchedBody(self.bodies[url])


def server_of(count: int, special: Mapping[int, bytes]) -> Server:
    """A server of `count` pictures, some of them special."""
    return Server({f"http://a.example/{i}": special.get(i, factories.jpeg(i)) for i in range(count)})


def test_bodies_that_crash_or_hang_their_process_are_quarantined(tmp_path: Path) -> None:
    """The process that fetches goes on: nothing is fetched again, and no neighbour is lost."""
    server = server_of(40, {4: factories.jpeg() + b"segfault", 9: factories.jpeg() + b"hang"})
    shard = planned(tmp_path, list(server.bodies))
    make(shard, fetch=server.fetch, stage=FaultyScreenStage)
    found = outcomes(shard)
    assert (found.pop("4"), found.pop("9")) == ("quarantined/crash", "quarantined/hang")
    assert set(found.values()) == {"kept"}
    assert server.hits == Counter(list(server.bodies))


def test_jpegs_of_too_many_scans_cost_no_good_url(tmp_path: Path) -> None:
    """Each of them would take minutes to decode."""
    progressive = io.BytesIO()
    Pillow.new("RGB", (4000, 4000)).save(progressive, "JPEG", progressive=True)
    body = progressive.getvalue()
    scan = body[body.rfind(b"\xff\xda") : -2]
    hostile = body[:-2] + scan * 20_000 + body[-2:]
    assert len(hostile) < 800_000
    server = server_of(40, dict.fromkeys(range(0, 35, 5), hostile))
    shard = planned(tmp_path, list(server.bodies))
    assert make(shard, fetch=server.fetch) == {"kept": 33, "failed": 7}
    assert Counter(outcomes(shard).values()) == {"kept": 33, "failed/too_many_scans": 7}
    assert server.hits == Counter(list(server.bodies))


def png_of_one_colour(side: int) -> bytes:
    file = io.BytesIO()
    Pillow.new("L", (side, side)).save(file, "PNG", compress_level=1)
    return file.getvalue()


def body_in(folder: Path, encoded: bytes) -> SpooledBody:
    path = folder / "body"
    path.write_bytes(encoded)
    return SpooledBody(key=factories.key(1), path=str(path))


def test_a_big_image_is_decoded_alone_and_kept(tmp_path: Path) -> None:
    big = png_of_one_colour(7000)
    assert ScreenStage(CONFIG).process([body_in(tmp_path, big)])[0].outcome is None
    server = server_of(3, {1: big})
    shard = planned(tmp_path, list(server.bodies))
    assert make(shard, fetch=server.fetch) == {"kept": 3}
    assert (tmp_path / "work/images/big-images.lock").exists()
    assert server.hits == Counter(list(server.bodies))


def test_bodies_of_an_earlier_process_are_not_fetched_again(tmp_path: Path) -> None:
    """The earlier process ends in the middle, as its journal can no longer be written."""
    server = server_of(60, {})
    shard = planned(tmp_path, list(server.bodies))
    in_the_way = tmp_path / f"work/images/.{SHARD}.json.tmp"

    def fetch(url: str) -> FetchedBody:
        if sum(server.hits.values()) == 40:
            in_the_way.mkdir(exist_ok=True)
        return server.fetch(url)

    with pytest.raises(IsADirectoryError):
        make(shard, fetch=fetch)
    in_the_way.rmdir()
    bodies = list((tmp_path / f"work/images/{SHARD}.spool").rglob("*-*"))
    bodies[0].write_bytes(b"torn by a power cut")
    before = Counter(server.hits)
    make(shard, fetch=server.fetch)
    assert set(outcomes(shard).values()) == {"kept"}
    again = server.hits - before
    assert len(again) == 60 - len(bodies) + 1, "those that are not in the spool, and the torn one"
    assert set(again.values()) == {1}
    assert not list(tmp_path.rglob("*.spool")), "the shard is made"


def test_a_death_during_the_fetches_makes_no_suspect(tmp_path: Path) -> None:
    shard = planned(tmp_path, [f"http://a.example/{i}" for i in range(3)])
    with collecting(shard, fetch=lambda url: FetchedBody(factories.jpeg())) as collector:
        collector.collect(shard.listed)
    assert Journal.begin(journal_path(shard.store.root, "images", SHARD), "next").suspects == set()
