"""Copies that are planted among scenes are found, and `kill -9` while `sdd/` is cleaned loses and doubles nothing."""

import io
import random
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from labeling.cleaning.duplicates import find_duplicates
from labeling.cleaning.near_hashes import earliest_similar
from labeling.config import CleanConfig, RulesConfig
from labeling.download.screening.imaging import difference_hash
from labeling.finish import FinishJob
from labeling.sdd.schema import LedgerRow, ListedUrl
from labeling.sdd.shards import ShardStore
from miniature.world.scenes import compose
from tests.processes import Processes
from tests.unit.labeling.cleaning.labelled_images import LAYERS, hashed, write_labelled

pytestmark = pytest.mark.slow
SCENES = 500
BITS = 8
KILLS = 20
CLEAN = CleanConfig(near_duplicate_bits=BITS)


def encoded(image: Image.Image, quality: int = 90) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return file.getvalue()


def resized(image: Image.Image, scale: float) -> Image.Image:
    return image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)


def cropped(image: Image.Image, share: float) -> Image.Image:
    x, y = image.width * (1 - share) / 2, image.height * (1 - share) / 2
    return image.crop((round(x), round(y), round(image.width - x), round(image.height - y)))


COPIES: Mapping[str, Callable[[Image.Image], bytes]] = {
    "re-encoded at quality 75": lambda image: encoded(image, 75),
    "re-encoded at quality 50": lambda image: encoded(image, 50),
    "resized to one half": lambda image: encoded(resized(image, 0.5)),
    "resized to three quarters": lambda image: encoded(resized(image, 0.75)),
    "resized by one half more": lambda image: encoded(resized(image, 1.5)),
    "cropped by a twentieth": lambda image: encoded(cropped(image, 0.95)),
    "mirrored": lambda image: encoded(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)),
}


def test_planted_copies(capsys: pytest.CaptureFixture[str]) -> None:
    scenes = [Image.open(io.BytesIO(encoded(Image.fromarray(compose(seed).image)))) for seed in range(SCENES)]
    originals = [difference_hash(encoded(scene)) for scene in scenes]
    for name, copy in COPIES.items():
        hashes = np.array(originals + [difference_hash(copy(scene)) for scene in scenes], np.int64).view(np.uint64)
        earliest = earliest_similar(hashes, BITS)
        called = np.flatnonzero(earliest < np.arange(2 * SCENES))
        right = (earliest[called] == called - SCENES).sum()
        recall, precision = right / SCENES, right / max(1, len(called))
        with capsys.disabled():
            print(f"\n{name}: recall {recall:.3f}, precision {precision:.3f}", end="")
        if name.startswith("re"):
            assert recall >= 0.95, name
            assert precision >= 0.99, name


def finish(root: str, shards: list[str], duplicates: bool) -> None:
    """Make all files again, with or without cleaning; the killed process runs this."""
    found = find_duplicates(root, CLEAN, LAYERS, shards) if duplicates else {}
    clean = CLEAN if duplicates else CleanConfig()
    job = FinishJob(root=root, rules=RulesConfig(), layers=LAYERS, replace=True, clean=clean, duplicates=found)
    assert [job.make(shard).error for shard in shards] == [None] * len(shards)


def test_cleaning_killed_at_random_moments(tmp_path: Path) -> None:
    rng = random.Random(3)
    pool = [rng.getrandbits(64) for _ in range(60)]
    drawn = [[hashed(100 * s + i, rng.choice(pool) ^ 1 << rng.randrange(64)) for i in range(100)] for s in range(12)]
    shards = write_labelled(tmp_path / "killed", drawn)
    write_labelled(tmp_path / "undisturbed", drawn)
    finish(str(tmp_path / "undisturbed"), shards, duplicates=True)
    command = (
        "import sys; from tests.integration.test_cleaning import finish\n"
        "print('ready', flush=True)\n"
        "while True:\n"
        "    for clean in (True, False): finish(sys.argv[1], sys.argv[2:], clean)"
    )
    with Processes() as processes:
        for _ in range(KILLS):
            process = processes.start(
                [sys.executable, "-c", command, str(tmp_path / "killed"), *shards], stdout=subprocess.PIPE
            )
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            time.sleep(rng.uniform(0.05, 1.5))
            process.kill()
            process.wait()
            check_files(ShardStore(str(tmp_path / "killed")))
    finish(str(tmp_path / "killed"), shards, duplicates=True)
    mine, other = (ShardStore(str(tmp_path / name)) for name in ("killed", "undisturbed"))
    dropped = 0
    for shard in shards:
        rows = list(mine.read(LedgerRow, ("ledger",), shard))
        assert rows == list(other.read(LedgerRow, ("ledger",), shard))
        assert mine.keys("sdd", shard) == other.keys("sdd", shard)
        dropped += sum(row.reason == "near_duplicate" for row in rows)
    assert dropped > 1000


def check_files(store: ShardStore) -> None:
    """Every visible file is whole, and every ledger has each URL once."""
    for path in Path(store.root.path).glob("*/*.parquet"):
        pq.read_table(path)
    for shard in store.shards("ledger"):
        listed = [row.key for row in store.read(ListedUrl, ("urls",), shard)]
        assert [row.key for row in store.read(LedgerRow, ("ledger",), shard)] == listed
        stamp = store.stamp("ledger", shard)
        assert stamp is not None
        assert sum(stamp.counts.values()) == len(listed)
