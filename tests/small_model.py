"""A small Stable Diffusion and OpenCLIP tower of the real classes, saved in the real layouts, and batches for them."""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

from model.config import ModelConfig
from model.inputs.batch import SubjectBatch
from model.inputs.prompt import Prompt, PromptTokenizer, clip_tokenizer
from model.networks.image_encoder import visual_tower
from model.subject_diffusion import SubjectDiffusion
from model.weights.bases import STABLE_DIFFUSION_2_BASE

IMAGE_PX, LATENT, CLS_WIDTH = 32, 16, 24
UNET: dict[str, Any] = {
    "sample_size": LATENT,
    "block_out_channels": (16, 16, 32, 32),
    "layers_per_block": 1,
    "cross_attention_dim": 32,
    "attention_head_dim": (2, 2, 4, 4),
    "norm_num_groups": 8,
    "use_linear_projection": True,
}
TWO_LEVELS: dict[str, Any] = UNET | {
    "block_out_channels": (16, 32),
    "attention_head_dim": (2, 4),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
}
VAE: dict[str, Any] = {
    "block_out_channels": (8, 8),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "latent_channels": 4,
    "norm_num_groups": 4,
    "scaling_factor": 0.18215,
}
TEXT: dict[str, Any] = {
    "vocab_size": 49408,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "bos_token_id": 49406,
    "eos_token_id": 49407,
}
OPEN_CLIP: dict[str, Any] = {
    "model_cfg": {
        "embed_dim": CLS_WIDTH,
        "vision_cfg": {"image_size": 28, "layers": 2, "width": 32, "head_width": 16, "patch_size": 7},
    },
    "preprocess_cfg": {"mean": [0.48, 0.46, 0.41], "std": [0.27, 0.26, 0.28]},
}


def write_base(folder: Path, **scheduler: Any) -> Path:
    """Write a base in diffusers' layout with random weights; `scheduler` overrides settings of its scheduler."""
    torch.manual_seed(0)
    UNet2DConditionModel(**UNET).save_pretrained(folder / "unet")
    AutoencoderKL(**VAE).save_pretrained(folder / "vae")
    CLIPTextModel(CLIPTextConfig(**TEXT)).save_pretrained(folder / "text_encoder")
    clip_tokenizer().save_pretrained(folder / "tokenizer")
    PNDMScheduler(**STABLE_DIFFUSION_2_BASE.scheduler | scheduler).save_pretrained(folder / "scheduler")
    return folder


def write_image_encoder(folder: Path) -> Path:
    """Write a visual tower in OpenCLIP's hub layout, with a tensor of the text tower, which must not be read."""
    torch.manual_seed(0)
    folder.mkdir(parents=True)
    tensors = {f"visual.{name}": tensor for name, tensor in visual_tower(OPEN_CLIP["model_cfg"]).state_dict().items()}
    save_file(tensors | {"token_embedding.weight": torch.zeros(1)}, folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps(OPEN_CLIP))
    return folder


def small_config(folder: Path, **settings: Any) -> ModelConfig:
    """Return the paper's settings with a small base in `folder`, which is written if it is missing."""
    base, image_encoder = folder / "base", folder / "image_encoder"
    if not base.exists():
        write_base(base)
        write_image_encoder(image_encoder)
    return ModelConfig(base=str(base), image_encoder=str(image_encoder), **settings)


def two_level_config(folder: Path, **settings: Any) -> ModelConfig:
    """Return the paper's settings with a base of two levels in `folder`, which is written if it is missing.

    A step of its UNet takes half as long as one of `small_config`.
    """
    new = not (folder / "base").exists()
    config = small_config(folder, attention_downsampling=(1, 2), **settings)
    if new:
        UNet2DConditionModel(**TWO_LEVELS).save_pretrained(folder / "base" / "unet")
    return config


def open_gates(net: SubjectDiffusion, value: float = 0.7) -> SubjectDiffusion:
    """Set all gates of `net` to `value`, so that its adapters act as if trained."""
    with torch.no_grad():
        for name, weight in net.named_parameters():
            if name.endswith("gamma"):
                weight.fill_(value)
    return net


def small_batch(prompts: PromptTokenizer, *labels: list[str | None], seed: int = 0) -> SubjectBatch:
    """Return a batch with one image per list of labels; None marks an absent slot."""
    random = torch.Generator().manual_seed(seed)
    images, slots = len(labels), max(map(len, labels))
    tokens = prompts([Prompt("a photo", one) for one in labels])
    corners = torch.rand(images, slots, 2, 2, generator=random).sort(dim=2).values
    return SubjectBatch(
        prompts=tokens,
        boxes=corners.flatten(2),
        masks=(torch.rand(images, slots, LATENT, LATENT, generator=random) > 0.5).float(),
        present=tokens.placeholder_positions >= 0,
        images=torch.randint(0, 256, (images, 3, IMAGE_PX, IMAGE_PX), generator=random, dtype=torch.uint8),
        subject_images=torch.randint(0, 256, (images, slots, 3, 28, 28), generator=random, dtype=torch.uint8),
    )
