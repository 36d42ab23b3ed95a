"""Embeddings of many image files: decoded ahead in threads, embedded in batches, cached by content.

    by_dino, by_clip = embed_files([dino, clip], paths, EmbeddingCache("out/embeddings"))
    by_dino[path]      # DINO's embedding of the file, or `Unreadable` with the reason

A file is read, hashed and decoded once for all encoders. Memory holds the embeddings and the images of a few batches,
however many files there are.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice
from os import cpu_count
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from evaluation.embedding_cache import EmbeddingCache, EncoderCache
from evaluation.encoders.encoder import Embedding, ImageEncoder
from evaluation.encoders.preprocess import decode_image
from evaluation.errors import EncoderWeightsError
from labeling.sdd.pixels import UndecodableImage

Progress = Callable[[int, int], None]
"""Receives the number of files that are done, and of all."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A file that has no embedding."""

    reason: str
    """What is wrong with the file, in a few words."""


Embeddings = dict[Path, Embedding | Unreadable]
"""Embedding of each file, or the reason why it has none, in the order of the files."""


def embed_files(
    encoders: Sequence[ImageEncoder],
    paths: Iterable[Path],
    cache: EmbeddingCache | None = None,
    *,
    batch_size: int = 64,
    threads: int | None = None,
    on_progress: Progress | None = None,
) -> list[Embeddings]:
    """Embed image files with each encoder.

    A killed call loses at most the embeddings since the cache's last file (`EmbeddingCache.flush_s`).

    Args:
        encoders: the encoders.
        paths: files; a path that occurs twice counts once.
        cache: embeddings of earlier calls, by content of the files; None to compute all of them.
        batch_size: number of images that an encoder embeds at once.
        threads: number of threads that read and decode; None for one a core.
        on_progress: receives the progress after each file; the last batch may still wait for its embedding.

    Returns:
        The embeddings by each encoder, in its place in `encoders`.

    Raises:
        EncoderWeightsError: an embedding is NaN or infinite; the message names the file.
        EvaluationError: the cache is damaged.
    """
    files = list(dict.fromkeys(paths))
    batchers = [
        _Batcher(encoder, None if cache is None else cache.of(encoder), batch_size, len(files)) for encoder in encoders
    ]
    try:
        for done, file in enumerate(_read_ahead(files, batchers, 2 * batch_size, threads or cpu_count() or 1), 1):
            for batcher, image in zip(batchers, file.images, strict=True):
                batcher.add(file, image)
            if on_progress is not None:
                on_progress(done, len(files))
        for batcher in batchers:
            batcher.embed()
    finally:
        for batcher in batchers:
            batcher.write()
    return [{path: batcher[path] for path in files} for batcher in batchers]


@dataclass(frozen=True, slots=True)
class _ReadFile:
    """A file that a thread has read."""

    path: Path
    digest: bytes
    """SHA-256 of its content."""
    images: tuple[Tensor | Embedding | Unreadable, ...]
    """For each encoder: its input, its embedding from the cache, or what is wrong with the file."""


class _Batcher:
    """Embeds the files of one encoder in batches.

    A batch is `batch_size` neighbours in the order of files, without those that need no embedding. The last bits of an
    embedding depend on its batch, so this makes a call that resumes a killed one return the same bits.

    The inputs of a batch and all embeddings have one place each. New ones for each batch would fragment the heap, which
    then grows by the inputs of a batch each time.
    """

    def __init__(self, encoder: ImageEncoder, cache: EncoderCache | None, batch_size: int, file_count: int) -> None:
        self.encoder = encoder
        self._cache = cache
        self._batch_size = batch_size
        self._inputs: Tensor | None = None
        self._embeddings = np.empty((file_count, encoder.spec.embedding_size), np.float32)
        self._embedded = 0
        self._count = 0
        self._results: Embeddings = {}
        self._first: dict[bytes, Path] = {}
        self._copies: dict[Path, Path] = {}
        self._waiting: list[tuple[_ReadFile, Tensor]] = []

    def __getitem__(self, path: Path) -> Embedding | Unreadable:
        return self._results[self._copies.get(path, path)]

    def cached(self, digest: bytes) -> Embedding | None:
        """Return the embedding of the content, if an earlier call computed it."""
        return None if self._cache is None else self._cache.get(digest)

    def add(self, file: _ReadFile, image: Tensor | Embedding | Unreadable) -> None:
        """Note the result of a file, or its input, and embed a full batch."""
        if not isinstance(image, Tensor):
            self._results[file.path] = image
        elif (first := self._first.setdefault(file.digest, file.path)) != file.path:
            self._copies[file.path] = first
        else:
            self._waiting.append((file, image))
        self._count += 1
        if self._count % self._batch_size == 0:
            self.embed()

    def embed(self) -> None:
        """Embed the collected inputs.

        Raises:
            EncoderWeightsError: an embedding is NaN or infinite.
        """
        if not self._waiting:
            return
        files, inputs = zip(*self._waiting, strict=True)
        self._waiting = []
        rows = self._embeddings[self._embedded : self._embedded + len(files)]
        with torch.inference_mode():
            rows[:] = self.encoder.embed_images(self._stack(inputs)).float().cpu().numpy()
        for file, row in zip(files, rows, strict=True):
            if not np.isfinite(row).all():
                raise EncoderWeightsError(
                    f"{self.encoder.spec.name} embeds {file.path} as NaN or infinity: its weights are damaged, or "
                    f"overflow in {self.encoder.spec.dtype}; download them again, or compute in float32"
                )
        self._embedded += len(files)
        self._results |= {file.path: row for file, row in zip(files, rows, strict=True)}
        if self._cache is not None:
            self._cache.add([file.digest for file in files], rows)

    def _stack(self, inputs: Sequence[Tensor]) -> Tensor:
        if self._inputs is None:
            self._inputs = torch.empty((self._batch_size, *inputs[0].shape), dtype=inputs[0].dtype)
        return torch.stack(list(inputs), out=self._inputs[: len(inputs)])

    def write(self) -> None:
        """Write the embeddings that the cache holds in memory only."""
        if self._cache is not None:
            self._cache.flush()


def _read_ahead(files: Sequence[Path], batchers: Sequence[_Batcher], ahead: int, threads: int) -> Iterator[_ReadFile]:
    """Read files in threads, in order, at most `ahead` of them before they are needed."""
    pool = ThreadPoolExecutor(threads, thread_name_prefix="read-image")
    rest = iter(files)
    try:
        reading: deque[Future[_ReadFile]] = deque(pool.submit(_read, path, batchers) for path in islice(rest, ahead))
        while reading:
            file = reading.popleft().result()
            reading.extend(pool.submit(_read, path, batchers) for path in islice(rest, 1))
            yield file
    finally:
        pool.shutdown(cancel_futures=True)


def _read(path: Path, batchers: Sequence[_Batcher]) -> _ReadFile:
    """Read one file, and decode it if an encoder has not embedded its content yet."""
    try:
        content = path.read_bytes()
    except OSError as error:
        return _ReadFile(path, b"", (Unreadable(error.strerror or type(error).__name__),) * len(batchers))
    digest = sha256(content).digest()
    known = [batcher.cached(digest) for batcher in batchers]
    if all(embedding is not None for embedding in known):
        return _ReadFile(path, digest, tuple(embedding for embedding in known if embedding is not None))
    try:
        pixels = decode_image(content)
    except UndecodableImage as error:
        return _ReadFile(path, digest, (Unreadable(f"{error.reason}: {error}"),) * len(batchers))
    pairs = zip(batchers, known, strict=True)
    images = (batcher.encoder.prepare(pixels) if found is None else found for batcher, found in pairs)
    return _ReadFile(path, digest, tuple(images))
