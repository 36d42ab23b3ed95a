"""DreamBench's photographs through the whole chain, over HTTP. Needs SD_DREAMBENCH_DIR, a folder of them."""

import functools
import http.server
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.experiment import Experiment
from infra.config import load
from labeling.build import LocalTaskRunner, build
from labeling.sdd.query import connect
from miniature.untrained import write_networks

PHOTOGRAPHS = os.environ.get("SD_DREAMBENCH_DIR")
pytestmark = pytest.mark.skipif(not PHOTOGRAPHS, reason="SD_DREAMBENCH_DIR names no folder of photographs")


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@pytest.fixture
def url() -> Iterator[str]:
    handler = functools.partial(Quiet, directory=PHOTOGRAPHS)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_every_photograph_goes_through_the_chain(url, tmp_path):
    files = sorted(str(p.relative_to(PHOTOGRAPHS)) for p in Path(PHOTOGRAPHS).rglob("*.jpg"))
    pq.write_table(pa.table({"URL": [f"{url}/{name}" for name in files]}), tmp_path / "urls.parquet")
    write_networks(tmp_path / "networks", seed=0)
    networks = {
        "caption.checkpoint": "blip2",
        "detect.checkpoint": "grounding_dino",
        "segment.checkpoint": "sam",
    }
    overrides = [f"labeling.{key}={tmp_path}/networks/{name}" for key, name in networks.items()]
    overrides += [f"labeling.root={tmp_path}/sdd", f"labeling.urls={tmp_path}/urls.parquet"]
    labeling = load(Experiment, "demo", [*overrides, "labeling.download.min_side_px=1"]).labeling
    counts = build(labeling, LocalTaskRunner())
    session = connect(labeling.root)
    large = session.execute("SELECT count(*) FROM images WHERE least(width_px, height_px) > 1024").fetchone()[0]
    assert sum(counts.values()) == len(files) == 158
    assert large == 142
    assert session.execute("SELECT count(*) FROM captions").fetchone()[0] > 0
    assert counts["kept"] > 0
    assert counts.get("failed", 0) == counts.get("quarantined", 0) == 0
