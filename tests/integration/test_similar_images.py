"""Embeddings find planted copies that hashes miss; Ray and killed processes give the result of one process."""

import io
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from labeling.build import label_part
from labeling.cleaning.embedding import EmbedInput, EmbedStage, stored_embeddings
from labeling.cleaning.similar_images import SimilarImagesJob
from labeling.config import CleanConfig, EmbedConfig, Executor, LabelingConfig, Stale, Workers
from labeling.execution.run import run_job
from labeling.sdd.schema import EMBEDDINGS, SIMILAR, Embedding, Layer, SimilarImage
from labeling.sdd.shards import ShardStore
from labeling.steps import Step
from miniature.scoring.embedder_encoder import EmbedderEncoder
from miniature.world.scenes import compose
from tests.factories import jpeg, key
from tests.integration.test_cleaning import COPIES, encoded
from tests.pixel_embedder import load_pixel_embedder
from tests.processes import Processes
from tests.unit.labeling.cleaning.labelled_images import LAYERS, hashed, write_labelled

pytestmark = pytest.mark.slow
SCENES = 300
COSINE = 0.95
KILLS = 20
WEIGHTS = Path(__file__).parents[2] / "miniature" / "weights" / "embedder"


class MiniatureEmbedder:
    """Embedder of the miniature world as the stage needs it."""

    def __init__(self, config: EmbedConfig) -> None:
        self._encoder = EmbedderEncoder(WEIGHTS)

    def prepare(self, image: NDArray[np.uint8]) -> torch.Tensor:
        return self._encoder.prepare(image)

    def embed(self, prepared: list[torch.Tensor]) -> NDArray[np.float32]:
        embedded: NDArray[np.float32] = self._encoder.embed_images(torch.stack(prepared)).numpy()
        return embedded


def embeddings(stage: EmbedStage[torch.Tensor], images: list[bytes]) -> NDArray[np.float32]:
    rows = stage.process([stage.prepare(EmbedInput(key=key(0), image=image)) for image in images])
    return stored_embeddings([row for row in rows if isinstance(row, Embedding)])


def test_planted_copies(capsys: pytest.CaptureFixture[str]) -> None:
    stage = EmbedStage(EmbedConfig(), MiniatureEmbedder)
    stage.setup()
    scenes = [Image.open(io.BytesIO(encoded(Image.fromarray(compose(seed).image)))) for seed in range(SCENES)]
    originals = embeddings(stage, [encoded(scene) for scene in scenes])
    for name, copy in COPIES.items():
        every = np.concatenate([originals, embeddings(stage, [copy(scene) for scene in scenes])])
        similar = np.tril(every @ every.T >= COSINE, -1)
        called = np.flatnonzero(similar.any(axis=1))
        right = (similar.argmax(axis=1)[called] == called - SCENES).sum()
        recall, precision = right / SCENES, right / max(1, len(called))
        with capsys.disabled():
            print(f"\n{name}: recall {recall:.3f}, precision {precision:.3f}", end="")
        assert recall >= 0.95, name
        assert precision >= 0.99, name


SHARDS = [f"shard-{number:05}" for number in range(8)]
CLEAN = CleanConfig(near_duplicate_cosine=0.9)


def write_dataset(root: Path) -> None:
    """Write shards of 40 images, each of which is one of 150 pictures."""
    rng = random.Random(5)
    shards = [[hashed(40 * s + n, encoded=jpeg(rng.randrange(150))) for n in range(40)] for s in range(len(SHARDS))]
    assert write_labelled(root, shards) == SHARDS


def search(root: str, identity: str, executor: Executor = Executor.HERE, workers: int = 1) -> None:
    """Embed all images and search among them, again for each identity; the killed process runs this."""
    config = LabelingConfig(root=root, stale=Stale.REBUILD, executor=executor)
    embed = Step(stage=EmbedStage(EmbedConfig(), load_pixel_embedder), reads=(Layer.IMAGES,), identity=identity)
    label_part(config, embed, SHARDS, identity)
    run_job(SimilarImagesJob(root, LAYERS, tuple(SHARDS), 0.9), SHARDS, Workers(count=workers, cpus=0.5), executor)


def results(root: Path) -> list[SimilarImage]:
    store = ShardStore(str(root))
    assert [len(store.keys(EMBEDDINGS, shard)) for shard in SHARDS] == [40] * len(SHARDS)
    return [row for shard in SHARDS for row in store.read(SimilarImage, (SIMILAR,), shard)]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[SimilarImage]:
    root = tmp_path_factory.mktemp("undisturbed")
    write_dataset(root)
    search(str(root), "last")
    found = results(root)
    assert len(found) > 100
    return found


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("workers", [1, 2])
def test_ray_finds_the_same(tmp_path: Path, undisturbed: list[SimilarImage], workers: int) -> None:
    write_dataset(tmp_path)
    search(str(tmp_path), "last", Executor.RAY, workers)
    assert results(tmp_path) == undisturbed


def test_a_search_killed_at_random_moments(tmp_path: Path, undisturbed: list[SimilarImage]) -> None:
    rng = random.Random(6)
    write_dataset(tmp_path)
    command = (
        "import sys; from tests.integration.test_similar_images import search\n"
        "print('ready', flush=True)\n"
        "while True:\n"
        "    for identity in 'ab': search(sys.argv[1], identity)"
    )
    with Processes() as processes:
        for _ in range(KILLS):
            process = processes.start([sys.executable, "-c", command, str(tmp_path)], stdout=subprocess.PIPE)
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            time.sleep(rng.uniform(0.05, 4.0))
            process.kill()
            process.wait()
            store = ShardStore(str(tmp_path))
            for layer in (EMBEDDINGS, SIMILAR):
                for shard in store.shards(layer):
                    store.keys(layer, shard)
    search(str(tmp_path), "last")
    assert results(tmp_path) == undisturbed
