"""SAM 2 of transformers against Meta's own code, on the same random weights.

Meta's code is on PyPI as sam2 1.1.0, which a third person uploaded, so it is no dependency of this project. The test
runs where it is installed: `pip install --no-deps sam2==1.1.0 hydra-core omegaconf antlr4-python3-runtime==4.9.3 iopath
portalocker`, with SAM2_BUILD_CUDA=0.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import Sam2Config, Sam2Model

from labeling.backends.load import load_segmenter
from labeling.backends.sam.predict import upscale
from labeling.backends.sam.sam2 import Sam2Segmenter
from tests.unit.labeling.backends.sam.test_backends import SIZES, iou, picture, random_boxes
from tests.unit.labeling.backends.sam.test_sam2 import PARTS, SIDE, VISION, config, save

pytest.importorskip("sam2", reason="needs Meta's sam2")
pytestmark = pytest.mark.slow
WIDTH = 64
"""Width of the decoder; Meta's code fixes 8 heads, 2,048 units and 16 channels of prompts."""
HEADS = {"num_attention_heads_per_stage": [1, 2, 4, 8]}
"""Heads of each stage, which Meta's code doubles."""
SMALL: dict[str, dict[str, Any]] = {
    "vision_config": {
        **VISION,
        "fpn_hidden_size": WIDTH,
        "backbone_config": {**VISION["backbone_config"], **HEADS},  # type: ignore[dict-item]  # the values are mixed
    },
    "prompt_encoder_config": {**PARTS["prompt_encoder_config"], "hidden_size": WIDTH, "mask_input_channels": 16},
    "mask_decoder_config": {
        "hidden_size": WIDTH,
        "mlp_dim": 2048,
        "num_attention_heads": 8,
        "iou_head_hidden_dim": 256,
    },
}
NAMES = (
    (r"^image_encoder\.trunk\.", "vision_encoder.backbone."),
    (r"^image_encoder\.neck\.convs\.(\d+)\.conv\.", r"vision_encoder.neck.convs.\1."),
    (r"patch_embed\.proj\.", "patch_embed.projection."),
    (r"\.norm(\d)\.", r".layer_norm\1."),
    (r"^sam_prompt_encoder\.mask_downscaling\.0\.", "prompt_encoder.mask_embed.conv1."),
    (r"^sam_prompt_encoder\.mask_downscaling\.1\.", "prompt_encoder.mask_embed.layer_norm1."),
    (r"^sam_prompt_encoder\.mask_downscaling\.3\.", "prompt_encoder.mask_embed.conv2."),
    (r"^sam_prompt_encoder\.mask_downscaling\.4\.", "prompt_encoder.mask_embed.layer_norm2."),
    (r"^sam_prompt_encoder\.mask_downscaling\.6\.", "prompt_encoder.mask_embed.conv3."),
    (r"^sam_prompt_encoder\.", "prompt_encoder."),
    (r"^sam_mask_decoder\.", "mask_decoder."),
    (r"output_upscaling\.0\.", "upscale_conv1."),
    (r"output_upscaling\.1\.", "upscale_layer_norm."),
    (r"output_upscaling\.3\.", "upscale_conv2."),
    (r"norm_final_attn", "layer_norm_final_attn"),
    (r"\.out_proj\.", ".o_proj."),
    (r"\.mlp\.layers\.0\.", ".mlp.proj_in."),
    (r"\.mlp\.layers\.1\.", ".mlp.proj_out."),
    (r"((?:mlps\.\d+|_head)\.)layers\.0\.", r"\1proj_in."),
    (r"((?:mlps\.\d+|_head)\.)layers\.1\.", r"\1layers.0."),
    (r"((?:mlps\.\d+|_head)\.)layers\.2\.", r"\1proj_out."),
    (r"^no_mem_embed$", "no_memory_embedding"),
)
"""Names of Meta's code and those of transformers."""
POSITIONS = "sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"
POINTS = "sam_prompt_encoder.point_embeddings"


def meta_network() -> Any:
    """The network of Meta's code with the sizes of `SMALL`; what only videos need is left out."""
    from sam2.modeling.backbones.hieradet import Hiera
    from sam2.modeling.backbones.image_encoder import FpnNeck, ImageEncoder
    from sam2.modeling.position_encoding import PositionEmbeddingSine
    from sam2.modeling.sam2_base import SAM2Base

    trunk = Hiera(
        embed_dim=16,
        num_heads=1,
        stages=(1, 1, 2, 1),
        global_att_blocks=(3,),
        window_pos_embed_bkg_spatial_size=(4, 4),
        window_spec=(4, 4, 2, 2),
    )
    neck = FpnNeck(
        position_encoding=PositionEmbeddingSine(num_pos_feats=WIDTH),
        d_model=WIDTH,
        backbone_channel_list=[128, 64, 32, 16],
        fpn_top_down_levels=[2, 3],
        fpn_interp_model="nearest",
    )
    return SAM2Base(
        ImageEncoder(trunk=trunk, neck=neck, scalp=1),
        memory_attention=torch.nn.Identity(),
        memory_encoder=torch.nn.Identity(),
        image_size=SIDE,
        directly_add_no_mem_embed=True,
        use_high_res_features_in_sam=True,
        iou_prediction_use_sigmoid=True,
        pred_obj_scores=True,
        pred_obj_scores_mlp=True,
        use_multimask_token_for_obj_ptr=True,
        sam_mask_decoder_extra_args={
            "dynamic_multimask_via_stability": True,
            "dynamic_multimask_stability_delta": 0.05,
            "dynamic_multimask_stability_thresh": 0.98,
        },
    ).eval()


def weights_of_meta(wanted: Mapping[str, Tensor], ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of transformers under the names of Meta's code; those for videos stay as they are."""
    converted: dict[str, Tensor] = {}
    for name, own in wanted.items():
        if name == POSITIONS:
            converted[name] = ours["shared_image_embedding.positional_embedding"]
        elif match := re.fullmatch(rf"{re.escape(POINTS)}\.(\d)\.weight", name):
            converted[name] = ours["prompt_encoder.point_embed.weight"][[int(match[1])]]
        else:
            theirs = name
            for pattern, replacement in NAMES:
                theirs = re.sub(pattern, replacement, theirs)
            converted[name] = ours.get(theirs, own)
    return converted


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Sam2Segmenter:
    torch.manual_seed(0)  # of the encoding of positions, which is no parameter
    folder = save(Sam2Model(Sam2Config(**SMALL)), tmp_path_factory.mktemp("sam2"))
    loaded = load_segmenter(config(folder))
    assert isinstance(loaded, Sam2Segmenter)
    of_images, of_prompts = loaded.net.shared_image_embedding, loaded.net.prompt_encoder.shared_embedding
    of_prompts.positional_embedding.copy_(of_images.positional_embedding)  # one tensor in Meta's code
    return loaded


@pytest.fixture(scope="module")
def meta(segmenter: Sam2Segmenter) -> Any:
    network, ours = meta_network(), segmenter.net.state_dict()
    converted = weights_of_meta(network.state_dict(), ours)
    network.load_state_dict(converted)
    used = {id(tensor) for tensor in converted.values()} | {id(ours["prompt_encoder.point_embed.weight"])}
    unused = {name for name, tensor in ours.items() if id(tensor) not in used}
    assert unused <= {"prompt_encoder.shared_embedding.positional_embedding"}, "a weight has no counterpart"
    return network


@torch.inference_mode()
def test_logits_and_scores_are_those_of_metas_code(
    segmenter: Sam2Segmenter, meta: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    pixels = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    boxes = torch.tensor([[3.0, 5.0, 40.3, 50.7], [10.0, 2.0, 60.0, 30.0], [0.0, 0.0, 64.0, 64.0]])
    owner = torch.tensor([0, 1, 1])
    logits, scores = segmenter.decode(segmenter.encode(pixels), owner, boxes)
    _, features, _, sizes = meta._prepare_backbone_features(meta.forward_image(pixels))
    features[-1] = features[-1] + meta.no_mem_embed
    fine, middle, coarse = (f.permute(1, 2, 0).unflatten(2, s) for f, s in zip(features, sizes, strict=True))
    for box, image, own_logits, own_score in zip(boxes, owner.tolist(), logits, scores, strict=True):
        sparse, dense = meta.sam_prompt_encoder((box.reshape(1, 2, 2), torch.tensor([[2, 3]])), None, None)
        theirs, score, _, _ = meta.sam_mask_decoder(
            image_embeddings=coarse[image][None],
            image_pe=meta.sam_prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=False,
            repeat_image=False,
            high_res_features=[fine[image][None], middle[image][None]],
        )
        with capsys.disabled():
            print(
                f"\nlogits differ by {(own_logits - theirs[0, 0]).abs().max():.1e} of {theirs.abs().max():.1f}", end=""
            )
        torch.testing.assert_close(own_logits, theirs[0, 0], atol=1e-4, rtol=0)
        torch.testing.assert_close(own_score, score[0, 0], atol=1e-4, rtol=0)


@torch.inference_mode()
def test_masks_are_those_of_metas_predictor(segmenter: Sam2Segmenter, meta: Any) -> None:
    """From the predictor's pixels, which it resizes by torchvision and not by Pillow."""
    from sam2.sam2_image_predictor import SAM2ImagePredictor

    predictor = SAM2ImagePredictor(meta)
    predictor._bb_feat_sizes = [(16, 16), (8, 8), (4, 4)]  # it expects images of 1,024 px
    for seed, (height, width) in enumerate(SIZES[:3]):
        image, boxes = picture(height, width, seed=seed), random_boxes(height, width, 3)
        predictor.set_image(image)
        theirs = np.stack([predictor.predict(box=box, multimask_output=False)[0][0] > 0 for box in boxes])
        pixels = predictor._transforms(image)[None]
        prepared = segmenter.prepare(image)
        torch.testing.assert_close(
            segmenter.preprocessing.batch([prepared], segmenter.device), pixels, atol=0.02, rtol=0
        )
        scale = torch.tensor([SIDE / width, SIDE / height]).repeat(2)
        owner = torch.zeros(len(boxes), dtype=torch.long)
        logits, _ = segmenter.decode(segmenter.encode(pixels), owner, torch.from_numpy(boxes) * scale)
        ours = np.stack(upscale(logits, prepared, segmenter.preprocessing))
        assert iou(ours, theirs) > 0.9999
        assert 0 < theirs.mean() < 1
