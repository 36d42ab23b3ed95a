"""What a core loads, against the usual way and against tar files. `make bench`; results are kept in docs/benchmarks/.

Ratios of one run on one core, each the best of turns taken by both.
"""

import io
import json
import tarfile
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import psutil
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco

from labeling.sdd import masks
from labeling.sdd.arrow import record_of
from labeling.sdd.schema import SddRow
from model.config import EntityTokens, ModelConfig
from model.inputs.prompt import PromptTokenizer, clip_tokenizer
from tests.benchmarks.history import Better, Kind
from tests.benchmarks.naive_loader import FullFrame, made
from tests.factories import entity, finished, sdd_row
from training.data.config import DataConfig
from training.data.loader import LoadedBatch, load_batches
from training.data.plan import PlannedRow, read_plan
from training.data.rows import RowReader

pytestmark = pytest.mark.bench
SIDE, IMAGES, SUBJECTS, TURNS = 1024, 32, 2, 3
BATCH, STEP_S = 16, 0.011
"""Of a batch, and seconds that an H100 computes for an image."""
WARM_UP = 4
"""Batches until each process has started and made its first."""
LABELS = ("dog", "cat", "bird")


def photograph(rng: np.random.Generator) -> bytes:
    """About as many bytes as a photograph of 1024 px has: 300 kB."""
    coarse = Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).resize((SIDE, SIDE), Image.BICUBIC)
    noisy = np.asarray(coarse, np.float32) + rng.normal(0, 5, (SIDE, SIDE, 3)).astype(np.float32)
    file = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


def blob(rng: np.random.Generator) -> np.ndarray:
    """A mask whose box passes the rules: 5 to 20 % of the image."""
    yy, xx = np.mgrid[:SIDE, :SIDE]
    (cx, cy), (rx, ry) = rng.uniform(250, SIDE - 250, 2), rng.uniform(110, 230, 2)
    wobble = 1 + 0.2 * np.sin(5 * np.arctan2(yy - cy, xx - cx) + rng.uniform(0, 6))
    return ((xx - cx) / rx) ** 2 + ((yy - cy) / ry) ** 2 < wobble


def labelled_photograph(number: int) -> FullFrame:
    rng = np.random.default_rng(number)
    pixels = [blob(rng) for _ in LABELS]
    cropped = [masks.encode(mask) for mask in pixels]
    boxes = [(m.x0, m.y0, m.x0 + m.width_px, m.y0 + m.height_px) for m in cropped]
    entities = [entity(box, label=label, size=(SIDE, SIDE)) for box, label in zip(boxes, LABELS, strict=True)]
    for one, mask in zip(entities, cropped, strict=True):
        object.__setattr__(one, "mask", mask)
    row = sdd_row(number, entities, photograph(rng), width_px=SIDE, height_px=SIDE)
    return FullFrame(row, tuple(coco.encode(np.asfortranarray(mask, dtype=np.uint8)) for mask in pixels))


@pytest.fixture(scope="module")
def rows() -> list[FullFrame]:
    return [labelled_photograph(number) for number in range(IMAGES)]


@pytest.fixture(scope="module")
def folder(rows, tmp_path_factory) -> Path:
    """The rows as a dataset, and as a tar shard with the same labels."""
    folder = tmp_path_factory.mktemp("loader")
    finished(folder / "sdd", [full.row for full in rows])
    with tarfile.open(folder / "shard.tar", "w") as tar:
        for full in rows:
            _add(tar, f"{full.row.key.hex()}.jpg", full.row.image)
            _add(tar, f"{full.row.key.hex()}.json", json.dumps(_words(full.row)).encode())
    return folder


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def _words(row: SddRow) -> dict:
    record = {name: value for name, value in record_of(row).items() if not isinstance(value, bytes)}
    for one in record["entities"]:
        one["mask"] = one["mask"] | {"counts": one["mask"]["counts"].decode()}
    return record


def best(*runs: Callable[[], object]) -> list[float]:
    """CPU seconds of each run at its fastest, the runs taking turns."""
    times: list[list[float]] = [[] for _ in runs]
    for _ in range(TURNS):
        for run, of_run in zip(runs, times, strict=True):
            start = time.process_time()
            run()
            of_run.append(time.process_time() - start)
    return [min(of_run) for of_run in times]


def config_of(folder: Path, processes: int) -> DataConfig:
    return DataConfig(dataset=str(folder / "sdd"), max_subjects=SUBJECTS, processes=processes, batch_size=BATCH)


@cache
def prompts() -> PromptTokenizer:
    """Half a second, once a job."""
    return PromptTokenizer(clip_tokenizer(), "<|subject|>", 77, EntityTokens.LABEL_AND_PLACEHOLDER)


def loading(folder: Path, processes: int, epochs: int) -> Iterator[LoadedBatch]:
    """Batches of 16 pictures of 512 px with two subjects each."""
    config = config_of(folder, processes)
    plan = read_plan(config, 0)
    numbers = range(epochs * plan.batches_per_epoch)
    return load_batches(plan, config, ModelConfig(), prompts(), (0.5, 0.5, 0.5), numbers)


def test_samples_per_core(rows, folder, record):
    """C6: the whole way from a shard to a batch, against samples made the usual way of rows in memory."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    skipped = []

    def ours() -> None:
        for loaded in loading(folder, processes=0, epochs=1):
            skipped.extend(loaded.skipped)

    def theirs() -> None:
        rng = np.random.default_rng(0)
        for full in rows[: IMAGES // 2]:
            made(full, config_of(folder, processes=0), SUBJECTS, rng)

    fast, naive = best(ours, theirs)
    fast_rate, naive_rate = IMAGES / fast, IMAGES // 2 / naive
    print(f"\n{fast_rate:.1f} ÷ {naive_rate:.1f} samples/s/core = {fast_rate / naive_rate:.2f}")
    record("a sample", 1e3 / fast_rate, "CPU ms")
    record("the usual way over ours", fast_rate / naive_rate, better=Better.MORE)
    assert not skipped
    assert fast_rate / naive_rate >= 5.0


def test_read_rate(rows, folder, record):
    """Pictures and labels out of a shard, against those out of a tar file, both in the page cache."""
    plan = read_plan(DataConfig(dataset=str(folder / "sdd")), 0)
    (shard,) = plan.shards
    places = [
        PlannedRow(shard.name, group, row) for group, count in enumerate(shard.rows_by_group) for row in range(count)
    ]

    def ours() -> int:
        reader = RowReader(str(folder / "sdd"), {shard.name: shard.stamp}, 256 << 20)
        return sum(len(reader.row(place).image) for place in places)

    def theirs() -> int:
        total = 0
        with tarfile.open(folder / "shard.tar", "r|") as tar:
            for member in tar:
                content = tar.extractfile(member).read()
                if member.name.endswith(".jpg"):
                    total += len(content)
                else:
                    json.loads(content)
        return total

    assert ours() == theirs() == sum(len(full.row.image) for full in rows)
    shards, tar = best(ours, theirs)
    print(f"\n{IMAGES / shards:.0f} ÷ {IMAGES / tar:.0f} images/s = {tar / shards:.2f}")
    record("images read", IMAGES / shards, "1/CPU s", better=Better.MORE)
    record("tar over ours", tar / shards, better=Better.MORE)
    assert tar / shards >= 0.75


def test_nobody_waits_for_data(folder, record):
    """Two processes load for a step that takes as long as an H100 would, and that leaves the cores alone."""
    waits, busy = [], BATCH * STEP_S
    asked = time.perf_counter()
    for _ in loading(folder, processes=2, epochs=40):
        waits.append(time.perf_counter() - asked)
        time.sleep(busy)
        asked = time.perf_counter()
    first, rest = waits[:WARM_UP], waits[WARM_UP:]
    share = sum(rest) / (sum(rest) + busy * len(rest))
    print(
        f"\nwaited for data {share:.2%} of {len(rest)} batches of {BATCH}; {sum(first):.1f} s for the first {WARM_UP}"
    )
    record("share of the time that a step waits for data", share, kind=Kind.TOLERANCE)
    assert share < 0.02


def test_memory_stays_flat(folder, record):
    """Of this process and its loaders, in the last quarter of 150 batches against the second."""
    me, resident = psutil.Process(), []
    for _ in loading(folder, processes=2, epochs=75):
        resident.append(sum(process.memory_info().rss for process in (me, *me.children(recursive=True))) >> 20)
    second, last = (float(np.median(part)) for part in np.array_split(resident, 4)[1::2])
    print(f"\n{second:.0f} MiB in the second quarter, {last:.0f} in the last = {last / second:.3f}")
    record("memory of trainer and loaders", last, "MiB")
    assert last <= 1.03 * second
