"""Embeddings of images as they are stored."""

import io

import numpy as np
import pytest
from PIL import Image

from labeling.cleaning.embedding import EmbedInput, EmbedStage, embed_step, stored_embeddings
from labeling.config import EmbedConfig, LabelingConfig
from labeling.sdd.schema import Embedding
from labeling.stages.base import Drop
from tests.factories import jpeg, key
from tests.pixel_embedder import PixelEmbedder, load_pixel_embedder


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def embeddings(config: EmbedConfig, *images: bytes) -> list[Embedding | Drop]:
    stage = EmbedStage(config, load_pixel_embedder)
    stage.setup()
    return stage.process([stage.prepare(EmbedInput(key=key(n), image=encoded)) for n, encoded in enumerate(images)])


def cosine(rows: list[Embedding | Drop]) -> float:
    first, second = stored_embeddings([row for row in rows if isinstance(row, Embedding)])
    return float(first @ second)


def test_a_mirror_image_has_the_same_embedding_unless_it_is_to_differ() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    image, mirrored = png(pixels), png(pixels[:, ::-1])
    assert cosine(embeddings(EmbedConfig(), image, mirrored)) == pytest.approx(1.0, abs=1e-3)
    assert cosine(embeddings(EmbedConfig(mirror_invariant=False), image, mirrored)) < 0.9


def test_a_stored_embedding_is_the_embedding_to_half_precision() -> None:
    rows = embeddings(EmbedConfig(mirror_invariant=False), jpeg(1), jpeg(2))
    embedder = PixelEmbedder()
    images = [np.asarray(Image.open(io.BytesIO(jpeg(seed)))) for seed in (1, 2)]
    own = embedder.embed([embedder.prepare(image) for image in images])
    stored = stored_embeddings([row for row in rows if isinstance(row, Embedding)])
    np.testing.assert_allclose(stored, own, atol=1e-3)
    assert stored_embeddings([]).shape == (0, 0)


def test_an_embedding_that_is_not_finite_fails_its_image_only() -> None:
    flat = png(np.zeros((16, 16, 3), np.uint8))
    with np.errstate(invalid="ignore"):
        bad, good = embeddings(EmbedConfig(), flat, jpeg(1))
    assert isinstance(bad, Drop)
    assert isinstance(good, Embedding)


def test_no_embedder_is_needed_without_its_rule() -> None:
    assert embed_step(LabelingConfig(root="-")) is None
    assert "embed" not in LabelingConfig(root="-").weights_tables
