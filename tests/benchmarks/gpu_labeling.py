"""Times the labelling pipeline, and its networks alone, on one GPU.

    python -m tests.benchmarks.gpu_labeling --size full --images 512 --out out/bench-gpu
    python -m tests.benchmarks.gpu_labeling --size small --images 16 --device cpu --out out/bench    # does it run?

`full` is BLIP-2 opt-2.7b, Grounding DINO Swin-T and SAM ViT-H with random weights, over scenes of 1,024 to 1,400 px;
`small` the small networks over small scenes. Scenes and networks stay in OUT and are used again; a dataset never is.
What is measured, and how: docs/benchmarks/labeling-gpu.md.
"""

import argparse
import os
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from flows.experiment import Experiment
from infra.config import load
from infra.logs import setup_logs
from labeling.build import download_part
from labeling.config import LabelingConfig
from labeling.download.lists.url_list import plan_urls
from labeling.sdd.shards import ShardStore
from labeling.steps import steps_of
from miniature.untrained import write_networks
from miniature.world.scenes import ScenesConfig
from miniature.world.serve import METADATA, WorldConfig, world_server, write_world
from tests.benchmarks.bare_stages import measure
from tests.benchmarks.full_networks import write_full_networks
from tests.benchmarks.labeling_report import report
from tests.benchmarks.pipeline import run_pipeline
from tests.benchmarks.workload import workload

SEED = 0
SCENES = 96
"""Different scenes at most; a longer list names them again, and each time counts as an image of its own."""
RESULT = "labeling-gpu.md"


class Size(StrEnum):
    FULL = "full"
    SMALL = "small"


SIDES_PX = {Size.FULL: (1024, 1400), Size.SMALL: (384, 512)}
BASES = {Size.FULL: None, Size.SMALL: "demo"}
SETTINGS = {
    Size.FULL: (
        "labeling.download.min_side_px=1024",
        "labeling.download.allow_private_hosts=true",
        "labeling.caption.max_new_tokens=20",  # random weights never end a caption
        "labeling.detect.precision=bfloat16",
        "labeling.workers.images.per_host=32",
        "labeling.workers.captions.batch_size=64",
        "labeling.workers.captions.prepare_threads=8",
        "labeling.workers.detections.prepare_threads=8",
        "labeling.workers.entities.batch_size=8",
        "labeling.workers.entities.prepare_threads=8",
    ),
    Size.SMALL: (
        "labeling.workers.captions.count=1",
        "labeling.workers.detections.count=1",
        "labeling.workers.entities.count=1",
    ),
}
"""Over `BASES`: what they do not say. One worker a stage, as there is one device."""


def main(arguments: Sequence[str] | None = None) -> None:
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = _parser()
    given = parser.parse_args(arguments)
    if given.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch sees no CUDA device; --device cpu shows that the script runs")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # heard by the processes of the pipeline
    setup_logs()
    out = given.out
    config = settings(given.size, out, given.images, given.device, given.set)
    with served_world(given.size, out, given.images):
        write_missing_networks(given.size, out / "networks", torch.device(given.device))
        shards = plan_urls(config)
        download_part(config, shards)
    steps = steps_of(config)
    run = run_pipeline(config, steps, shards)
    bare = measure(config, steps, shards, given.sample, given.seconds, given.compile)
    work = workload(ShardStore(config.root), steps, shards, config.segment.floor)
    command = f"python -m tests.benchmarks.gpu_labeling {shlex.join(arguments)}"
    text = report(given.device, command, config, run, bare, work)
    (out / RESULT).write_text(text)
    print(text)


def settings(size: Size, out: Path, images: int, device: str, overrides: Sequence[str]) -> LabelingConfig:
    """The pipeline's settings. Four shards at least, as the first is warm-up."""
    ours = [
        f"labeling.root={out}/sdd-{time.strftime('%Y%m%dT%H%M%S')}",
        f"labeling.urls={out}/urls.parquet",
        f"labeling.caption.checkpoint={out}/networks/blip2",
        f"labeling.detect.checkpoint={out}/networks/grounding_dino",
        f"labeling.segment.checkpoint={out}/networks/sam",
        f"labeling.images_per_shard={min(256, max(1, images // 4))}",
        *(f"labeling.{stage}.device={device}" for stage in ("caption", "detect", "segment")),
    ]
    return load(Experiment, BASES[size], [*ours, *SETTINGS[size], *overrides]).labeling


@contextmanager
def served_world(size: Size, out: Path, images: int) -> Iterator[None]:
    """Scenes served as long as the context lasts, and a list of `images` of them in `urls.parquet`."""
    folder = out / "world"
    if not (folder / METADATA).exists():
        scenes = ScenesConfig(width_px=SIDES_PX[size], height_px=SIDES_PX[size])
        write_world(folder, min(images, SCENES), SEED, WorldConfig(port=0, scenes=scenes, low_share=0.0))
    scenes = pq.read_table(folder / METADATA)
    again = -(-images // len(scenes))
    pq.write_table(pa.concat_tables([scenes] * again).slice(0, images), out / "urls.parquet")
    with world_server(folder):
        yield


def write_missing_networks(size: Size, folder: Path, device: torch.device) -> None:
    """Write `blip2/`, `grounding_dino/` and `sam/`, unless they are there."""
    if folder.exists():
        return
    if size is Size.FULL:
        write_full_networks(folder, SEED, device)
        if device.type == "cuda":
            torch.cuda.empty_cache()  # the pipeline's processes want the memory
    else:
        write_networks(folder, SEED)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", type=Size, choices=list(Size), default=Size.FULL)
    parser.add_argument("--images", type=int, default=512, help="in the list (default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="folder for scenes, networks, datasets and the result")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--sample", type=int, default=128, help="images that networks do alone (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each rate, at least (default: %(default)s)")
    parser.add_argument("--compile", action="store_true", help="time SAM's encoder with torch.compile as well")
    parser.add_argument("--set", action="append", default=[], metavar="TABLE.KEY=VALUE", help="override a setting")
    return parser


if __name__ == "__main__":
    main()
