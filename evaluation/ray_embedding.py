"""Embedding on a Ray cluster: workers fill the cache, which this process then reads.

Files and cache are on storage that every machine reads under the same path.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from evaluation.embedding_cache import EmbeddingCache
from evaluation.embeddings import Embeddings, Progress, embed_files
from evaluation.encoders.encoder import ImageEncoder
from evaluation.errors import EvaluationError
from infra.ray_cluster import join_cluster

CHUNK = 256
"""Files that a worker embeds until it takes the next ones; at most so many are lost with a killed worker."""
RESTARTS = 2
"""Times that a worker is restarted, and that a chunk is tried again, after its process died."""
MakeEncoders = Callable[[], Sequence[ImageEncoder]]


def embed_on_ray(
    encoders: Sequence[ImageEncoder],
    paths: Sequence[Path],
    make_encoders: MakeEncoders,
    cache: Path,
    workers: int | None = None,
    gpus: bool = True,
    on_progress: Progress | None = None,
) -> list[Embeddings]:
    """Embed image files with each encoder, as `embed_files`.

    Args:
        encoders: the encoders, for what the cache lacks at the end.
        paths: the files.
        make_encoders: loads the same encoders in a worker.
        cache: folder of the cache.
        workers: number of workers; by default one for each GPU of the cluster, or for each CPU if it has none.
        gpus: whether a worker reserves a GPU, if the cluster has any.
        on_progress: receives the number of embedded files, and of all.

    Raises:
        EvaluationError: an encoder does not load or embeds a file as NaN, or the workers died again and again.
    """
    import ray
    from ray.exceptions import RayError, RayTaskError
    from ray.util import ActorPool

    join_cluster()
    resources = ray.cluster_resources()
    kind = "GPU" if gpus and resources.get("GPU") else "CPU"
    count = workers or max(1, int(resources.get(kind, 1)))
    actor = ray.remote(num_cpus=1, num_gpus=float(kind == "GPU"), max_restarts=RESTARTS, max_task_retries=RESTARTS)
    actors = [actor(_Worker).remote(make_encoders, cache.absolute()) for _ in range(count)]
    chunks = [[path.absolute() for path in paths[start : start + CHUNK]] for start in range(0, len(paths), CHUNK)]
    try:
        done = 0
        for size in ActorPool(actors).map_unordered(_embed_chunk, chunks):
            done += size
            if on_progress is not None:
                on_progress(done, len(paths))
    except RayTaskError as error:
        raise EvaluationError(str(error.cause).strip().splitlines()[-1]) from error
    except RayError as error:
        raise EvaluationError(f"the Ray workers failed: {str(error).strip().splitlines()[-1]}") from error
    finally:
        for one in actors:
            ray.kill(one)
    return embed_files(encoders, paths, EmbeddingCache(cache))


def _embed_chunk(worker: Any, paths: Sequence[Path]) -> Any:
    return worker.embed.remote(paths)


class _Worker:
    """Encoders in a Ray actor."""

    def __init__(self, make_encoders: MakeEncoders, cache: Path) -> None:
        self._make_encoders = make_encoders
        self._cache = cache
        self._encoders: Sequence[ImageEncoder] | None = None

    def embed(self, paths: Sequence[Path]) -> int:
        """Add the embeddings of files to the cache and return the number of files."""
        self._encoders = self._encoders or self._make_encoders()
        embed_files(self._encoders, paths, EmbeddingCache(self._cache))
        return len(paths)
