"""A small Stable Diffusion: the real classes of its parts, 64 px, in diffusers' folder layout.

The schedule is the squared cosine with velocity prediction, and its last timestep is pure noise. It needs a scheduler
that supports `rescale_betas_zero_snr` and starts at the last timestep, such as DDIM.
"""

from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import nn
from transformers import CLIPTokenizer

from miniature.networks import latent, text

UNET: dict[str, object] = {
    "sample_size": latent.SIDE_PX // latent.PATCH_PX,
    "in_channels": latent.CHANNELS,
    "out_channels": latent.CHANNELS,
    "block_out_channels": (64, 96, 128),
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 1,
    "cross_attention_dim": text.WIDTH,
    "attention_head_dim": (1, 1, 2),  # diffusers' name for the number of heads
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


class Base(nn.Module):
    """The trained parts of a base: the UNet and the text encoder."""

    def __init__(self, tokens: CLIPTokenizer) -> None:
        super().__init__()
        self.unet = UNet2DConditionModel(**UNET)
        self.text_encoder = text.build(tokens)


def build(tokens: CLIPTokenizer, seed: int) -> Base:
    """Return the networks with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Base(tokens)


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
