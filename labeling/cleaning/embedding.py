"""Embeddings of all images, by which near duplicates are found that perceptual hashes miss."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Generic

import numpy as np
from numpy.typing import NDArray

from labeling.backends.load import load_embedder
from labeling.config import EmbedConfig, LabelingConfig
from labeling.sdd.pixels import decode
from labeling.sdd.schema import EMBEDDINGS, Embedding, Layer
from labeling.stages.base import Drop
from labeling.stages.networks import ImageEmbedder, Prepared
from labeling.steps import Step, refuse_missing_weights, weights_identity

STORED = np.dtype("<f2")
"""Format of the numbers of a stored embedding: half precision, which changes a cosine by less than .001."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedInput:
    """Columns that the stage reads."""

    key: bytes
    image: bytes


@dataclass(frozen=True, slots=True)
class EmbedQuery(Generic[Prepared]):
    """A prepared image, followed by its mirror image if the embedding depends on both."""

    key: bytes
    images: tuple[Prepared, ...]


class EmbedStage(Generic[Prepared]):
    """Stage that embeds images. It reads images/ alone, so other captions or boxes leave its files as they are."""

    name: ClassVar[str] = EMBEDDINGS
    reads: ClassVar[type] = EmbedInput
    writes: ClassVar[type] = Embedding

    def __init__(self, config: EmbedConfig, load: Callable[[EmbedConfig], ImageEmbedder[Prepared]]) -> None:
        self.config = config
        self.embedder: ImageEmbedder[Prepared] | None = None
        self._load = load

    def setup(self) -> None:
        """Load the embedder."""
        if self.embedder is None:
            self.embedder = self._load(self.config)

    def prepare(self, row: EmbedInput) -> EmbedQuery[Prepared]:
        """Decode and prepare an image, and its mirror image."""
        assert self.embedder is not None, "setup() was not called"
        image = decode(row.image)
        images = (image, np.ascontiguousarray(image[:, ::-1])) if self.config.mirror_invariant else (image,)
        return EmbedQuery(row.key, tuple(map(self.embedder.prepare, images)))

    def process(self, batch: Sequence[EmbedQuery[Prepared]]) -> list[Embedding | Drop]:
        """Embed the images; an embedding that is not finite fails its image."""
        assert self.embedder is not None, "setup() was not called"
        embedded = self.embedder.embed([image for row in batch for image in row.images])
        embeddings = _unit_rows(embedded.reshape(len(batch), -1, embedded.shape[1]).sum(axis=1))
        return [
            Embedding(key=row.key, embedding=embedding.astype(STORED).tobytes())
            if np.isfinite(embedding).all()
            else Drop("embedding_not_finite")
            for row, embedding in zip(batch, embeddings, strict=True)
        ]


def embed_step(config: LabelingConfig) -> Step | None:
    """Return the step of the embedder; None if no rule compares embeddings. Hashes local weights.

    Raises:
        BackendWeightsError: weights are missing, as far as a check without loading them shows.
    """
    if config.clean.near_duplicate_cosine is None:
        return None
    refuse_missing_weights("labeling.embed", config.embed)
    identity = f"{config.embed.fingerprint()} {weights_identity('labeling.embed', config.embed)}"
    return Step(stage=EmbedStage(config.embed, load_embedder), reads=(Layer.IMAGES,), identity=identity)


def stored_embeddings(rows: Sequence[Embedding]) -> NDArray[np.float32]:
    """Return the embeddings of these rows, [n, D], of length 1."""
    if not rows:
        return np.empty((0, 0), np.float32)
    half = np.frombuffer(b"".join(row.embedding for row in rows), STORED).reshape(len(rows), -1)
    return _unit_rows(half.astype(np.float32))


def _unit_rows(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    normed: NDArray[np.float32] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return normed
