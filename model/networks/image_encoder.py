"""The frozen image encoder I_theta: the visual tower of OpenCLIP, without its text tower (App. A).

Axes: B images, R reference subjects, P patches.
"""

import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from model.config import PatchTokens
from model.errors import ModelWeightsError
from model.inputs.batch import ImageFeatures
from model.networks.network import Network
from model.openclip import OpenClipSettings, QuickGELU, VisionTransformer

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)
_VISION_KEYS = frozenset({"image_size", "layers", "width", "head_width", "patch_size", "mlp_ratio"})


class ImageEncoder(Network):
    """v_g, v = I_theta(x_s): the CLS embedding and the patch tokens of each subject's picture.

    Args:
        visual: visual tower, a plain ViT pooled by its class token.
        settings: OpenCLIP's settings of the model, with mean and standard deviation of its training pixels.
        patch_tokens: layer that v is taken from. v_g is always the class token after ln_post and projection, and is
            not normalised to length 1.
    """

    def __init__(self, visual: VisionTransformer, settings: OpenClipSettings, patch_tokens: PatchTokens) -> None:
        super().__init__()
        visual.output_tokens = True
        visual.final_ln_after_pool = patch_tokens is PatchTokens.BEFORE_LN_POST
        self.visual = visual
        self.settings = settings
        pixels = settings["preprocess_cfg"]
        self.side_px: int = visual.image_size[0]
        self.patches: int = visual.grid_size[0] * visual.grid_size[1]
        self.patch_width: int = visual.positional_embedding.shape[1]
        self.width: int = visual.output_dim
        self.mean = nn.Buffer(torch.tensor(pixels["mean"])[:, None, None], persistent=False)
        self.std = nn.Buffer(torch.tensor(pixels["std"])[:, None, None], persistent=False)

    @torch.no_grad()
    def forward(self, pictures: UInt8[Tensor, "B R 3 _s _s"]) -> ImageFeatures:
        """Return v_g and v of the subjects' pictures."""
        pixels = (pictures.flatten(0, 1).float() / 255.0 - self.mean) / self.std
        cls, patches = self.visual(pixels.to(self.visual.conv1.weight.dtype))
        return ImageFeatures(cls=cls.unflatten(0, pictures.shape[:2]), patches=patches.unflatten(0, pictures.shape[:2]))


def visual_tower(model_config: OpenClipSettings) -> VisionTransformer:
    """Build the visual tower of an OpenCLIP model configuration, with random weights.

    Raises:
        ModelWeightsError: the tower is not a plain ViT.
    """
    vision = model_config["vision_cfg"]
    if unknown := sorted(vision.keys() - _VISION_KEYS):
        raise ModelWeightsError(f"vision_cfg has {unknown}, so the tower is not a plain ViT: use one such as ViT-H-14")
    return VisionTransformer(
        image_size=vision["image_size"],
        patch_size=vision["patch_size"],
        width=vision["width"],
        layers=vision["layers"],
        heads=vision["width"] // vision.get("head_width", 64),
        mlp_ratio=vision.get("mlp_ratio", 4.0),
        output_dim=model_config["embed_dim"],
        act_layer=QuickGELU if model_config.get("quick_gelu", False) else nn.GELU,
        output_tokens=True,
    )
