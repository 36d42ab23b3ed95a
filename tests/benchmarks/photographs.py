"""JPEGs of photographs' sizes for measurements of decoding: scenes of the miniature world, enlarged and with noise."""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from miniature.world.scenes import ScenesConfig, compose

QUALITY = 90
_SCENES = ScenesConfig(width_px=(512, 512), height_px=(384, 384))
_GRAIN = 2.0
"""Standard deviation of the noise, of 255 levels. Files then have .2 bytes a pixel at 2 MP and .15 at 12 MP;
DreamBench's photographs have .18 in the median, at about 1 MP."""


def jpegs(sizes: Sequence[tuple[int, int]]) -> list[bytes]:
    """A JPEG of each (width, height)."""
    return [enlarged(compose(number, _SCENES).image, size, number) for number, size in enumerate(sizes)]


def landscape(megapixels: float) -> tuple[int, int]:
    """Width and height of 4:3, in multiples of 8."""
    height = round((megapixels * 1e6 * 3 / 4) ** 0.5 / 8) * 8
    return round(height * 4 / 3 / 8) * 8, height


PROPORTIONS = {
    (1, 1): 0.22,
    (3, 2): 0.24,
    (4, 3): 0.18,
    (2, 3): 0.14,
    (16, 9): 0.08,
    (3, 4): 0.07,
    (5, 4): 0.03,
    (4, 5): 0.03,
    (9, 16): 0.01,
}
"""Common width and height of photographs, and their shares. An estimate: LAION publishes no table of them."""
CROPPED = 0.3
"""Share of images with any other proportions."""


def web_sizes(count: int, seed: int = 0) -> list[tuple[int, int]]:
    """Width and height of images of the web above 1,024 px: shorter sides of 1,300 px in the median."""
    rng = np.random.default_rng(seed)
    common, shares = list(PROPORTIONS), np.array(list(PROPORTIONS.values()))
    sizes = []
    for _ in range(count):
        short = max(1025, int(np.exp(rng.normal(np.log(1300), 0.25))))
        width, height = common[rng.choice(len(common), p=shares / shares.sum())]
        ratio = np.exp(rng.normal(0.15, 0.35)) if rng.random() < CROPPED else width / height
        sizes.append((round(short * ratio), short) if ratio >= 1 else (short, round(short / ratio)))
    return sizes


def enlarged(picture: np.ndarray, size: tuple[int, int], seed: int = 0) -> bytes:
    """A JPEG of `size` (width, height) from a smaller RGB picture [H, W, 3]."""
    pixels = np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC)).astype(np.float32)
    noise = np.random.default_rng(seed).normal(0, _GRAIN, (*pixels.shape[:2], 1)).astype(np.float32)
    file = io.BytesIO()
    Image.fromarray((pixels + noise).clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=QUALITY)
    return file.getvalue()
