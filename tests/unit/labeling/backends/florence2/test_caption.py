"""Captions by Florence-2 against the chain of transformers' own processor and network, on random weights."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import Florence2ForConditionalGeneration, Florence2Processor

from infra.precision import Precision
from infra.weights.files import WeightsState
from labeling.backends.florence2.caption import Florence2Captioner
from labeling.backends.florence2.check import check_captioner
from labeling.backends.load import load_captioner
from labeling.config import CaptionConfig, CaptionerBackend, Device, FlorenceTask
from labeling.errors import BackendWeightsError
from tests.unit.labeling.backends.florence2.small_network import SPECIAL, write_florence2
from tests.unit.labeling.backends.sam.test_backends import picture

IMAGES = [picture(50, 70, 0), picture(90, 40, 1), picture(64, 64, 2)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_florence2(tmp_path_factory.mktemp("florence2"))


def config(checkpoint: Path, **others: object) -> CaptionConfig:
    settings = {"backend": "florence2", "checkpoint": str(checkpoint), "device": Device.CPU, "max_new_tokens": 12}
    return CaptionConfig.model_validate({**settings, "precision": Precision.FLOAT32, **others})


def captions(settings: CaptionConfig, images: list[np.ndarray]) -> list[str]:
    captioner = load_captioner(settings)
    assert isinstance(captioner, Florence2Captioner)
    return captioner.caption([captioner.prepare(image) for image in images])


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("task", list(FlorenceTask))
@torch.inference_mode()
def test_captions_are_those_of_transformers_own_chain(task: FlorenceTask, beams: int, folder: Path) -> None:
    net = Florence2ForConditionalGeneration.from_pretrained(folder).eval()
    processor = Florence2Processor.from_pretrained(folder)
    found = captions(config(folder, task=task, num_beams=beams), IMAGES)
    for image, caption in zip(IMAGES, found, strict=True):
        inputs = processor(images=Image.fromarray(image), text=task.value, return_tensors="pt")
        ids = net.generate(**inputs, max_new_tokens=12, num_beams=beams, do_sample=False)
        text = processor.batch_decode(ids, skip_special_tokens=False)[0]
        own = processor.post_process_generation(text, task=task.value)[task.value]
        # random weights write other special tokens too, which transformers leaves in the text
        assert caption.split() == [word for word in own.split() if word not in SPECIAL]
        assert caption


def test_captions_differ_with_the_image_and_with_the_task(folder: Path) -> None:
    found = captions(config(folder), IMAGES)
    assert len(set(found)) > 1
    assert found != captions(config(folder, task=FlorenceTask.CAPTION), IMAGES)


def test_a_batch_gives_what_its_images_give_alone(folder: Path) -> None:
    assert captions(config(folder), IMAGES) == [captions(config(folder), [image])[0] for image in IMAGES]


def test_bfloat16_loads(folder: Path) -> None:
    assert all(captions(config(folder, precision=Precision.BFLOAT16), IMAGES))


def test_weights_that_do_not_fit_are_refused(folder: Path, tmp_path: Path) -> None:
    assert check_captioner(config(folder)).state == WeightsState.FINE
    shutil.copytree(folder, tmp_path / "net")
    weights = load_file(folder / "model.safetensors")
    name = min(weights)
    del weights[name]
    save_file(weights, tmp_path / "net" / "model.safetensors", {"format": "pt"})
    with pytest.raises(BackendWeightsError, match="lacks 1 weights"):
        Florence2Captioner(config(tmp_path / "net"))
    assert check_captioner(config(tmp_path / "net")).state == WeightsState.MISMATCH
    with pytest.raises(BackendWeightsError, match="type 'blip-2', not 'florence2'"):
        Florence2Captioner(config(Path("miniature/weights/blip2")))


def test_the_task_is_in_the_stamp_of_florence_2_only() -> None:
    short = {"task": FlorenceTask.CAPTION}
    assert CaptionConfig(**short).fingerprint() == CaptionConfig().fingerprint() == "76d05ba8f712"
    florence = {"backend": CaptionerBackend.FLORENCE2}
    assert CaptionConfig(**florence, **short).fingerprint() != CaptionConfig(**florence).fingerprint()
    assert CaptionConfig(**florence, prompt="a").fingerprint() == CaptionConfig(**florence).fingerprint()
