"""What the networks' inputs cost beside the networks. Results: docs/benchmarks/feeding.md."""

import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers import BlipImageProcessor, GroundingDinoImageProcessor

from labeling.backends.blip2 import Blip2Captioner
from labeling.backends.grounding_dino.package import PREPROCESSING
from labeling.backends.pixel_values import prepare_pixels
from labeling.config import CaptionConfig, Device
from labeling.sdd.pixels import MAX_PIXELS, decode, decode_reduced, open_image, upright_image
from miniature.world.names import taught_scenes
from miniature.world.scenes import compose
from tests.benchmarks.pairs import in_turns
from tests.benchmarks.photographs import enlarged, jpegs, landscape

pytestmark = pytest.mark.bench
IMAGES = 4
MINIATURE = Path(__file__).parents[2] / "miniature/weights"
CAPTIONER = BlipImageProcessor(size={"height": 224, "width": 224})
DETECTOR = GroundingDinoImageProcessor(size=PREPROCESSING)


def decode_by_pillow(encoded: bytes) -> NDArray[np.uint8]:
    """Baseline: pixels copied to an array by Pillow."""
    with open_image(encoded, MAX_PIXELS) as image:
        return np.array(upright_image(image))


def prepare_captioner_by_pillow(image: NDArray[np.uint8]) -> torch.Tensor:
    """Baseline: the image as a Pillow image, which transformers copies to channels first."""
    pixels: torch.Tensor = CAPTIONER(Image.fromarray(image), return_tensors="pt")["pixel_values"][0]
    return pixels


def prepare_detector_by_array(image: NDArray[np.uint8]) -> torch.Tensor:
    """Baseline: the image as an array, which transformers copies to channels first."""
    batch = DETECTOR(images=image, do_pad=False, input_data_format="channels_last", return_tensors="pt")
    pixels: torch.Tensor = batch["pixel_values"][0]
    return pixels


NETWORKS = {
    "captioner": (prepare_captioner_by_pillow, partial(prepare_pixels, CAPTIONER)),
    "detector": (prepare_detector_by_array, partial(prepare_pixels, DETECTOR, do_pad=False)),
}


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.mark.parametrize("megapixels", [2, 12])
@pytest.mark.parametrize("network", NETWORKS)
def test_decode_and_prepare(network: str, megapixels: int) -> None:
    """CPU time an image: by Pillow's copies and those of transformers, and now. The result is the same to the bit."""
    images = jpegs([landscape(megapixels)] * IMAGES)
    before, after = NETWORKS[network]
    for image in images:
        assert torch.equal(before(decode_by_pillow(image)), after(decode(image)))
    figures = in_turns(
        each(images, lambda image: before(decode_by_pillow(image))), each(images, lambda image: after(decode(image)))
    )
    size = sum(map(len, images)) / len(images) / 1e6
    print(f"\n{network}, {megapixels} MP ({size:.1f} MB): {figures[0]:.1f} -> {figures[1]:.1f} ms; {figures[2]:.2f}x")
    assert figures[2].median >= 1.0


@pytest.mark.parametrize(("megapixels", "most_ms"), [(2, 8), (12, 30)])
def test_reduced_decoding_for_the_captioner(megapixels: int, most_ms: float) -> None:
    """CPU-seconds an image with `labeling.caption.reduced_decoding` off and on."""
    images = jpegs([landscape(megapixels)] * IMAGES)
    prepare = NETWORKS["captioner"][1]
    figures = in_turns(
        each(images, lambda image: prepare(decode(image))),
        each(images, lambda image: prepare(decode_reduced(image, 2 * 224))),
    )
    print(f"\nreduced decoding, {megapixels} MP: {figures[0]:.1f} -> {figures[1]:.1f} ms; {figures[2]:.2f}x")
    assert figures[1].median <= most_ms


@pytest.mark.parametrize("megapixels", [2, 12])
def test_captions_of_images_decoded_at_reduced_size(megapixels: int) -> None:
    """Pixels and captions of the miniature captioner for photographs of SD_DREAMBENCH_DIR, or scenes, enlarged."""
    captioner = Blip2Captioner(CaptionConfig(checkpoint=str(MINIATURE / "blip2"), device=Device.CPU))
    whole, reduced = [], []
    for number, picture in enumerate(_pictures()):
        encoded = enlarged(picture, landscape(megapixels), number)
        whole.append(captioner.prepare(decode(encoded)))
        reduced.append(captioner.prepare(decode_reduced(encoded, 2 * captioner.input_px)))
    pairs = zip(_captions(captioner, whole), _captions(captioner, reduced), strict=True)
    changed = [f"{before!r} -> {after!r}" for before, after in pairs if before != after]
    levels = 255 * torch.tensor(CAPTIONER.image_std)[:, None, None]
    difference = (torch.stack(whole) - torch.stack(reduced)).abs() * levels
    print(f"\n{megapixels} MP, {len(whole)} images: pixels differ by {difference.mean():.2f} of 255 levels in the mean")
    print(f"(at most {difference.mean((1, 2, 3)).max():.2f} of an image, {difference.max():.0f} of a pixel)")
    print(f"{len(changed)} captions changed", *changed[:5], sep="\n")
    assert difference.mean() <= 1.0


def _pictures() -> Iterator[NDArray[np.uint8]]:
    if folder := os.environ.get("SD_DREAMBENCH_DIR"):
        yield from (decode(file.read_bytes()) for file in sorted(Path(folder).glob("*/*.jpg")))
    else:
        yield from (compose(seed, taught_scenes()).image for seed in range(100))


def _captions(captioner: Blip2Captioner, prepared: list[torch.Tensor]) -> list[str]:
    return [text for start in range(0, len(prepared), 16) for text in captioner.caption(prepared[start : start + 16])]


def each(images: list[bytes], function: Callable[[bytes], Any]) -> Callable[[], float]:
    """A measurement of the CPU-milliseconds of `function` for each image, after one call to warm up."""
    function(images[0])

    def measure() -> float:
        start = time.process_time()
        for image in images:
            function(image)
        return 1e3 / len(images) * (time.process_time() - start)

    return measure
