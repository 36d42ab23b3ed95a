"""What embedding image files costs beyond the network, in time and memory. Results: docs/benchmarks/evaluation.md."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from evaluation.embedding_cache import EmbeddingCache
from evaluation.embeddings import embed_files
from evaluation.encoders.dino import DinoEncoder, load_dino
from evaluation.encoders.preprocess import decode_image
from evaluation.encoders.specs import DINO_VITS16
from tests.benchmarks.embedding_memory import SIZE
from tests.benchmarks.history import Recorder
from tests.benchmarks.pairs import Spread
from tests.original_dino import random_tensors

pytestmark = pytest.mark.bench
IMAGES, BATCH, PAIRS = 64, 32, 5
SIDE_PX = 512


@pytest.fixture(scope="module")
def dino(tmp_path_factory: pytest.TempPathFactory) -> DinoEncoder:
    """DINO ViT-S/16 at its real size with random weights."""
    path = tmp_path_factory.mktemp("dino") / "dino.pth"
    torch.save(random_tensors(width=384), path)
    return load_dino(DINO_VITS16, str(path))


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """PNG files as a sampler writes them: 512 pixels square, smooth with fine noise, about 450 kB."""
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for i in range(IMAGES):
        coarse = Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).resize((SIDE_PX, SIDE_PX))
        noisy = np.asarray(coarse, np.float32) + rng.normal(0, 3, (SIDE_PX, SIDE_PX, 3))
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / f"{i:03}.png")
    return sorted(folder.iterdir())


def seconds(run: Callable[[], object]) -> tuple[float, float]:
    """Return wall and CPU seconds of a call; CPU seconds are those of all threads."""
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - wall, time.process_time() - cpu


def test_embedding_files_costs_little_more_than_the_network(
    dino: DinoEncoder, paths: list[Path], tmp_path: Path, record: Recorder
) -> None:
    torch.set_num_threads(1)
    batches = torch.stack([dino.prepare(decode_image(path.read_bytes())) for path in paths]).split(BATCH)
    ratios: list[tuple[float, float]] = []
    for turn in range(PAIRS + 1):
        cache = EmbeddingCache(tmp_path / f"cache {turn}")
        bare = seconds(lambda: [dino.embed_images(batch) for batch in batches])
        whole = seconds(lambda cache=cache: embed_files([dino], paths, cache, batch_size=BATCH, threads=1))
        ratios.append((whole[0] / bare[0], whole[1] / bare[1]))
    known = seconds(lambda: embed_files([dino], paths, cache))
    wall, cpu = (Spread(ratio) for ratio in zip(*ratios[1:], strict=True))  # the first pair warms up
    record("embed_files over the bare network, wall time", wall)
    record("embed_files over the bare network, CPU time", cpu)
    record("an image whose embedding is cached", 1000 * known[1] / IMAGES, "CPU ms")
    assert wall.median <= 1.1


def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path, record: Recorder) -> None:
    command = [sys.executable, "-m", "tests.benchmarks.embedding_memory", str(tmp_path)]
    few, many = (
        float(subprocess.run([*command, str(count)], capture_output=True, text=True, check=True).stdout)
        for count in (1_000, 10_000)
    )
    each_bytes = (many - few) * 2**20 / 9_000
    print(f"\npeak memory: 1,000 images {few:.0f} MiB, 10,000 images {many:.0f} MiB")
    record("memory that grows with each image", each_bytes, "bytes")
    print(f"an embedding is {4 * SIZE} bytes, the rest its path and digest; an input of the network 12,288")
    assert each_bytes < 8_000
