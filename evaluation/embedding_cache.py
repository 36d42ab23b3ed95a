"""Cache of embeddings on disk, by content of the image file, encoder, preprocessing and weights.

    CACHE/dino-vit-s-16-0f3a9c41d27b/3b1f….parquet      digest (SHA-256 of the image file), embedding

Each file is written once, beside its place, and renamed; several processes may add to a cache at the same time. A
killed process loses what it embedded since its last file. Delete the folder to empty the cache.
"""

import re
import time
import uuid
from collections.abc import Sequence
from hashlib import sha256
from os import PathLike
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float32
from upath import UPath

from evaluation.encoders.encoder import Embedding, ImageEncoder
from evaluation.errors import EvaluationError
from infra.storage import open_binary, publish, storage_path

VERSION = 1
"""Version of decoding, preprocessing and file format; a change of any of them that changes embeddings raises it."""
FILE_ROWS = 4096
"""Number of embeddings after which a file is written at the latest, so that writing takes little memory."""
_DIGEST_BYTES = 32


class EncoderCache:
    """Embeddings by one encoder."""

    def __init__(self, folder: UPath, size: int, flush_s: float) -> None:
        """Read all files of `folder`.

        Raises:
            EvaluationError: a file is damaged.
        """
        self._folder = folder
        self._schema = pa.schema({"digest": pa.binary(_DIGEST_BYTES), "embedding": pa.list_(pa.float32(), size)})
        self._flush_s = flush_s
        self._known: dict[bytes, Embedding] = {}
        self._unwritten: list[bytes] = []
        self._written_s = time.monotonic()
        for file in sorted(folder.glob("*.parquet"), key=str):
            self._known |= self._read(file)

    def get(self, digest: bytes) -> Embedding | None:
        """Return the embedding of the image file with this SHA-256; None if it was not added yet."""
        return self._known.get(digest)

    def add(self, digests: Sequence[bytes], embeddings: Float32[np.ndarray, "B D"]) -> None:
        """Add a batch, and write the embeddings since the last file if they are many, or it is older than `flush_s`."""
        new = {digest: row for digest, row in zip(digests, embeddings, strict=True) if digest not in self._known}
        self._known |= new
        self._unwritten += new
        if len(self._unwritten) >= FILE_ROWS or time.monotonic() - self._written_s > self._flush_s:
            self.flush()

    def flush(self) -> None:
        """Write the embeddings since the last file."""
        if self._unwritten:
            flat = np.concatenate([self._known[digest] for digest in self._unwritten])
            embeddings = pa.FixedSizeListArray.from_arrays(flat, type=self._schema.field("embedding").type)
            digests = pa.array(self._unwritten, pa.binary(_DIGEST_BYTES))
            table = pa.Table.from_arrays([digests, embeddings], schema=self._schema)
            file = self._folder / f"{uuid.uuid4().hex}.parquet"
            publish(file, lambda target: _write(table, target), replace=False)
            self._unwritten = []
        self._written_s = time.monotonic()

    def _read(self, file: UPath) -> dict[bytes, Embedding]:
        try:
            with open_binary(file) as source:
                table = pq.read_table(source).cast(self._schema)
        except (OSError, pa.ArrowException, ValueError) as error:
            raise EvaluationError(
                f"{file} is damaged ({type(error).__name__}): delete it; its embeddings are computed again"
            ) from error
        flat = table["embedding"].combine_chunks().flatten().to_numpy()
        return dict(zip(table["digest"].to_pylist(), flat.reshape(table.num_rows, -1), strict=True))


class EmbeddingCache:
    """Folder with the embeddings of any number of encoders.

    Args:
        folder: local folder or fsspec URL; made on the first write.
        flush_s: longest time between two files of an encoder while embeddings arrive, in seconds.
    """

    def __init__(self, folder: str | PathLike[str], flush_s: float = 30.0) -> None:
        self.folder = storage_path(folder)
        self.flush_s = flush_s

    def of(self, encoder: ImageEncoder) -> EncoderCache:
        """Return the embeddings by an encoder.

        Raises:
            EvaluationError: a file is damaged.
        """
        return EncoderCache(self.folder / _folder_name(encoder), encoder.spec.embedding_size, self.flush_s)


def _write(table: pa.Table, target: IO[bytes]) -> None:
    """Write plain values: embeddings and digests neither repeat nor compress."""
    pq.write_table(table, target, compression="none", use_dictionary=False, write_statistics=False)


def _folder_name(encoder: ImageEncoder) -> str:
    """Return the name of an encoder's folder, which changes with all that changes an embedding."""
    key = sha256(f"{VERSION} {encoder.spec.fingerprint()} {encoder.weights_hash}".encode()).hexdigest()[:12]
    return f"{re.sub('[^a-z0-9]+', '-', encoder.spec.name.lower())}-{key}"
