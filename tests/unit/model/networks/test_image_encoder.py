"""I_theta: OpenCLIP's own tower, its two ways of giving patch tokens, and nothing of its text tower."""

import open_clip
import pytest
import torch
from torch import Tensor

from model.config import PatchTokens
from model.errors import ModelWeightsError
from model.networks.image_encoder import ImageEncoder, visual_tower
from tests.small_model import CLS_WIDTH, OPEN_CLIP


def encoder(patch_tokens: PatchTokens = PatchTokens.AFTER_LN_POST) -> ImageEncoder:
    torch.manual_seed(0)
    visual = visual_tower(OPEN_CLIP["model_cfg"])
    with torch.no_grad():
        visual.ln_post.weight.normal_()
    return ImageEncoder(visual, OPEN_CLIP, patch_tokens).eval()


def pictures() -> Tensor:
    return torch.randint(0, 256, (2, 3, 3, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def inside(ours: ImageEncoder) -> Tensor:
    """The transformer's own tokens, class token first, before ln_post."""
    mean, std = (torch.tensor(OPEN_CLIP["preprocess_cfg"][key])[:, None, None] for key in ("mean", "std"))
    return ours.visual.transformer(ours.visual._embeds((pictures().flatten(0, 1) / 255.0 - mean) / std))


@torch.no_grad()
def test_patch_tokens_are_taken_after_or_before_ln_post():
    after, before = encoder(PatchTokens.AFTER_LN_POST), encoder(PatchTokens.BEFORE_LN_POST)
    tokens = inside(after)
    normed = after.visual.ln_post(tokens)
    assert torch.allclose(after(pictures()).patches.flatten(0, 1), normed[:, 1:], atol=1e-5)
    assert torch.allclose(before(pictures()).patches.flatten(0, 1), tokens[:, 1:], atol=1e-5)
    assert not torch.allclose(normed[:, 1:], tokens[:, 1:], atol=0.1)


@torch.no_grad()
@pytest.mark.parametrize("patch_tokens", PatchTokens)
def test_cls_is_the_projected_class_token_either_way(patch_tokens):
    ours = encoder(patch_tokens)
    expected = ours.visual.ln_post(inside(ours)[:, 0]) @ ours.visual.proj
    features = ours(pictures())
    assert torch.allclose(features.cls.flatten(0, 1), expected, atol=1e-5)
    assert features.cls.shape == (2, 3, CLS_WIDTH)
    assert features.patches.shape == (2, 3, 16, 32)


def test_no_gradient_is_kept():
    assert not encoder()(pictures()).patches.requires_grad


def test_vit_h_14_is_the_papers_encoder_to_the_parameter():
    """The tower alone has the visual parameters of open_clip's whole model, the patches and widths of the paper."""
    with torch.device("meta"):
        whole = open_clip.CLIP(**open_clip.get_model_config("ViT-H-14"))
        alone = visual_tower(open_clip.get_model_config("ViT-H-14"))
    shapes = {name: tensor.shape for name, tensor in alone.state_dict().items()}
    assert shapes == {name: tensor.shape for name, tensor in whole.visual.state_dict().items()}
    ours = ImageEncoder(alone, open_clip.get_model_config("ViT-H-14") | OPEN_CLIP, PatchTokens.AFTER_LN_POST)
    assert (ours.patches, ours.patch_width, ours.width, ours.side_px) == (256, 1280, 1024, 224)


@pytest.mark.parametrize("extra", [{"timm_model_name": "resnet50"}, {"attentional_pool": True}])
def test_other_towers_are_refused(extra):
    vision = OPEN_CLIP["model_cfg"]["vision_cfg"] | extra
    with pytest.raises(ModelWeightsError, match=next(iter(extra))):
        visual_tower(OPEN_CLIP["model_cfg"] | {"vision_cfg": vision})
