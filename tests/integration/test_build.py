"""The whole chain once, with small networks over HTTP, and what other settings do to its files."""

import io
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image as Pillow

from infra.config import load
from labeling.config import LabelingConfig
from labeling.sdd.query import connect
from labeling.sdd.shards import ShardStore
from miniature.untrained import write_networks
from miniature.world.scenes import ScenesConfig
from miniature.world.serve import WorldConfig, world_server, write_world
from tests.factories import jpeg
from tests.processes import PATIENCE_S, wait_until

ROOT = Path(__file__).parents[2]
SCENES = 44
UGLY_FIRST = 2
"""A scene whose row has too low a score; another shard has its URL again with a good one."""
BAD = {
    "truncated.jpg": (jpeg(1, (300, 300))[:-200], "failed", "truncated"),
    "empty.jpg": (b"", "failed", "empty"),
    "page.jpg": (b"<html><body>not here</body></html>", "failed", "not_an_image"),
    "small.jpg": (jpeg(2, (64, 48)), "dropped", "small_image"),
}


def cmyk() -> bytes:
    file = io.BytesIO()
    Pillow.new("CMYK", (300, 300), (20, 90, 10, 0)).save(file, "JPEG")
    return file.getvalue()


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> Iterator[Path]:
    """A settings file for a world of scenes, with bad rows in its list."""
    folder = tmp_path_factory.mktemp("world")
    scenes = ScenesConfig(width_px=(256, 288), height_px=(256, 288))
    metadata = write_world(folder / "world", SCENES, seed=5, config=WorldConfig(port=0, scenes=scenes, low_share=0.0))
    for name, (encoded, _, _) in BAD.items():
        (folder / "world" / name).write_bytes(encoded)
    (folder / "world" / "cmyk.jpg").write_bytes(cmyk())
    write_networks(folder / "networks", seed=0)
    with world_server(folder / "world") as url:
        listed = pq.read_table(metadata)["URL"].to_pylist()
        extra = [*(f"{url}/{name}" for name in (*BAD, "cmyk.jpg", "nowhere.jpg")), listed[0], "ftp://example.com/a.jpg"]
        urls = [*listed, *extra, listed[UGLY_FIRST]]
        scores = [1.0 if row == UGLY_FIRST else 6.0 for row in range(len(urls))]
        pq.write_table(pa.table({"url": urls, "AESTHETIC_SCORE": scores}), folder / "urls.parquet")
        file = folder / "settings.toml"
        file.write_text(
            f"""
            extends = "{ROOT}/infra/configs/demo"
            [labeling]
            root = "{folder}/sdd"
            urls = "{folder}/urls.parquet"
            images_per_shard = 20
            caption.checkpoint = "{folder}/networks/blip2"
            detect.checkpoint = "{folder}/networks/grounding_dino"
            segment.checkpoint = "{folder}/networks/sam"
            workers.captions.count = 1
            workers.detections.count = 1
            workers.entities.count = 1
            """
        )
        yield file


def build(settings: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    words = [word for override in overrides for word in ("--set", override)]
    command = [sys.executable, "-m", "flows.cli", "build", "--config", str(settings), *words]
    environment = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def built(settings) -> LabelingConfig:
    from flows.experiment import Experiment

    done = build(settings)
    assert done.returncode == 0, done.stderr
    return load(Experiment, settings).labeling


def stamps(root: str) -> dict[str, str]:
    store = ShardStore(root)
    layers = ("images", "captions", "nouns", "detections", "entities", "sdd", "ledger")
    return {f"{layer}/{s}": store.stamp(layer, s).stamp for layer in layers for s in store.shards(layer)}


def times(root: str, layer: str) -> dict[str, int]:
    return {p.name: p.stat().st_mtime_ns for p in Path(root, layer).glob("*.parquet")}


def test_every_url_has_one_verdict(built):
    session = connect(built.root)
    rows = session.execute("SELECT url, state, reason FROM ledger ORDER BY list_row").fetchall()
    assert len(rows) == SCENES + len(BAD) + 5
    verdicts = {url.rsplit("/", 1)[-1]: (state, reason) for url, state, reason in rows[SCENES : SCENES + len(BAD) + 2]}
    assert verdicts.pop("cmyk.jpg")[0] in {"kept", "dropped"}
    assert verdicts.pop("nowhere.jpg") == ("not_downloaded", "http_404")
    assert verdicts == {name: (state, reason) for name, (_, state, reason) in BAD.items()}
    assert [(state, reason) for _, state, reason in rows[-3:-1]] == [
        ("dropped", "duplicate_url"),
        ("not_downloaded", "not_http"),
    ]
    assert rows[UGLY_FIRST][1:] == ("dropped", "low_aesthetic")
    assert rows[-1][2] != "duplicate_url", "the first row of its URL was not fetched"


def test_no_good_row_is_lost_to_the_bad_ones(built):
    session = connect(built.root)
    assert session.execute("SELECT count(*) FROM images").fetchone() == (SCENES + 1,)
    assert session.execute("SELECT count(*) FROM ledger WHERE state = 'kept'").fetchone()[0] > 10
    assert session.execute("SELECT count(*) FROM ledger WHERE state = 'quarantined'").fetchone() == (0,)


def test_images_are_stored_as_they_came(built, settings):
    session = connect(built.root)
    for url, image in session.execute("SELECT url, image FROM images LIMIT 5").fetchall():
        served = settings.parent / "world" / url.split("/", 3)[-1]
        assert image == served.read_bytes()


def test_a_second_run_makes_nothing_and_loads_no_network(built, settings):
    before = {layer: times(built.root, layer) for layer in ("images", "captions", "entities", "sdd", "ledger")}
    done = build(settings, "labeling.workers.captions.start_deadline_s=0.001")
    assert done.returncode == 0, done.stderr
    assert {layer: times(built.root, layer) for layer in before} == before


def test_another_rule_remakes_the_dataset_only(built, settings):
    before = stamps(built.root)
    refused = build(settings, "labeling.rules.min_mask_fill=0.7")
    assert refused.returncode == 2
    assert "sdd/" in refused.stderr
    assert "captions" not in refused.stderr.splitlines()[-1]
    assert stamps(built.root) == before
    no_network = "labeling.workers.captions.start_deadline_s=0.001"
    done = build(settings, "labeling.rules.min_mask_fill=0.7", "labeling.stale=rebuild", no_network)
    assert done.returncode == 0, done.stderr
    changed = {name.split("/")[0] for name, stamp in stamps(built.root).items() if before[name] != stamp}
    assert changed == {"sdd", "ledger"}
    assert build(settings, "labeling.stale=rebuild").returncode == 0
    assert stamps(built.root) == before


def test_another_captioner_makes_all_later_files_stale_and_says_so(built, settings):
    before = stamps(built.root)
    refused = build(settings, "labeling.caption.max_new_tokens=7")
    assert refused.returncode == 2
    last = refused.stderr.splitlines()[-1]
    assert all(layer in last for layer in ("captions/", "nouns/", "detections/", "entities/", "sdd/", "rebuild"))
    assert "images/" not in last
    assert stamps(built.root) == before


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["labeling.urls=nowhere.parquet"], "nowhere.parquet"),
        (["labeling.rules.min_scroe=0.3"], "labeling.rules.min_scroe"),
        (["labeling.rules.min_score=0.1"], "labeling.segment.floor.min_score=0.1"),
        (["labeling.images_per_shard=many"], "many"),
        (["training.steps"], "table.key=value"),
    ],
)
def test_wrong_settings_are_one_line_and_nothing_is_made(settings, tmp_path, overrides, says):
    done = build(settings, f"labeling.root={tmp_path}/sdd", *overrides)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert says in done.stderr
    assert not (tmp_path / "sdd" / "images").exists()


def test_a_list_without_urls_is_refused(settings, tmp_path):
    pq.write_table(pa.table({"link": ["a"]}), tmp_path / "wrong.parquet")
    pq.write_table(pa.table({"URL": pa.array([], pa.string())}), tmp_path / "empty.parquet")
    for name, says in (("wrong", "link"), ("empty", "no rows")):
        done = build(settings, f"labeling.root={tmp_path}/sdd", f"labeling.urls={tmp_path}/{name}.parquet")
        assert done.returncode == 2
        assert says in done.stderr.splitlines()[-1]


def test_a_missing_checkpoint_is_refused(settings, tmp_path):
    done = build(settings, f"labeling.root={tmp_path}/sdd", "labeling.caption.checkpoint=no/such/folder")
    assert done.returncode == 2
    assert "labeling.caption.checkpoint" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "sdd" / "urls").exists()
    assert not (tmp_path / "sdd" / "images").exists()


def test_an_interrupt_ends_a_build(built, settings, tmp_path, processes):
    """As the terminal sends it: to the whole process group, while the first stage works on images that are there."""
    root = tmp_path / "sdd"
    for folder in ("urls", "images", "work/urls"):
        shutil.copytree(Path(built.root) / folder, root / folder)
    command = [sys.executable, "-m", "flows.cli", "build", "--config", str(settings), f"--set=labeling.root={root}"]
    environment = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    running = processes.start(command, cwd=ROOT, env=environment, start_new_session=True)
    wait_until("a caption", lambda: list(root.glob("work/captions/*.json")), lambda: running.poll() is None)
    family = psutil.Process(running.pid).children(recursive=True)
    os.killpg(running.pid, signal.SIGINT)
    assert running.wait() != 0
    assert not list(root.glob("captions/*.parquet"))
    _, alive = psutil.wait_procs(family, timeout=PATIENCE_S)
    assert not alive


def test_the_commands_that_look(built):
    def said(*words: str) -> str:
        done = subprocess.run([sys.executable, "-m", "flows.cli", *words], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    status = said("status", built.root)
    assert "| ledger | 3 of 3 |" in status
    assert "duplicate_url" in status
    assert "labels" in said("inspect", built.root, "SELECT view_name FROM duckdb_views() WHERE NOT internal")
    for view in ("labels", "boxes_per_image", "broken_rules", "funnel", "why('cmyk')", "captions_with('the')"):
        said("inspect", built.root, f"FROM {view}")
    assert "mean_share" in said("inspect", built.root, "SELECT avg(mask_share) AS mean_share FROM entities")
