"""Captions by Florence-2 against the chain of transformers' own processor and network, on random weights."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    BartConfig,
    CLIPImageProcessor,
    Florence2Config,
    Florence2ForConditionalGeneration,
    Florence2Processor,
    PreTrainedTokenizerFast,
)

from infra.precision import Precision
from infra.weights.files import WeightsState
from labeling.backends.florence2 import Florence2Captioner
from labeling.backends.florence2_check import check_florence2
from labeling.backends.load import load_captioner
from labeling.config import CaptionConfig, CaptionerBackend, Device, FlorenceTask
from labeling.errors import BackendWeightsError
from tests.unit.labeling.backends.sam.test_backends import picture

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<image>"]
WORDS = [f"word{n}" for n in range(90)] + [
    "Describe",
    "in",
    "detail",
    "what",
    "is",
    "shown",
    "the",
    "image",
    "does",
    "?",
]
SIDE = 64
IMAGES = [picture(50, 70, 0), picture(90, 40, 1), picture(64, 64, 2)]


def tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {token: number for number, token in enumerate([*SPECIAL, *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.decoder = decoders.WordPiece(prefix="##")
    names = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(
        tokenizer_object=words, extra_special_tokens={"image_token": "<image>"}, model_max_length=64, **names
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("florence2")
    text = BartConfig(
        vocab_size=len(SPECIAL) + len(WORDS),
        d_model=32,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        max_position_embeddings=96,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=2,
        forced_eos_token_id=2,
        init_std=0.4,
    )
    vision = {
        "depths": [1, 1, 1, 1],
        "embed_dim": [16, 16, 32, 32],
        "num_heads": [2, 2, 2, 2],
        "num_groups": [2, 2, 2, 2],
        "window_size": 2,
        "projection_dim": 32,
    }
    torch.manual_seed(0)
    net = Florence2ForConditionalGeneration(
        Florence2Config(
            text_config=text.to_dict(), vision_config=vision, image_token_id=4, pad_token_id=1, eos_token_id=2
        )
    )
    for name, weight in net.named_parameters():
        if "vision_tower" in name and weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.3)  # so that captions depend on the image
    net.save_pretrained(where)
    images = CLIPImageProcessor(size={"height": SIDE, "width": SIDE}, do_center_crop=False, image_seq_length=5)
    Florence2Processor(images, tokenizer(), post_processor_config={"pure_text": {}}).save_pretrained(where)
    return where


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
    assert check_florence2(config(folder)).state == WeightsState.FINE
    shutil.copytree(folder, tmp_path / "net")
    weights = load_file(folder / "model.safetensors")
    name = min(weights)
    del weights[name]
    save_file(weights, tmp_path / "net" / "model.safetensors", {"format": "pt"})
    with pytest.raises(BackendWeightsError, match="lacks 1 weights"):
        Florence2Captioner(config(tmp_path / "net"))
    assert check_florence2(config(tmp_path / "net")).state == WeightsState.MISMATCH
    with pytest.raises(BackendWeightsError, match="type 'blip-2', not 'florence2'"):
        Florence2Captioner(config(Path("miniature/weights/blip2")))


def test_the_task_is_in_the_stamp_of_florence_2_only() -> None:
    short = {"task": FlorenceTask.CAPTION}
    assert CaptionConfig(**short).fingerprint() == CaptionConfig().fingerprint() == "76d05ba8f712"
    florence = {"backend": CaptionerBackend.FLORENCE2}
    assert CaptionConfig(**florence, **short).fingerprint() != CaptionConfig(**florence).fingerprint()
    assert CaptionConfig(**florence, prompt="a").fingerprint() == CaptionConfig(**florence).fingerprint()
