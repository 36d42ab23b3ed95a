"""The baselines that the gates compare with, made of other people's classes and nothing of ours.

N, naive: diffusers' UNet with its gated self-attention, attention unfused everywhere, all cross-attention maps kept,
the encoders run in every step. S: the same, but attention fused wherever no map is wanted, that is everywhere except in
the cross-attention layers at 32, 16 and 8 px. In both the frozen weights are marked as frozen.
"""

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextConfig, CLIPTextModel

from model.weights.bases import Base

TRAINED = ("conv_in", "fuser", "attn2.to_k", "attn2.to_v")
OURS = {  # names of the gated self-attention's weights in our adapter
    "fuser.linear.": "fuser.S.from_tokens.",
    "fuser.norm1.": "fuser.S.norm.",
    "fuser.attn.to_out.0.": "fuser.S.to_out.",
    "fuser.attn.": "fuser.S.",
    "fuser.alpha_attn": "fuser.gamma",
    "fuser.alpha_dense": "fuser.feed_forward.gamma",
    "fuser.norm2.": "fuser.feed_forward.norm.",
    "fuser.ff.": "fuser.feed_forward.feed_forward.",
}


class MapKeeper:
    """diffusers' AttnProcessor, unfused, which also keeps the probabilities."""

    def __init__(self, maps: dict[str, Tensor], name: str) -> None:
        self.maps, self.name = maps, name

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        query = attn.head_to_batch_dim(attn.to_q(hidden_states))
        key = attn.head_to_batch_dim(attn.to_k(encoder_hidden_states))
        value = attn.head_to_batch_dim(attn.to_v(encoder_hidden_states))
        self.maps[self.name] = probabilities = attn.get_attention_scores(query, key, attention_mask)
        out: Tensor = attn.to_out[0](attn.batch_to_head_dim(probabilities @ value))
        return out


class NaiveUNet(nn.Module):
    """The UNet of N, or of S with `fused`. `maps` holds what the last forward pass kept."""

    def __init__(self, base: Base, fused: bool = False) -> None:
        super().__init__()
        self.unet = UNet2DConditionModel(**{**base.unet, "in_channels": 5, "attention_type": "gated"})
        self.unet.position_net = nn.Identity()
        self.maps: dict[str, Tensor] = {}
        for name, module in self.unet.named_modules():
            if isinstance(module, Attention):
                module.set_processor(self._processor(name, fused))
        for name, weight in self.unet.named_parameters():
            weight.requires_grad_(any(part in name for part in TRAINED))

    def _processor(self, name: str, fused: bool) -> Any:
        if name.endswith("attn2") and not (fused and _at_full_side(name)):
            return MapKeeper(self.maps, name)
        return AttnProcessor2_0() if fused else AttnProcessor()

    def forward(self, latent: Tensor, t: Tensor, text: Tensor, image_tokens: Tensor) -> Tensor:
        """
        Args:
            latent: [B 5 H W], the location mask included.
            text: [B 77 D].
            image_tokens: [B 256 R, D].
        """
        self.maps.clear()
        objects = {"gligen": {"input": image_tokens}}
        prediction: Tensor = self.unet(latent, t, text, cross_attention_kwargs=objects).sample
        return prediction

    def map_loss(self, entities: Tensor, masks: Tensor) -> Tensor:
        """The L1 loss on the maps of the layers at 32, 16 and 8 px.

        Args:
            entities: [B K T], weights of the tokens.
            masks: [B K H W].
        """
        total = masks.new_zeros(())
        for name, probabilities in self.maps.items():
            if not _at_full_side(name):
                positions, side = probabilities.shape[1], int(probabilities.shape[1] ** 0.5)
                mean = probabilities.reshape(len(entities), -1, positions, entities.shape[-1]).mean(dim=1)
                ca = (entities.to(mean.dtype) @ mean.transpose(1, 2)).reshape(*entities.shape[:2], side, side)
                total = total + (ca - F.interpolate(masks, size=(side, side), mode="area")).abs().mean()
        return total


class NaiveModel(nn.Module):
    """All networks of N or S, and their training loss."""

    def __init__(self, base: Base, visual: VisionTransformer, fused: bool = False) -> None:
        super().__init__()
        self.vae = AutoencoderKL(**base.vae).requires_grad_(False)
        self.visual = visual.requires_grad_(False)
        self.text_encoder = CLIPTextModel(CLIPTextConfig(**base.text_encoder))
        self.unet = NaiveUNet(base, fused)
        patch_width, width = visual.positional_embedding.shape[1], self.unet.unet.config.cross_attention_dim
        self.perceptron = nn.Sequential(
            nn.LayerNorm(patch_width), nn.Linear(patch_width, width), nn.GELU(), nn.Linear(width, width)
        )
        self.scheduler = DDPMScheduler.from_config(base.scheduler)

    def loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        """
        Args:
            batch: `pixels` [B 3 h w] or `z_0` [B 4 H W], `pictures` [B R 3 s s], `token_ids` [B T],
                `entities` [B K T], `masks` [B K H W].
        """
        z_0 = batch["z_0"] if "z_0" in batch else self.encoded(batch["pixels"])
        eps = torch.randn_like(z_0)
        t = torch.randint(1000, (len(z_0),), device=z_0.device)
        z_t = eps if z_0.is_meta else self.scheduler.add_noise(z_0, eps, t)
        text = self.text_encoder(batch["token_ids"]).last_hidden_state
        tokens = self.perceptron(self.patches(batch["pictures"]))
        prediction = self.unet(torch.cat([z_t, z_t[:, :1]], dim=1), t, text, tokens)
        return F.mse_loss(prediction, eps) + 0.01 * self.unet.map_loss(batch["entities"], batch["masks"])

    @torch.no_grad()
    def encoded(self, pixels: Tensor) -> Tensor:
        z_0: Tensor = self.vae.encode(pixels).latent_dist.mode() * self.vae.config.scaling_factor
        return z_0

    @torch.no_grad()
    def patches(self, pictures: Tensor) -> Tensor:
        """[B 256 R, width] of [B R 3 s s]."""
        tokens: Tensor = self.visual(pictures.flatten(0, 1))[1]
        return tokens.reshape(len(pictures), -1, tokens.shape[-1])


def our_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a `NaiveUNet` as those of our `SubjectUNet`."""
    renamed = {}
    for name, weight in state.items():
        ours = name.replace("unet.", "base.", 1)
        for theirs, our in OURS.items():
            ours = ours.replace(theirs, our)
        renamed[ours] = weight
    return renamed


def _at_full_side(name: str) -> bool:
    return name.startswith(("down_blocks.0", "up_blocks.3"))
