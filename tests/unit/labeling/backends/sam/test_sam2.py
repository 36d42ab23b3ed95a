"""SAM 2 against the chain of transformers' own processor and network, on random weights."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Sam2Config, Sam2ImageProcessor, Sam2Model, Sam2Processor, Sam2VideoConfig, Sam2VideoModel

from infra.precision import Precision
from infra.weights.files import WeightsState
from labeling.backends.load import load_segmenter
from labeling.backends.sam.predict import upscale
from labeling.backends.sam.sam2 import Sam2Segmenter
from labeling.backends.sam.sam2_check import check_sam2_segmenter
from labeling.config import Device, SegmentConfig, SegmenterBackend
from labeling.errors import BackendWeightsError
from tests.unit.labeling.backends.sam.test_backends import COUNTS, SIZES, flat, iou, picture, random_boxes, run

SIDE = 64
VISION = {
    "backbone_config": {
        "model_type": "sam2_hiera_det_model",
        "hidden_size": 16,
        "image_size": [SIDE, SIDE],
        "blocks_per_stage": [1, 1, 2, 1],
        "embed_dim_per_stage": [16, 32, 64, 128],
        "num_attention_heads_per_stage": [1, 2, 2, 2],
        "window_size_per_stage": [4, 4, 2, 2],
        "global_attention_blocks": [3],
        "window_positional_embedding_background_size": [4, 4],
    },
    "backbone_channel_list": [128, 64, 32, 16],
    "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
    "fpn_hidden_size": 32,
}
PROMPTS = {"hidden_size": 32, "image_size": SIDE, "patch_size": 16, "mask_input_channels": 8}
DECODER = {"hidden_size": 32, "mlp_dim": 48, "num_attention_heads": 2, "iou_head_hidden_dim": 24}
PARTS = {"vision_config": VISION, "prompt_encoder_config": PROMPTS, "mask_decoder_config": DECODER}


def config(checkpoint: Path, precision: Precision = Precision.FLOAT32) -> SegmentConfig:
    return SegmentConfig(
        backend=SegmenterBackend.SAM2, checkpoint=str(checkpoint), precision=precision, device=Device.CPU
    )


def save(net: Sam2Model | Sam2VideoModel, folder: Path) -> Path:
    """Write the folder with weights that are all random, as some start at zero."""
    generator = torch.Generator().manual_seed(0)
    for name, weight in net.named_parameters():
        norm = weight.ndim == 1 and name.endswith("weight")
        weight.data = float(norm) + 0.2 * torch.randn(weight.shape, generator=generator)
    net.save_pretrained(folder)
    size = {"height": SIDE, "width": SIDE}
    Sam2Processor(Sam2ImageProcessor(size=size, mask_size={"height": 16, "width": 16})).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(Sam2Model(Sam2Config(**PARTS)), tmp_path_factory.mktemp("sam2"))


@pytest.fixture(scope="module")
def sam2(folder: Path) -> Sam2Segmenter:
    segmenter = load_segmenter(config(folder))
    assert isinstance(segmenter, Sam2Segmenter)
    return segmenter


def test_batch_is_what_the_folders_own_processor_makes(sam2: Sam2Segmenter, folder: Path) -> None:
    images = [picture(*size) for size in SIZES]
    theirs = Sam2Processor.from_pretrained(folder)(images, return_tensors="pt").pixel_values
    ours = sam2.preprocessing.batch([sam2.prepare(image) for image in images], sam2.device)
    # torchvision's resize is at most one grey level off Pillow's
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1.01 / 57.12)


@torch.inference_mode()
def test_masks_and_scores_are_those_of_transformers_own_chain(sam2: Sam2Segmenter, folder: Path) -> None:
    net, processor = Sam2Model.from_pretrained(folder).eval(), Sam2Processor.from_pretrained(folder)
    for i, (size, count, found) in enumerate(zip(SIZES, COUNTS, run(sam2), strict=True)):
        if not count:
            continue  # transformers cannot
        boxes = [random_boxes(*size, count).tolist()]
        inputs = processor(picture(*size, seed=i), input_boxes=boxes, return_tensors="pt").to(torch.float32)
        sizes = inputs.pop("original_sizes")
        out = net(**inputs, multimask_output=False)
        own = processor.post_process_masks(out.pred_masks, sizes)[0][:, 0].numpy()
        assert iou(np.stack([segmented.mask for segmented in found]), own) > 0.98
        assert [s.predicted_iou for s in found] == pytest.approx(out.iou_scores.flatten().tolist(), abs=0.05)
    assert 0.05 < np.mean([one.mask.mean() for one in flat(run(sam2))]) < 0.95


@pytest.mark.parametrize("size", [(64, 64), (300, 200), (33, 101)])
def test_masks_are_upscaled_as_by_the_processor(size: tuple[int, int], sam2: Sam2Segmenter, folder: Path) -> None:
    logits = torch.randn(5, 16, 16, generator=torch.Generator().manual_seed(1))
    theirs = Sam2Processor.from_pretrained(folder).post_process_masks([logits[:, None]], [size])[0][:, 0]
    ours = upscale(logits, sam2.prepare(picture(*size)), sam2.preprocessing)
    assert np.array_equal(np.stack(ours), theirs.numpy())


@torch.inference_mode()
def test_embeddings_are_those_of_the_network_itself(sam2: Sam2Segmenter) -> None:
    pixels = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    for ours, theirs in zip(sam2.encode(pixels), sam2.net.get_image_embeddings(pixels), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_batched_equals_single(sam2: Sam2Segmenter) -> None:
    for i, (size, count, batched) in enumerate(zip(SIZES, COUNTS, run(sam2), strict=True)):
        single = list(sam2.segment([sam2.prepare(picture(*size, seed=i))], [random_boxes(*size, count)])[0])
        assert len(single) == len(batched) == count
        for a, b in zip(single, batched, strict=True):
            assert a.mask.shape == b.mask.shape == size
            assert iou(a.mask, b.mask) >= 0.999
            assert (a.predicted_iou, a.stability) == pytest.approx((b.predicted_iou, b.stability), abs=1e-3)


def test_bfloat16_is_the_encoders_alone(sam2: Sam2Segmenter, folder: Path) -> None:
    rough = Sam2Segmenter(config(folder, Precision.BFLOAT16))
    assert rough.net.mask_decoder.conv_s0.weight.dtype == torch.float32
    embeddings = sam2.encode(pixels := torch.rand(1, 3, SIDE, SIDE))
    assert not torch.equal(rough.encode(pixels)[2], embeddings[2])
    prompt = torch.tensor([0]), torch.tensor([[3.0, 5.0, 40.3, 50.7]])
    for a, b in zip(sam2.decode(embeddings, *prompt), rough.decode(embeddings, *prompt), strict=True):
        assert torch.equal(a, b)


def test_a_checkpoint_of_the_video_network_holds_the_same_network(tmp_path: Path) -> None:
    """The published checkpoints are of this kind."""
    described = Sam2VideoConfig(
        **PARTS,
        memory_attention_hidden_size=32,
        memory_attention_feed_forward_hidden_size=16,
        memory_attention_num_layers=1,
        memory_encoder_hidden_size=32,
        memory_encoder_output_channels=16,
        memory_fuser_embed_dim=32,
        memory_fuser_intermediate_dim=16,
        mask_downsampler_embed_dim=32,
    )
    video = save(Sam2VideoModel(described), tmp_path / "video")
    assert json.loads((video / "config.json").read_text())["model_type"] == "sam2_video"
    net = Sam2Segmenter(config(video)).net
    stored = load_file(video / "model.safetensors")
    for name, weight in net.state_dict().items():
        if name in stored:
            assert torch.equal(weight, stored[name])
    assert len(stored.keys() & net.state_dict().keys()) > 100
    assert check_sam2_segmenter(config(video)).state == WeightsState.FINE


def test_weights_that_do_not_fit_are_refused(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "net")
    weights = load_file(folder / "model.safetensors")
    del weights["mask_decoder.conv_s0.weight"]
    save_file(weights, tmp_path / "net" / "model.safetensors", {"format": "pt"})
    with pytest.raises(BackendWeightsError, match=r"lacks 1 tensors .* first is 'mask_decoder\.conv_s0\.weight'"):
        Sam2Segmenter(config(tmp_path / "net"))
    assert check_sam2_segmenter(config(tmp_path / "net")).state == WeightsState.MISMATCH
    with pytest.raises(BackendWeightsError, match="type 'sam', not 'sam2'"):
        Sam2Segmenter(config(Path("miniature/weights/sam")))
    assert check_sam2_segmenter(config(Path("miniature/weights/sam"))).state == WeightsState.OTHER


def test_a_processor_of_another_size_is_refused(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "net")
    Sam2Processor(Sam2ImageProcessor(size={"height": 32, "width": 32})).save_pretrained(tmp_path / "net")
    with pytest.raises(BackendWeightsError, match="resizes to 32x32 pixels, but its network takes 64x64"):
        Sam2Segmenter(config(tmp_path / "net"))
