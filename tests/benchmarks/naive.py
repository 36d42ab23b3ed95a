"""The baselines that the gates compare with, made of diffusers' own classes and nothing of ours.

N, naive: the stock UNet with its gated self-attention, attention unfused everywhere, all cross-attention maps kept, the
encoders run in every step. S: the same, but attention fused wherever no map is wanted, that is everywhere except in the
cross-attention layers at 32, 16 and 8 px. In both the frozen weights are marked as frozen.
"""

from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0
from torch import Tensor, nn

from model.bases import Base

TRAINED = ("conv_in", "fuser", "attn2.to_k", "attn2.to_v")


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


class Naive(nn.Module):
    """N, or S with `fused`. `maps` holds what the last forward pass kept."""

    def __init__(self, base: Base, fused: bool = False) -> None:
        super().__init__()
        self.unet = UNet2DConditionModel(**{**base.unet, "in_channels": 5, "attention_type": "gated"})
        self.unet.position_net = nn.Identity()
        self.width: int = self.unet.config.cross_attention_dim
        self.maps: dict[str, Tensor] = {}
        for name, module in self.unet.named_modules():
            if isinstance(module, Attention):
                kept = name.endswith("attn2") and not (fused and _at_full_side(name))
                module.set_processor(
                    MapKeeper(self.maps, name) if kept else AttnProcessor2_0() if fused else AttnProcessor()
                )
        for name, weight in self.unet.named_parameters():
            weight.requires_grad_(any(part in name for part in TRAINED))

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


def _at_full_side(name: str) -> bool:
    return name.startswith(("down_blocks.0", "up_blocks.3"))
