"""What the labelling pipeline costs beside its networks. `make bench`; the results are kept in docs/benchmarks/.

Ratios of one run on one machine. The networks are the real classes with random weights: small ones for the comparison
with the released tool's manner, larger ones (about half a second an image on two cores) where the networks' own time
is the measure.
"""

import dataclasses
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco

from flows.experiment import Experiment
from infra.config import load
from labeling.build import download_part
from labeling.config import LabelingConfig
from labeling.download.lists.url_list import plan_urls
from labeling.sdd import masks
from labeling.steps import steps_of
from miniature.networks import blip2, grounding_dino, sam
from miniature.networks.vocabulary import caption_vocabulary, detection_vocabulary
from miniature.untrained import write_networks
from miniature.world.scenes import ScenesConfig, phrases
from miniature.world.serve import WorldConfig, world_server, write_world
from tests.benchmarks.history import Better, Kind
from tests.benchmarks.pipeline import Run, run_pipeline

pytestmark = pytest.mark.bench
IMAGES = 128
CORES = os.cpu_count() or 1


def write_larger_networks(folder: Path) -> None:
    words = phrases()
    captions, prompts = caption_vocabulary(words), detection_vocabulary(words)
    size = blip2.Blip2Size(image_px=384, width=512, heads=8)
    blip2.save(blip2.babble(blip2.build(captions, 0, size), captions, 0), folder / "blip2", captions)
    sizes = grounding_dino.Sizes(image_px=512, stem=64, channels=(64, 128, 256, 512), depths=(2, 2, 4, 2))
    grounding_dino.save(grounding_dino.build(prompts, 0, sizes), folder / "grounding_dino", prompts, sizes)
    large = dataclasses.replace(sam.SIZES, image_px=512, width=384, heads=6, mlp_width=1536, depth=6, window=8)
    sam.save(sam.build(0, large), folder / "sam", large)


def settings(folder: Path, networks: str) -> LabelingConfig:
    overrides = [
        f"labeling.root={folder}/sdd-{networks}",
        f"labeling.urls={folder}/world/metadata.parquet",
        f"labeling.caption.checkpoint={folder}/{networks}/blip2",
        f"labeling.detect.checkpoint={folder}/{networks}/grounding_dino",
        f"labeling.segment.checkpoint={folder}/{networks}/sam",
        "labeling.images_per_shard=64",
        "labeling.download.max_punsafe=1.0",
        "labeling.download.max_pwatermark=1.0",
        "labeling.download.min_aesthetic_score=0.0",
        "labeling.workers.captions.count=1",
        "labeling.workers.detections.count=1",
        "labeling.workers.entities.count=1",
        "labeling.workers.captions.batch_size=16",
        "labeling.workers.entities.batch_size=8",
    ]
    return load(Experiment, "demo", overrides).labeling


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Iterator[Path]:
    """A served world, and networks of two sizes."""
    folder = tmp_path_factory.mktemp("bench")
    scenes = ScenesConfig(width_px=(512, 512), height_px=(512, 512))
    write_world(folder / "world", IMAGES, seed=0, config=WorldConfig(port=0, scenes=scenes))
    write_networks(folder / "small", seed=0)
    write_larger_networks(folder / "larger")
    with world_server(folder / "world"):
        yield folder


def download_and_run(config: LabelingConfig) -> Run:
    shards = plan_urls(config)
    download_part(config, shards)
    return run_pipeline(config, steps_of(config), shards)


def run_bare(config: LabelingConfig, batch_sizes: dict[str, int]) -> tuple[float, float]:
    """Seconds of the networks alone and of decoding alone, over the same images, in a process of its own."""
    words = [f"{name}={size}" for name, size in batch_sizes.items()]
    command = [sys.executable, "-m", "tests.benchmarks.bare", config.model_dump_json(), *words]
    env = os.environ | {"OMP_NUM_THREADS": str(CORES)}
    said = subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout.split()
    return float(said[-2]), float(said[-1])


def test_the_networks_are_kept_busy(folder, record):
    """Shares of the wall time: of the networks' bare forward passes on the same cores, of starts, and of waits."""
    config = settings(folder, "larger")
    run = download_and_run(config)
    network, prepare = run_bare(config, {"captions": 16, "nouns": 256, "detections": 16, "entities": 8})
    waits = run.wall - network - run.starts - run.finish
    print(f"\nwall time {run.wall:.1f} s; decoding {run.prepare:.1f} thread s (alone {prepare:.1f} s)")
    record("busy: bare forward passes, of the wall time", network / run.wall, better=Better.MORE)
    record("starts: processes and weights, of the wall time", run.starts / run.wall, kind=Kind.TOLERANCE)
    record("rules, ledger and their files, of the wall time", run.finish / run.wall, kind=Kind.TOLERANCE)
    record("waits, of the wall time", waits / run.wall, kind=Kind.TOLERANCE)
    assert waits / run.wall <= 0.10
    assert run.finish / run.wall <= 0.03


@pytest.mark.parametrize("networks", ["small", "larger"])
def test_faster_than_one_image_at_a_time(folder, networks, record):
    """Against the released tool's manner: one process, one image at a time, nothing overlapped, the same networks."""
    config = settings(folder, networks)
    config = config.model_copy(update={"root": f"{config.root}-ours"})
    config = config.model_copy(
        update={
            "workers": config.workers.model_copy(
                update={
                    name: getattr(config.workers, name).model_copy(update={"count": CORES})
                    for name in ("captions", "detections", "entities")
                }
            )
        }
    )
    run = download_and_run(config)
    network, prepare = run_bare(config, {"captions": 1, "nouns": 1, "detections": 1, "entities": 1})
    starts = run.starts / CORES
    ratio = (network + prepare) / (run.wall - starts)
    print(f"\n{networks}: one at a time {network + prepare:.1f} s ÷ pipeline {run.wall - starts:.1f} s = {ratio:.2f}")
    record("one image at a time over pipeline", ratio, better=Better.MORE)
    if networks == "small":
        assert ratio >= 1.5


def test_cropped_masks_decode_faster(record):
    """Full-frame COCO RLE against ours: medians over blobs in 1024 px pictures whose boxes pass the rules."""
    rng = np.random.default_rng(0)
    yy, xx = np.mgrid[:1024, :1024]
    pairs = []
    for _ in range(200):
        (cx, cy), (rx, ry) = rng.uniform(250, 774, 2), rng.uniform(110, 200, 2)
        wobble = 1 + 0.2 * np.sin(5 * np.arctan2(yy - cy, xx - cx) + rng.uniform(0, 6))
        mask = ((xx - cx) / rx) ** 2 + ((yy - cy) / ry) ** 2 < wobble
        pairs.append((coco.encode(np.asfortranarray(mask, dtype=np.uint8)), masks.encode(mask)))
    full = np.median([_seconds(coco.decode, whole) for whole, _ in pairs])
    crop = np.median([_seconds(masks.decode_crop, cropped) for _, cropped in pairs])
    record("a cropped mask", crop * 1e3, "ms")
    record("full frame over cropped", full / crop, better=Better.MORE)
    assert full / crop >= 10


def _seconds(function, argument) -> float:
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        function(argument)
        best = min(best, time.perf_counter() - start)
    return best


def test_memory_of_a_worker_does_not_grow(folder, record):
    """Peak memory of the process that holds the segmenter and of its supervisor, over 50 shards."""
    config = settings(folder, "small")
    config = config.model_copy(update={"root": f"{config.root}-memory", "images_per_shard": 2})
    shards = plan_urls(config)[:50]
    command = [sys.executable, "-m", "tests.benchmarks.memory", config.model_dump_json(), *shards]
    download_part(config, shards)
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    peaks = [tuple(map(int, line.split())) for line in said]
    print(f"\nshards {len(peaks)}; MiB of supervisor and network after 10: {peaks[9]}, after 50: {peaks[-1]}")
    for process, peak_mib in zip(("supervisor", "network"), peaks[-1], strict=True):
        record(f"peak memory of the {process}", peak_mib, "MiB")
    assert len(peaks) == 50
    for early, late in zip(peaks[9], peaks[-1], strict=True):
        assert late <= early * 1.05
