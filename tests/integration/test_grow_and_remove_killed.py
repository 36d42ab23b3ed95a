"""`kill -9` at random moments while a dataset grows and while images are removed: every file stays whole, the ledger
adds up, a repeat finishes the work, and finished shards of the first list stay as they are.

The chain is the real one: HTTP, img2dataset, the small networks, Parquet.
"""

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from labeling.removal import pending_removals
from labeling.sdd.schema import Layer, LedgerRow
from labeling.sdd.shards import ShardStore
from labeling.validation.validate import Scope, validate
from miniature.untrained import write_networks
from miniature.world.scenes import ScenesConfig
from miniature.world.serve import WorldConfig, world_server, write_world
from tests.processes import Processes, wait_until

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
SCENES, FIRST_LIST, PER_SHARD = 48, 26, 6
KILLS = 10
"""Of each kind."""


@pytest.fixture(scope="module")
def lists(tmp_path_factory) -> Iterator[Path]:
    """A folder with two lists of pictures that are being served, and settings that name no list."""
    folder = tmp_path_factory.mktemp("world")
    scenes = ScenesConfig(width_px=(192, 224), height_px=(192, 224))
    metadata = write_world(folder / "world", SCENES, seed=3, config=WorldConfig(port=0, scenes=scenes, low_share=0.0))
    write_networks(folder / "networks", seed=0)
    (folder / "settings.toml").write_text(
        f"""
        extends = "{ROOT}/infra/configs/demo"
        [labeling]
        root = "{folder}/sdd"
        images_per_shard = {PER_SHARD}
        caption.checkpoint = "{folder}/networks/blip2"
        detect.checkpoint = "{folder}/networks/grounding_dino"
        segment.checkpoint = "{folder}/networks/sam"
        download.min_side_px = 128
        workers.captions.count = 1
        workers.detections.count = 1
        workers.entities.count = 1
        """
    )
    with world_server(folder / "world"):
        urls = pq.read_table(metadata)["URL"].to_pylist()
        pq.write_table(pa.table({"URL": urls[:FIRST_LIST]}), folder / "first.parquet")
        pq.write_table(pa.table({"URL": [urls[0], *urls[FIRST_LIST:]]}), folder / "second.parquet")
        yield folder


def start(processes: Processes, *words: object) -> "subprocess.Popen[bytes]":
    environment = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    command = [sys.executable, "-m", "flows.cli", *map(str, words)]
    return processes.start(command, cwd=ROOT, env=environment | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL)


def build(processes: Processes, folder: Path, *names: str) -> "subprocess.Popen[bytes]":
    urls = ", ".join(f'"{folder}/{name}.parquet"' for name in names)
    return start(processes, "build", "--config", folder / "settings.toml", "--set", f"labeling.urls=[{urls}]")


def contents(root: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for layer in Layer for path in (root / layer).glob("*.parquet")}


def assert_whole(root: Path) -> None:
    for path in contents(root):
        pq.read_table(path)


def faults(root: Path) -> list[str]:
    *_, found = validate(str(root), Scope(), workers=1)
    return [str(fault) for fault in found.faults]


def verdicts(root: Path) -> dict[bytes, LedgerRow]:
    store = ShardStore(str(root))
    rows = [row for shard in store.shards(Layer.LEDGER) for row in store.read(LedgerRow, (Layer.LEDGER,), shard)]
    assert sorted(row.list_row for row in rows) == list(range(SCENES + 1)), "every URL has one verdict"
    return {row.key: row for row in rows}


def test_growth_and_removal_killed(lists: Path, processes: Processes) -> None:
    root, rng = lists / "sdd", random.Random(4)
    assert build(processes, lists, "first").wait() == 0
    before = contents(root)
    grow_while_killed(processes, lists, root, rng)
    assert {path: path.read_bytes() for path in before} == before
    assert faults(root) == []
    grown = verdicts(root)
    assert [row.reason for row in grown.values() if row.list_row == FIRST_LIST] == ["duplicate_url"]

    removed = remove_while_killed(processes, lists, root, rng)
    assert build(processes, lists, "first", "second").wait() == 0, "a build finishes what a removal left"
    assert faults(root) == []
    left = verdicts(root)
    assert {row.url for row in left.values() if row.reason == "removed"} == removed
    assert {key: row for key, row in left.items() if row.url not in removed} == {
        key: row for key, row in grown.items() if row.url not in removed
    }
    gone = [key for key, row in left.items() if row.url in removed]
    for path, content in contents(root).items():
        if path.parent.name not in ("urls", "images", "ledger"):
            assert not any(key in content for key in gone), f"{path} still has a removed image"


def grow_while_killed(processes: Processes, lists: Path, root: Path, rng: random.Random) -> None:
    """Build the dataset with the second list too, and kill that ten times; the last shards are lost if it ends."""
    kills = 0
    while kills < KILLS:
        grower = build(processes, lists, "first", "second")
        try:
            assert grower.wait(timeout=rng.uniform(4, 25)) == 0
        except subprocess.TimeoutExpired:
            grower.kill()
            grower.wait()
            kills += 1
            assert_whole(root)
            continue
        for layer in tuple(Layer)[rng.randrange(1, len(Layer)) :]:
            (root / layer / f"{ShardStore(str(root)).shards(Layer.URLS)[-1]}.parquet").unlink(missing_ok=True)
    assert build(processes, lists, "first", "second").wait() == 0


def has_more_removals(root: Path, number: int) -> bool:
    return len(list(root.glob("removed/*.json"))) > number


def remove_while_killed(processes: Processes, lists: Path, root: Path, rng: random.Random) -> set[str]:
    """Kill ten removals of three URLs each, after they have begun; return the URLs."""
    urls = sorted({row.url for row in verdicts(root).values()})
    rng.shuffle(urls)
    removed: set[str] = set()
    unfinished = 0
    for number in range(KILLS):
        removed |= (batch := set(urls[3 * number : 3 * number + 3]))
        (lists / "urls.txt").write_text("\n".join(batch))
        remover = start(processes, "remove", root, "--urls", lists / "urls.txt")
        wait_until("a removal", partial(has_more_removals, root, number))
        time.sleep(rng.uniform(0, 0.15))
        remover.kill()
        remover.wait()
        unfinished += bool(pending_removals(ShardStore(str(root))))
        assert_whole(root)
    assert unfinished, "every removal had ended before its kill"
    return removed
