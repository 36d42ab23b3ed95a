"""Encoders that published protocols use, each with the preprocessing of its authors.

A protocol pins one of these. "DINO" in a table is ViT-S/16 of the first DINO unless the publication names another:
DreamBench++ takes ViT-S/8 and DINOv2. "CLIP" is OpenAI's, which was trained with QuickGELU; OpenCLIP's names without
`-quickgelu` build the same network with another activation, and load OpenAI's weights without an error.
"""

from evaluation.protocols import Activation, EncoderSpec

_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
_OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)

DINO_VITS16 = EncoderSpec(
    name="DINO ViT-S/16",
    metric="DINO",
    architecture="dino_vits16",
    weights="facebook/dino-vits16",
    embedding_size=384,
    resize_px=256,
    crop_px=224,
    mean=_IMAGENET_MEAN,
    std=_IMAGENET_STD,
    activation=Activation.GELU,
)
"""DINO (Caron et al. 2021) of DreamBooth's metric; CLS after the last layer norm."""
DINO_VITS8 = DINO_VITS16.model_copy(
    update={"name": "DINO ViT-S/8", "architecture": "dino_vits8", "weights": "facebook/dino-vits8"}
)
"""DINO with patches of 8 pixels, of DreamBench++."""
DINOV2_VITS14 = DINO_VITS16.model_copy(
    update={
        "name": "DINOv2 ViT-S/14",
        "metric": "DINOv2",
        "architecture": "dinov2_vits14",
        "weights": "facebook/dinov2-small",
    }
)
"""DINOv2 (Oquab et al. 2023) of DreamBench++; CLS after the last layer norm."""
CLIP_VITB32 = EncoderSpec(
    name="CLIP ViT-B/32",
    metric="CLIP-I",
    architecture="ViT-B-32-quickgelu",
    weights="openai/clip-vit-base-patch32",
    embedding_size=512,
    resize_px=224,
    crop_px=224,
    mean=_OPENAI_MEAN,
    std=_OPENAI_STD,
    activation=Activation.QUICK_GELU,
)
"""OpenAI's CLIP (Radford et al. 2021) that the community takes for CLIP-I and CLIP-T; DreamBooth names no variant."""
CLIP_VITL14 = CLIP_VITB32.model_copy(
    update={
        "name": "CLIP ViT-L/14",
        "architecture": "ViT-L-14-quickgelu",
        "weights": "openai/clip-vit-large-patch14",
        "embedding_size": 768,
    }
)
"""OpenAI's CLIP of FastComposer's prompt score."""
SPECS = (DINO_VITS16, DINO_VITS8, DINOV2_VITS14, CLIP_VITB32, CLIP_VITL14)
"""All encoders of published protocols."""
