"""One shard of images/: every URL has one outcome, whatever its server, its body or its process does."""

import io
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from PIL import Image as Pillow

from labeling.config import DownloadConfig, DownloadWorkers
from labeling.fetch import Fetched, Fetcher, NotFetched
from labeling.image_shards import Gathering, ImageShard, images_stamp, passing_failures
from labeling.journal import LONE_ORPHANS, Journal, journal_path
from labeling.sdd.schema import Image, ListedUrl
from labeling.sdd.shards import ShardStore
from labeling.url_list import key_of
from tests import factories
from tests.web import Site, page, redirect, serving

SHARD = "shard-00000"
CONFIG = DownloadConfig(
    allow_private_hosts=True, min_side_px=32, timeout_s=0.5, backoff_s=0.01, host_pause_s=0.01, max_bytes=100_000
)


@dataclass
class Memory:
    """A spool."""

    bodies: dict[bytes, bytes] = field(default_factory=dict)

    def put(self, key: bytes, encoded: bytes) -> None:
        self.bodies[key] = encoded

    def get(self, key: bytes) -> bytes:
        return self.bodies[key]


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


def gathering(shard: ImageShard, config: DownloadConfig = CONFIG, fetch: object = None) -> Gathering:
    journal = Journal.begin(journal_path(shard.store.root, "images", SHARD), "run")
    call = fetch or Fetcher(config).fetch
    return Gathering(call, config, DownloadWorkers(threads=16, per_host=16), journal, Memory())  # type: ignore[arg-type]


def outcomes(shard: ImageShard) -> dict[str, str]:
    """What became of each URL's path: the state and the reason."""
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
        "/never": never,
        "/drip": drip,
        "/500": page(status=500),
    }
    urls = [site.url(path) for path in [*site.pages, "/404", "/good"]]
    urls += ["http://no-such-name.invalid/dead", "ftp://example.com/ftp", "", "not-a-url"]
    shard = planned(tmp_path, urls)
    counts = shard.make(gathering(shard))
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
        "never": "not_downloaded/timeout",
        "drip": "not_downloaded/timeout",
        "500": "not_downloaded/http_500",
        "404": "not_downloaded/http_404",
        "ftp": "not_downloaded/not_http",
        "": "not_downloaded/invalid_url",
        "not-a-url": "not_downloaded/invalid_url",
    }
    assert sum(counts.values()) == len(urls)
    assert counts["kept"] == 3
    assert site.hits["/good"] == 1, "the second occurrence is not fetched"


def test_images_are_stored_as_they_came(tmp_path: Path, site: Site) -> None:
    shard = planned(tmp_path, [site.url("/good")])
    shard.make(gathering(shard))
    (image,) = shard.store.read(Image, ("images",), SHARD)
    assert image.image == factories.jpeg()
    assert (image.url, image.width_px, image.height_px) == (site.url("/good"), 64, 48)
    assert image.key == key_of(site.url("/good"), 0)


def test_private_hosts_are_refused_by_default(tmp_path: Path, site: Site) -> None:
    shard = planned(tmp_path, [site.url("/good")])
    shard.make(gathering(shard, CONFIG.model_copy(update={"allow_private_hosts": False})))
    assert outcomes(shard) == {"good": "not_downloaded/private_address"}
    assert not site.hits


def test_the_stamp_depends_on_settings_on_the_list_and_on_what_came(tmp_path: Path, site: Site) -> None:
    site.pages["/late"] = page(status=503)
    shard = planned(tmp_path / "a", [site.url("/good"), site.url("/late")])
    same = planned(tmp_path / "b", [site.url("/good"), site.url("/late")])
    more = planned(tmp_path / "c", [site.url("/good"), site.url("/late")])
    shard.make(gathering(shard))
    same.make(gathering(same))
    site.pages["/late"] = page(factories.jpeg(5))
    more.make(gathering(more))
    stamps = [s.store.stamp("images", SHARD) for s in (shard, same, more)]
    first, second, third = (stamp.stamp for stamp in stamps if stamp)
    assert first == second != third
    assert third.startswith(shard.begin)
    strict = images_stamp(CONFIG.model_copy(update={"min_side_px": 33}), shard.store, SHARD)
    patient = images_stamp(CONFIG.model_copy(update={"timeout_s": 60.0, "rounds": 9}), shard.store, SHARD)
    assert strict != shard.begin == patient


def test_of_two_builds_the_first_to_be_done_counts(tmp_path: Path, site: Site) -> None:
    """On an object store nothing is locked, and by the time of the second later files may be of the first."""
    first = planned(tmp_path, [site.url(p) for p in ("/good", "/late")])
    second = replace(first)

    def meanwhile(handler: BaseHTTPRequestHandler) -> None:
        site.pages["/late"] = page(status=503)
        first.make(gathering(first))
        page(factories.jpeg(7))(handler)

    site.pages["/late"] = meanwhile
    assert second.make(gathering(second)) == {"kept": 1, "not_downloaded": 1}
    assert outcomes(second) == {"good": "kept", "late": "not_downloaded/http_503"}


def test_failed_urls_alone_are_fetched_again(tmp_path: Path, site: Site) -> None:
    site.pages |= {"/late": page(status=503), "/later": page(status=503), "/gone": page(status=404)}
    shard = planned(tmp_path, [site.url(p) for p in ("/good", "/late", "/later", "/gone")])
    shard.make(gathering(shard))
    before = shard.store.stamp("images", SHARD)
    assert len(passing_failures(shard.store, SHARD)) == 2
    file = Path(shard.store.path("images", SHARD).path)
    written = file.stat().st_ino
    shard.retry(gathering(shard))
    assert file.stat().st_ino == written, "nothing came: the file, and all later ones, stand"
    site.pages["/late"] = page(factories.jpeg(7))
    site.hits.clear()
    counts = shard.retry(gathering(shard))
    assert counts == {"kept": 2, "not_downloaded": 2}
    assert site.hits == {"/late": 1, "/later": CONFIG.rounds}
    after = shard.store.stamp("images", SHARD)
    assert before
    assert after
    assert after.stamp.startswith(shard.begin)
    assert after.stamp != before.stamp
    found = {image.url: image.image for image in shard.store.read(Image, ("images",), SHARD)}
    assert found == {site.url("/good"): factories.jpeg(), site.url("/late"): factories.jpeg(7)}
    assert outcomes(shard)["gone"] == "not_downloaded/http_404"


def test_a_body_that_keeps_killing_its_process_is_quarantined(tmp_path: Path) -> None:
    """Bodies that were looked at when a process died are looked at alone; all that is left of it is the journal."""
    urls = [f"http://a.example/{i}" for i in range(40)]
    killer = key_of(urls[17], 0)
    deaths = []

    class Died(BaseException):
        """Ends the process, as far as the journal can tell."""

    class Deadly(Memory):
        def put(self, key: bytes, encoded: bytes) -> None:
            if key == killer:
                raise Died
            super().put(key, encoded)

    def fetch(url: str) -> Fetched | NotFetched:
        return Fetched(factories.jpeg())

    shard = planned(tmp_path, urls)
    for _ in range(10):
        try:
            shard.make(replace(gathering(shard, fetch=fetch), spool=Deadly()))
            break
        except Died:
            deaths.append(len(Journal.begin(journal_path(shard.store.root, "images", SHARD), "look").suspects))
    found = outcomes(shard)
    assert found.pop("17") == "quarantined/crash"
    assert set(found.values()) == {"kept"}, "its neighbours are kept"
    assert 1 < deaths[0] <= 16
    assert len(deaths) <= 1 + LONE_ORPHANS


def test_a_death_while_the_network_is_awaited_blames_nobody(tmp_path: Path) -> None:
    shard = planned(tmp_path, [f"http://a.example/{i}" for i in range(3)])
    gathered = gathering(shard, fetch=lambda url: Fetched(factories.jpeg()))
    gathered.gather(shard.listed)
    assert Journal.begin(journal_path(shard.store.root, "images", SHARD), "next").suspects == set()
