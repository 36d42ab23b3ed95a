"""DreamBench's photographs as encoders see them. Needs SD_DREAMBENCH_DIR, a folder of them."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from evaluation.encoders.preprocess import decode_image, preprocess
from evaluation.encoders.specs import DINO_VITS16

PHOTOGRAPHS = os.environ.get("SD_DREAMBENCH_DIR")


@pytest.mark.skipif(not PHOTOGRAPHS, reason="SD_DREAMBENCH_DIR names no folder of photographs")
def test_photographs_are_read_as_published_evaluators_read_them() -> None:
    """One photo of each subject: the pixels of Pillow's `convert("RGB")`, and DINO's input by torchvision."""
    reference = transforms.Compose(
        [
            transforms.Resize(256, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    photographs = sorted(Path(PHOTOGRAPHS or "").glob("*/00.jpg"))
    assert len(photographs) == 30
    for path in photographs:
        pixels = decode_image(path.read_bytes())
        picture = Image.open(path).convert("RGB")
        assert np.array_equal(pixels, np.asarray(picture)), path
        assert torch.equal(preprocess(pixels, DINO_VITS16), reference(picture)), path
