"""Prepared pixels are those of the processor's own call, to the bit."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import BitImageProcessor, BlipImageProcessor, CLIPImageProcessor, GroundingDinoImageProcessor

from labeling.backends.pixel_values import prepare_pixels

PROCESSORS = {
    "to a square": BlipImageProcessor(size={"height": 96, "width": 96}),
    "cropped": CLIPImageProcessor(size={"shortest_edge": 96}, crop_size={"height": 64, "width": 64}),
    "bicubic and cropped": BitImageProcessor(
        size={"shortest_edge": 96}, crop_size={"height": 64, "width": 64}, resample=Image.Resampling.BICUBIC
    ),
    "aspect ratio kept": GroundingDinoImageProcessor(size={"shortest_edge": 80, "longest_edge": 133}),
    "not resized": BlipImageProcessor(do_resize=False),
}
SHAPES = [(40, 90), (3, 5), (1, 1), (64, 3), (200, 317), (96, 96)]


@pytest.mark.parametrize("name", PROCESSORS)
def test_pixels_are_the_processors_own(name: str) -> None:
    processor = PROCESSORS[name]
    unpadded = {"do_pad": False} if name == "aspect ratio kept" else {}
    for shape in SHAPES:
        image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
        whole = processor(Image.fromarray(image), return_tensors="pt", **unpadded)["pixel_values"][0]
        assert torch.equal(prepare_pixels(processor, image, **unpadded), whole), shape


def test_views_and_read_only_arrays_are_prepared_like_copies() -> None:
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    mirrored = image[:, ::-1]
    copied = mirrored.copy()
    copied.flags.writeable = False
    processor = PROCESSORS["to a square"]
    assert torch.equal(prepare_pixels(processor, mirrored), prepare_pixels(processor, copied))
