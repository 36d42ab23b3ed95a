"""What a core loads, against the usual way, a good loader and tar files. `make bench`; results: docs/benchmarks/.

CPU time of one core, medians of pairs in turns.
"""

import io
import json
import tarfile
import time
from collections.abc import Callable, Iterator
from functools import cache, partial
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
from tests.benchmarks.good_loader import GoodLoader
from tests.benchmarks.history import Better, Kind
from tests.benchmarks.naive_loader import FullFrame, made
from tests.benchmarks.pairs import in_turns
from tests.factories import entity, finished, sdd_row
from training.data.config import AugmentationConfig, CutoutResampling, DataConfig
from training.data.loader import LoadedBatch, load_batches
from training.data.plan import PlannedRow, read_plan
from training.data.rows import RowReader

pytestmark = pytest.mark.bench
SIDE, IMAGES, SUBJECTS = 1024, 32, 2
RADII = (110, 230)
"""Half of the smallest and of the largest width and height of a subject in pixels, before its outline wobbles."""
BATCH, STEP_S = 16, 0.011
"""Of a batch, and seconds that an H100 computes for an image."""
WARM_UP = 4
"""Batches until each process has started and made its first."""
LABELS = ("dog", "cat", "bird")
LEAST = {"usual": 5.0, "good": 0.0, "good_reduced": 0.0}
"""Least ratio to each baseline. To the good loader 1.6 is wanted; what is missed is in docs/benchmarks/training.md."""


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
    (cx, cy), (rx, ry) = rng.uniform(250, SIDE - 250, 2), rng.uniform(*RADII, 2)
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


def config_of(folder: Path, processes: int, resampling: CutoutResampling = CutoutResampling.TWO_STEPS) -> DataConfig:
    return DataConfig(
        dataset=str(folder / "sdd"),
        max_subjects=SUBJECTS,
        processes=processes,
        batch_size=BATCH,
        augmentation=AugmentationConfig(resampling=resampling),
    )


@cache
def prompts() -> PromptTokenizer:
    """Half a second, once a job."""
    return PromptTokenizer(clip_tokenizer(), "<|subject|>", 77, EntityTokens.LABEL_AND_PLACEHOLDER)


def loading(config: DataConfig, epochs: int) -> Iterator[LoadedBatch]:
    """Batches of 16 pictures of 512 px with two subjects each."""
    plan = read_plan(config, 0)
    numbers = range(epochs * plan.batches_per_epoch)
    return load_batches(plan, config, ModelConfig(), prompts(), (0.5, 0.5, 0.5), numbers)


@pytest.fixture
def one_thread() -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("resampling", CutoutResampling)
@pytest.mark.parametrize("baseline", ["usual", "good", "good_reduced"])
def test_samples_per_core(rows, folder, record, baseline, resampling):
    """C6: the whole way from a shard to a batch, against samples made from tar files by an expert, or as usual."""
    config, skipped = config_of(folder, 0, resampling), []
    loaders = {
        "usual": lambda: usual_samples(rows, config),
        "good": lambda: list(GoodLoader(config, SUBJECTS, prompts(), reduced=False).batches(folder / "shard.tar")),
        "good_reduced": lambda: list(
            GoodLoader(config, SUBJECTS, prompts(), reduced=True).batches(folder / "shard.tar")
        ),
    }

    def ours() -> None:
        for loaded in loading(config, epochs=1):
            skipped.extend(loaded.skipped)

    ours()  # reads the tokenizer's vocabulary
    theirs, own, ratio = in_turns(partial(ms_a_sample, loaders[baseline]), partial(ms_a_sample, ours))
    print(f"\n{baseline}: {theirs:.2f} CPU ms a sample")
    record("a sample", own, "CPU ms")
    record(f"{baseline} over ours", ratio, better=Better.MORE)
    assert not skipped
    assert ratio.median >= LEAST[baseline]


def usual_samples(rows: list[FullFrame], config: DataConfig) -> None:
    rng = np.random.default_rng(0)
    for full in rows:
        made(full, config, SUBJECTS, rng)


def ms_a_sample(load: Callable[[], object]) -> float:
    start = time.process_time()
    load()
    return 1e3 * (time.process_time() - start) / IMAGES


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
    tar, own, ratio = in_turns(partial(ms_a_sample, theirs), partial(ms_a_sample, ours))
    print(f"\ntar: {tar:.3f} CPU ms an image")
    record("an image read", own, "CPU ms")
    record("tar over ours", ratio, better=Better.MORE)
    assert ratio.median >= 0.75


def test_nobody_waits_for_data(folder, record):
    """Two processes load for a step that takes as long as an H100 would, and that leaves the cores alone."""
    waits, busy = [], BATCH * STEP_S
    asked = time.perf_counter()
    for _ in loading(config_of(folder, processes=2), epochs=40):
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
    for _ in loading(config_of(folder, processes=2), epochs=75):
        resident.append(sum(process.memory_info().rss for process in (me, *me.children(recursive=True))) >> 20)
    second, last = (float(np.median(part)) for part in np.array_split(resident, 4)[1::2])
    print(f"\n{second:.0f} MiB in the second quarter, {last:.0f} in the last = {last / second:.3f}")
    record("memory of trainer and loaders", last, "MiB")
    assert last <= 1.03 * second
