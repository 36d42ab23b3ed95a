"""`python -m tests.benchmarks.embedding_memory FOLDER COUNT`: peak MiB of a process that embeds COUNT images.

The files are small and their images are not: 256 pixels square, so keeping them would take 190 kB each.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from evaluation.embedding_cache import EmbeddingCache
from evaluation.embeddings import embed_files
from tests.small_encoder import SPEC, SmallEncoder

SIZE = 384
"""Length of an embedding, that of DINO ViT-S/16."""


def write_images(folder: Path, count: int) -> list[Path]:
    """Write the images that are missing; each has its number in its first pixels."""
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{i:05}.png" for i in range(count)]
    pixels = np.zeros((256, 256, 3), np.uint8)
    for i, path in enumerate(paths):
        if not path.exists():
            pixels[0, :2] = divmod(i, 256)[0], divmod(i, 256)[1], 7
            Image.fromarray(pixels).save(path, compress_level=1)
    return paths


def main(folder: Path, count: int) -> None:
    encoder = SmallEncoder(spec=SPEC.model_copy(update={"embedding_size": SIZE, "resize_px": 256, "crop_px": 32}))
    paths = write_images(folder / "images", count)
    (found,) = embed_files([encoder], paths, EmbeddingCache(folder / f"cache {count}"))
    assert len(found) == count
    print(peak_mib())


def peak_mib() -> float:
    """Return the peak resident memory of this process in MiB; `getrusage` counts that of the parent before exec."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
