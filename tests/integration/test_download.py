"""The download with its pool, spool, and img2dataset's reader and Ray tasks: processes that may be killed anywhere."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from labeling.build import refuse_stale
from labeling.config import DownloadConfig, DownloadWorkers, Executor, LabelingConfig, StageWorkers, Stale
from labeling.download import stage as download
from labeling.download.lists.url_list import plan_urls
from labeling.download.stage import download_shards
from labeling.errors import ShardStale, StageFailed
from labeling.execution.progress import ProgressCounter
from labeling.sdd.removed import Removal, write_removal
from labeling.sdd.schema import Caption, Image, ListedUrl
from labeling.sdd.shards import ShardStore
from labeling.steps import chain_stages
from tests import factories
from tests.faulty_stage import FaultyConfig, FaultyStage
from tests.processes import PATIENCE_S, Processes, wait_until
from tests.web import Page, Site, page, serving

DOWNLOAD = DownloadConfig(allow_private_hosts=True, min_side_px=32, timeout_s=PATIENCE_S, rounds=1)


def config_of(root: Path, site: Site, count: int, **more: object) -> LabelingConfig:
    """A list of `count` URLs of the site, 40 a shard."""
    pq.write_table(pa.table({"URL": [site.url(f"/{i}.jpg") for i in range(count)]}), root / "list.parquet")
    return LabelingConfig.model_validate(
        {
            "root": str(root / "sdd"),
            "urls": str(root / "list.parquet"),
            "images_per_shard": 40,
            "download": DOWNLOAD,
            "workers": StageWorkers(images=DownloadWorkers(processes=2, threads=8, per_host=8)),
            **more,
        }
    )


def picture(handler: BaseHTTPRequestHandler) -> None:
    """A picture for each number but every tenth, for which there is none."""
    number = int(handler.path.strip("/").removesuffix(".jpg"))
    page(status=404)(handler) if number % 10 == 0 else page(factories.jpeg(number))(handler)


def slowly(seconds: float) -> Page:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        time.sleep(seconds)
        picture(handler)

    return answer


@pytest.fixture
def site() -> Iterator[Site]:
    with serving({"*": picture}) as site:
        yield site


def assert_all_there(config: LabelingConfig, site: Site, count: int) -> None:
    """Each URL has its outcome, once, and each picture its own bytes."""
    store = ShardStore(config.root)
    urls: dict[str, bytes] = {}
    for shard in store.shards("urls"):
        listed = {row.key: row.url for row in store.read(ListedUrl, ("urls",), shard)}
        images = list(store.read(Image, ("images",), shard))
        verdicts = store.verdicts("images", shard)
        assert sorted([*verdicts, *(image.key for image in images)]) == sorted(listed)
        assert {v.reason for v in verdicts.values()} <= {"http_404"}
        urls |= {image.url: image.image for image in images}
    assert urls == {site.url(f"/{i}.jpg"): factories.jpeg(i) for i in range(count) if i % 10}
    assert not list(Path(config.root).rglob("*.tmp"))


def test_a_list_becomes_shards_of_images_and_a_second_run_does_nothing(
    tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    config = config_of(tmp_path, site, 100)
    shards = plan_urls(config)
    reports = download_shards(config, shards)
    assert [(r.shard, r.counts, r.reused) for r in reports] == [
        ("shard-00000", {"kept": 36, "not_downloaded": 4}, False),
        ("shard-00001", {"kept": 36, "not_downloaded": 4}, False),
        ("shard-00002", {"kept": 18, "not_downloaded": 2}, False),
    ]
    assert sum(report.starts for report in reports) <= 2, "two processes screen the bodies of all shards"
    assert_all_there(config, site, 100)
    assert sorted(p.suffix for p in (Path(config.root) / "work/images").iterdir()) == [".lock"] * 3, "nothing is left"
    assert list((Path(config.root) / "work/runs").iterdir()) == []
    assert list(temporary.iterdir()) == []
    site.hits.clear()
    assert [(r.counts, r.reused) for r in download_shards(config, shards)] == [(r.counts, True) for r in reports]
    assert not site.hits
    strict = config.model_copy(update={"download": DOWNLOAD.model_copy(update={"min_side_px": 49})})
    with pytest.raises(ShardStale, match=r"images/shard-00000\.parquet is stamped .*labeling\.stale=rebuild"):
        download_shards(strict, shards)
    assert not site.hits, "refused before anything is done"


def test_removed_and_opted_out_urls_are_not_requested(tmp_path: Path, site: Site) -> None:
    (tmp_path / "opt-out.txt").write_text(site.url("/2.jpg"))
    opt_out = DOWNLOAD.model_copy(update={"opt_out": str(tmp_path / "opt-out.txt")})
    config = config_of(tmp_path, site, 4, download=opt_out)
    store = ShardStore(config.root)
    write_removal(store, "first", Removal(made_at="2026-11-30T12:00:00+00:00", urls=(site.url("/1.jpg"),)))
    download_shards(config, plan_urls(config))
    assert sorted(site.hits) == ["/0.jpg", "/3.jpg"]
    reasons = sorted(verdict.reason for verdict in store.verdicts("images", "shard-00000").values())
    assert reasons == ["http_404", "opted_out", "removed"]


@pytest.mark.slow
def test_other_settings_and_retries(tmp_path: Path, site: Site) -> None:
    """Rebuilt under other settings; then a retryable failure is fetched, in its shard alone."""
    site.pages["/7.jpg"] = page(status=503)
    config = config_of(tmp_path, site, 80)
    shards = plan_urls(config)
    download_shards(config, shards)
    strict = config.model_copy(
        update={"download": DOWNLOAD.model_copy(update={"min_side_px": 33}), "stale": Stale.REBUILD}
    )
    assert [r.reused for r in download_shards(strict, shards)] == [False, False]
    store = ShardStore(config.root)
    before = [store.stamp("images", shard) for shard in shards]
    site.pages["/7.jpg"] = page(factories.jpeg(7))
    site.hits.clear()
    again = strict.model_copy(update={"download": strict.download.model_copy(update={"retry_failed": True})})
    assert [r.reused for r in download_shards(again, shards)] == [False, True]
    assert site.hits == {"/7.jpg": 1}
    after = [store.stamp("images", shard) for shard in shards]
    assert [a == b for a, b in zip(after, before, strict=True)] == [False, True]
    assert_refused_only_without_retry(again.model_copy(update={"stale": Stale.REFUSE}), before[0].stamp, shards)
    assert_all_there(strict, site, 80)


def assert_refused_only_without_retry(config: LabelingConfig, former: str, shards: list[str]) -> None:
    """Captions of the first shard from before it gained an image, as a killed build leaves them, can be made again."""
    (step,) = steps = chain_stages([(FaultyStage(FaultyConfig()), "")])
    store = ShardStore(config.root)
    store.write_outcomes("captions", shards[0], [], Caption, step.stamp(former))
    refuse_stale(config, steps, shards)
    without_retry = config.download.model_copy(update={"retry_failed": False})
    with pytest.raises(ShardStale, match=r"gained images in a run .* --set labeling\.download\.retry_failed=true"):
        refuse_stale(config.model_copy(update={"download": without_retry}), steps, shards)
    others = chain_stages([(FaultyStage(FaultyConfig(memory_rows=7)), "")])
    with pytest.raises(ShardStale, match=r"captions/ \(1 shards\)"):
        refuse_stale(config, others, shards)


def pool_of(process: psutil.Process) -> list[psutil.Process]:
    """The processes of the pool: grandchildren of `process`, without multiprocessing's resource tracker."""
    found = process.children(recursive=True)
    return [p for p in found if p.is_running() and "spawn_main" in " ".join(p.cmdline()) and p.ppid() != process.pid]


DRIVER = """
import sys
from labeling.config import LabelingConfig
from labeling.download.stage import download_shards
from labeling.download.lists.url_list import plan_urls
config = LabelingConfig.model_validate_json(sys.argv[1])
download_shards(config, plan_urls(config))
"""


def start(config: LabelingConfig, processes: Processes) -> "subprocess.Popen[bytes]":
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([os.getcwd(), *sys.path])}
    return processes.start([sys.executable, "-c", DRIVER, config.model_dump_json()], env=environment)


def test_a_deleted_file_whose_server_is_down_is_not_made_without_its_images(tmp_path: Path, site: Site) -> None:
    config = config_of(tmp_path, site, 40)
    (shard,) = plan_urls(config)
    download_shards(config, [shard])
    store = ShardStore(config.root)
    captions = [Caption(key=image.key, caption="a dog") for image in store.read(Image, ("images",), shard)]
    store.write_outcomes("captions", shard, captions, Caption, "captions")
    store.path("images", shard).unlink()
    site.pages["*"] = page(status=503)
    with pytest.raises(StageFailed, match=r"downloading it again lost 36 of 36 images \(36 http_503\)"):
        download_shards(config, [shard])
    assert store.shards("images") == []
    (report,) = download_shards(config.model_copy(update={"stale": Stale.REBUILD}), [shard])
    assert report.counts == {"not_downloaded": 40}


@pytest.mark.slow
def test_killed_workers_cost_no_url(tmp_path: Path, site: Site, processes: Processes) -> None:
    """First one of the pool, then the pool's own parent."""
    site.pages["*"] = slowly(0.3)
    config = config_of(tmp_path, site, 160)
    driver = start(config, processes)
    wait_until("a request", lambda: sum(site.hits.values()) > 20)
    pool = pool_of(psutil.Process(driver.pid))
    assert len(pool) == 2
    pool[0].kill()
    psutil.wait_procs(pool, timeout=PATIENCE_S)
    asked = sum(site.hits.values())
    wait_until("another request", lambda: sum(site.hits.values()) > asked + 20)
    second = pool_of(psutil.Process(driver.pid))
    assert not set(pool) & set(second)
    second[0].parent().kill()  # type: ignore[union-attr]
    assert driver.wait(PATIENCE_S) == 0
    assert_all_there(config, site, 160)
    again = sum(hits - 1 for path, hits in site.hits.items() if not path.endswith("0.jpg"))
    assert again <= 2 * 2 * 17, (
        "at each kill, in each process: eight that are fetched, eight that wait, one that is put down"
    )


@pytest.mark.slow
def test_a_killed_driver_leaves_whole_files_and_no_process(tmp_path: Path, site: Site, processes: Processes) -> None:
    site.pages["*"] = slowly(0.3)
    config = config_of(tmp_path, site, 240)
    images, work = Path(config.root) / "images", Path(config.root) / "work" / "images"
    driver = start(config, processes)
    wait_until("a finished shard", lambda: len(list(images.glob("*.parquet"))) >= 2)
    family = psutil.Process(driver.pid).children(recursive=True)
    done = {file: (file.stat().st_mtime_ns, pq.read_table(file).num_rows) for file in images.glob("*.parquet")}
    driver.kill()
    driver.wait()
    _, alive = psutil.wait_procs(family, timeout=PATIENCE_S)
    assert not alive
    assert list(work.glob("lists-*")), "it left what the next one removes"
    assert set(done) < {images / f"shard-{i:05d}.parquet" for i in range(6)}, "some are still to do"
    assert all(rows == 40 for _, rows in done.values())
    site.pages["*"] = picture
    shards = plan_urls(config)
    count = ProgressCounter(ShardStore(config.root), "images", shards).count
    assert count().done >= 80, "progress is right after a restart"
    download_shards(config, shards)
    assert count().done == 240
    assert all(file.stat().st_mtime_ns == mtime for file, (mtime, _) in done.items()), "what was done stays"
    assert_all_there(config, site, 240)
    assert {p.suffix for p in work.iterdir()} == {".lock"}, "nothing is left"


@pytest.mark.slow
def test_two_builds_in_one_root_do_not_disturb_each_other(tmp_path: Path, site: Site) -> None:
    """The first to end takes nothing away from the other; each has a report of each shard."""
    site.pages["*"] = slowly(0.05)
    config = config_of(tmp_path, site, 160)
    shards = plan_urls(config)
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda part: download_shards(config, part), [shards, shards[::-1]]))
    assert {r.shard: r.counts for r in both[0]} == {r.shard: r.counts for r in both[1]}
    assert [sum(r.reused for r in pair) for pair in zip(both[0], both[1][::-1], strict=True)] == [1] * 4
    assert_all_there(config, site, 160)
    assert {p.suffix for p in (Path(config.root) / "work/images").iterdir()} == {".lock"}, "nothing is left"


@pytest.mark.slow
def test_a_finished_shard_resets_the_count_of_deaths(
    tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process dies in each shard after the first, whenever the one before is finished."""
    config = config_of(tmp_path, site, 120, workers=StageWorkers(images=DownloadWorkers(processes=1)))
    shards = plan_urls(config)
    killers = {path_in(config, shard) for shard in shards[1:]}

    def kill_once(handler: BaseHTTPRequestHandler) -> None:
        if handler.path in killers:
            killers.remove(handler.path)
            for process in pool_of(psutil.Process()):
                process.kill()
        picture(handler)

    site.pages["*"] = kill_once
    monkeypatch.setattr(download, "MAX_ATTEMPTS_WITHOUT_PROGRESS", 2)
    download_shards(config, shards)
    assert not killers
    assert_all_there(config, site, 120)


def path_in(config: LabelingConfig, shard: str) -> str:
    """The path of the first URL of a shard that has a picture."""
    urls = [row.url for row in ShardStore(config.root).read(ListedUrl, ("urls",), shard)]
    return next("/" + url.rsplit("/", 1)[1] for url in urls if not url.endswith("0.jpg"))


@pytest.mark.slow
def test_a_stopped_download_leaves_no_process(tmp_path: Path, site: Site) -> None:
    site.pages["*"] = slowly(PATIENCE_S)
    config = config_of(tmp_path, site, 40)
    shards, stop = plan_urls(config), threading.Event()
    family: list[psutil.Process] = []

    def stop_soon() -> None:
        wait_until("a request", lambda: site.hits)
        family.extend(psutil.Process().children(recursive=True))
        stop.set()

    threading.Thread(target=stop_soon, daemon=True).start()
    with pytest.raises(StageFailed, match="images: stopped"):
        download_shards(config, shards, stop)
    assert family
    _, alive = psutil.wait_procs(family, timeout=PATIENCE_S)
    assert not alive


@pytest.mark.slow
def test_a_shard_that_cannot_be_made_is_an_error(tmp_path: Path, site: Site) -> None:
    config = config_of(tmp_path, site, 50)
    shards = plan_urls(config)
    (Path(config.root) / "work/images/shard-00000.lock").mkdir(parents=True)  # where a file must be
    with pytest.raises(StageFailed, match=r"images shard-00000: IsADirectoryError"):
        download_shards(config, shards)
    assert ShardStore(config.root).shards("images") == ["shard-00001"], "the others are made all the same"


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_on_ray(tmp_path: Path, site: Site) -> None:
    config = config_of(tmp_path, site, 100, executor=Executor.RAY)
    reports = download_shards(config, plan_urls(config))
    assert [sum(report.counts.values()) for report in reports] == [40, 40, 20]
    assert_all_there(config, site, 100)
