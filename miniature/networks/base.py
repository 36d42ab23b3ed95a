"""A small Stable Diffusion: the real classes of its parts, in diffusers' folder layout.

The schedule is the squared cosine with velocity prediction, and its last timestep is pure noise. It needs a scheduler
that supports `rescale_betas_zero_snr` and starts at the last timestep, such as DDIM.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import nn
from transformers import CLIPTokenizer

from miniature.networks import text
from miniature.networks.latent import SHAPE, LatentShape

UNET: dict[str, object] = {
    "block_out_channels": (64, 96, 128),
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 1,
    "cross_attention_dim": text.WIDTH,
    "norm_num_groups": 16,
    "use_linear_projection": True,
}
SCHEDULER: dict[str, object] = {
    "num_train_timesteps": 1000,
    "beta_schedule": "squaredcos_cap_v2",
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
    "set_alpha_to_one": True,
    "steps_offset": 1,
    "clip_sample": False,
}


HEADS = (1, 1, 2)
"""Attention heads of each resolution, from the highest."""


class Base(nn.Module):
    """The trained parts of a base: the UNet and the text encoder."""

    def __init__(self, tokens: CLIPTokenizer, shape: LatentShape, heads: Sequence[int]) -> None:
        super().__init__()
        self.unet = UNet2DConditionModel(
            **UNET,
            sample_size=shape.side_px // shape.patch_px,
            in_channels=shape.channels,
            out_channels=shape.channels,
            attention_head_dim=tuple(heads),  # diffusers' name for the number of heads
        )
        self.text_encoder = text.build(tokens)


def build(tokens: CLIPTokenizer, seed: int, shape: LatentShape = SHAPE, heads: Sequence[int] = HEADS) -> Base:
    """Return the networks with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Base(tokens, shape, heads)


def save(base: Base, tokens: CLIPTokenizer, vae: AutoencoderKL, folder: Path) -> None:
    """Write the folder that `model.base` names, and that `StableDiffusionPipeline.from_pretrained` loads."""
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=base.text_encoder,
        tokenizer=tokens,
        unet=base.unet,
        scheduler=DDIMScheduler(**SCHEDULER),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)
