"""`kill -9` at random moments, to workers and to drivers: the dataset is that of an undisturbed run.

The chain is the real one: HTTP, img2dataset, the small networks, Parquet. Compared in the sense of the design: same
keys, verdicts, captions and labels; floats within 1e-4 and masks at IoU 0.999 or more, as a replay makes other batches.
"""

import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from labeling.sdd import masks
from labeling.sdd.schema import Entities, LedgerRow, ListedUrl, SddRow
from labeling.sdd.shards import ShardStore
from miniature.untrained import write_networks
from miniature.world.scenes import ScenesConfig
from miniature.world.serve import WorldConfig, world_server, write_world
from tests.processes import Processes
from tests.ray_head import ray_head

pytestmark = pytest.mark.slow
SCENES = 560
KILLS = {"here": 12, "ray": 6}
PAUSES_S = {"here": (2, 12), "ray": (5, 40)}
"""Between kills of workers. Ray takes longer to start one, and one that dies before it works proves nothing."""
ROOT = Path(__file__).parents[2]
LAYERS = ("urls", "images", "captions", "nouns", "detections", "entities", "sdd", "ledger")


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> Iterator[Path]:
    """A settings file whose pictures are being served."""
    folder = tmp_path_factory.mktemp("world")
    scenes = ScenesConfig(width_px=(192, 256), height_px=(192, 256))
    urls = write_world(folder / "world", SCENES, seed=7, config=WorldConfig(port=0, scenes=scenes))
    write_networks(folder / "networks", seed=0)
    file = folder / "settings.toml"
    file.write_text(
        f"""
        extends = "{ROOT}/infra/configs/demo"
        [labeling]
        urls = "{urls}"
        images_per_shard = 50
        shards_per_part = 4
        caption.checkpoint = "{folder}/networks/blip2"
        detect.checkpoint = "{folder}/networks/grounding_dino"
        segment.checkpoint = "{folder}/networks/sam"
        download.min_side_px = 128
        workers.captions.batch_size = 8
        workers.detections.batch_size = 8
        workers.entities.batch_size = 8
        """
    )
    with world_server(folder / "world"):
        yield file


@pytest.fixture(scope="module")
def undisturbed(settings, driver, tmp_path_factory) -> ShardStore:
    root = tmp_path_factory.mktemp("undisturbed")
    assert driver(settings, root).wait() == 0
    return ShardStore(str(root))


@pytest.fixture(scope="module")
def cluster() -> Iterator[dict[str, str]]:
    with ray_head(cpus=6) as env:  # so many that workers are kept from part to part
        yield env


@pytest.fixture(params=["here", "ray"])
def executor(request) -> tuple[str, dict[str, str]]:
    return request.param, request.getfixturevalue("cluster") if request.param == "ray" else {}


@pytest.fixture(scope="module")
def driver() -> Iterator[Callable[..., "subprocess.Popen[bytes]"]]:
    """Starts builds, none of which outlives the module."""
    with Processes() as processes:
        yield partial(start, processes)


def start(
    processes: Processes, settings: Path, root: Path, executor: str = "here", env: dict[str, str] | None = None
) -> "subprocess.Popen[bytes]":
    overrides = [f"--set=labeling.root={root}", f"--set=labeling.executor={executor}"]
    command = [sys.executable, "-m", "flows.cli", "build", f"--config={settings}", *overrides]
    return processes.start(command, cwd=ROOT, env=os.environ | (env or {}))


def test_drivers_killed(settings, driver, undisturbed, executor, tmp_path):
    where, env = executor
    rng = random.Random(1)
    kills = 0
    with watching(tmp_path) as torn:
        while kills < KILLS[where]:
            process = driver(settings, tmp_path, where, env)
            try:
                process.wait(timeout=rng.uniform(2, 30))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                kills += 1
                continue
            assert process.returncode == 0
            forget_something(tmp_path, rng)
        assert driver(settings, tmp_path, where, env).wait() == 0
    assert torn() == []
    assert_same(ShardStore(str(tmp_path)), undisturbed)


def test_workers_killed(settings, driver, undisturbed, executor, tmp_path):
    where, env = executor
    rng = random.Random(2)
    kills = 0
    with watching(tmp_path) as torn:
        while kills < KILLS[where]:
            process = driver(settings, tmp_path, where, env)
            while process.poll() is None:
                time.sleep(rng.uniform(*PAUSES_S[where]))
                kills += kill_a_worker(process.pid, rng) if kills < KILLS[where] else 0
            forget_something(tmp_path, rng)
        assert driver(settings, tmp_path, where, env).wait() == 0
    assert torn() == []
    assert_same(ShardStore(str(tmp_path)), undisturbed)


def kill_a_worker(pid: int, rng: random.Random) -> int:
    """Kill a random process that holds a network, a download, or the Ray actor over one; how many were killed.

    A download is `labeling.download` and the processes that it spawns (img2dataset's pool), without their resource
    tracker, which works on nothing. Not Ray's own processes: with them its only node would end.
    """
    marks = ("execution.fork_server", "labeling.download", "spawn_main", "ray::_RayWorker", "ray::ray_download")
    candidates = [p for p in psutil.process_iter(["pid", "ppid", "cmdline", "environ"]) if _is_ours(p, pid, marks)]
    if not candidates:
        return 0
    victim = rng.choice(sorted(candidates, key=lambda p: p.pid))
    try:
        victim.kill()
    except psutil.NoSuchProcess:
        return 0
    return 1


def _is_ours(process: psutil.Process, driver_pid: int, marks: tuple[str, ...]) -> bool:
    try:
        command = " ".join(process.cmdline())
        if not any(mark in command for mark in marks):
            return False
        ancestors = {parent.pid for parent in process.parents()}
        return driver_pid in ancestors or os.getpid() in ancestors
    except psutil.Error:
        return False


def forget_something(root: Path, rng: random.Random) -> None:
    """A finished run leaves nothing to kill: lose a shard's later layers, as a broken disk would."""
    finished = sorted((root / "ledger").glob("*.parquet"))
    if not finished:  # the run gave up, as its processes were killed too often; the next goes on
        return
    shard = rng.choice(finished).name
    for layer in LAYERS[rng.randrange(1, len(LAYERS)) :]:
        (root / layer / shard).unlink(missing_ok=True)


class watching:
    """Looks at every visible file all the time; a file that is no whole Parquet file is torn."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.found: list[str] = []
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Callable[[], list[str]]:
        self.thread.start()
        return lambda: self.found

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join()

    def _watch(self) -> None:
        while not self.stop.wait(0.2):
            for path in self.root.glob("*/*.parquet"):
                try:
                    pq.read_metadata(path)
                except FileNotFoundError:
                    continue
                except (pa.ArrowInvalid, OSError) as error:
                    self.found.append(f"{path}: {error}")


def assert_same(mine: ShardStore, other: ShardStore) -> None:
    """The two datasets are the same, as far as the design promises it."""
    kept = 0
    for shard in other.shards("urls"):
        urls = list(other.read(ListedUrl, ("urls",), shard))
        ledger = list(mine.read(LedgerRow, ("ledger",), shard))
        assert [row.key for row in ledger] == [row.key for row in urls], "a row was lost or doubled"
        expected = list(other.read(LedgerRow, ("ledger",), shard))
        assert [(r.key, r.state, r.stage, r.reason) for r in ledger] == [
            (r.key, r.state, r.stage, r.reason) for r in expected
        ]
        kept += same_images(mine, other, shard)
        same_candidates(mine, other, shard)
    assert kept >= 100, f"{kept} rows of sdd/ prove little"


def same_images(mine: ShardStore, other: ShardStore, shard: str) -> int:
    got, want = (list(store.read(SddRow, ("sdd",), shard)) for store in (mine, other))
    assert [(r.key, r.caption, r.image) for r in got] == [(r.key, r.caption, r.image) for r in want]
    for a, b in zip(got, want, strict=True):
        assert [e.label for e in a.entities] == [e.label for e in b.entities]
        for e, f in zip(a.entities, b.entities, strict=True):
            x, y = (masks.decode(m, a.height_px, a.width_px) for m in (e.mask, f.mask))
            assert (x & y).sum() / (x | y).sum() >= 0.999
    return len(got)


def same_candidates(mine: ShardStore, other: ShardStore, shard: str) -> None:
    got, want = (list(store.read(Entities, ("entities",), shard)) for store in (mine, other))
    assert [r.key for r in got] == [r.key for r in want]
    for a, b in zip(got, want, strict=True):
        assert [c.label for c in a.candidates] == [c.label for c in b.candidates]
        numbers = [[(c.score, c.box.x0, c.box.y0, c.box.x1, c.box.y1) for c in r.candidates] for r in (a, b)]
        np.testing.assert_allclose(*map(np.array, numbers), rtol=1e-4, atol=1e-3)
