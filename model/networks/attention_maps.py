"""Attention of the UNet's blocks, and the maps of the entity tokens in the layers that Eq. 2 looks at.

Everything is fused attention but for those layers, where the probabilities are made explicitly, and of them only
the entities' columns are kept. The logarithm of the softmax's sum that fused kernels hand out would give the same maps
for nothing, but it carries no gradient, and the loss would pull the wrong way: do not use it.

Axes: B images, K entity tokens, N latent positions, T text tokens, D width, h heads, d width of a head.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field

import torch
from diffusers.models.attention_processor import Attention
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from model.networks.adapter import KeysValues


@dataclass(frozen=True)
class MapRecorder:
    """Gathers CA_l of one forward pass. Give a new one to each.

    Args:
        entity_tokens: how much each text token counts in an entity's map: rows add up to 1, or are 0 where the slot
            holds none.
        latent_size: H, W of z_t.
        maps: by the name of the layer, filled by the forward pass.
    """

    entity_tokens: Float[Tensor, "B K T"]
    latent_size: tuple[int, int]
    maps: dict[str, Float[Tensor, "B K _h _w"]] = field(default_factory=dict)


def cross_attention_map(
    probabilities: Float[Tensor, "B h N T"], entity_tokens: Float[Tensor, "B K T"]
) -> Float[Tensor, "B K N"]:
    """CA_l(z_t, y_k), where each latent position looks at entity k.

    Paper: Eq. 1,  CA_l(z_t, y_k) = Softmax(Q_l(z_t) · L_l(y_k)^T).

    Args:
        probabilities: softmax over all T text tokens, of which y_k's column is wanted.

    Choices: the logits carry the UNet's own 1/sqrt(d); mean over heads; a label of several tokens has the mean of
    their maps.
    """
    ca = probabilities.mean(dim=1, dtype=torch.float32)
    return entity_tokens.float() @ ca.transpose(1, 2)


class FusedAttention:
    """Attention processor of a layer whose map nobody wants.

    Args:
        index: place among the cross-attention layers, which is that of its keys and values made ahead; None for
            self-attention.
    """

    def __init__(self, index: int | None) -> None:
        self.index = index

    def __call__(
        self,
        attn: Attention,
        hidden_states: Float[Tensor, "B N D"],
        encoder_hidden_states: Float[Tensor, "B T _t"] | None = None,
        attention_mask: Tensor | None = None,
        text_keys_values: Sequence[KeysValues] = (),
        recorder: MapRecorder | None = None,
    ) -> Float[Tensor, "B N D"]:
        q = _split(attn, attn.to_q(hidden_states))
        if self.index is not None and text_keys_values:
            k, v = text_keys_values[self.index]
        else:
            k, v = keys_values(attn, hidden_states if encoder_hidden_states is None else encoder_hidden_states)
        return _merge(attn, self.attend(q, k, v, attention_mask, recorder))

    def attend(
        self,
        q: Float[Tensor, "B h N d"],
        k: Float[Tensor, "B h T d"],
        v: Float[Tensor, "B h T d"],
        attention_mask: Tensor | None,
        recorder: MapRecorder | None,
    ) -> Float[Tensor, "B h N d"]:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=attention_mask)


class RecordedAttention(FusedAttention):
    """Attention processor of a layer of Eq. 2: fused as well, but in a forward pass that records maps.

    Args:
        name: of the layer, the key of its map.
        downsampling: how much smaller than the latent its map is.
    """

    def __init__(self, index: int, name: str, downsampling: int) -> None:
        super().__init__(index)
        self.name = name
        self.downsampling = downsampling

    def attend(
        self,
        q: Float[Tensor, "B h N d"],
        k: Float[Tensor, "B h T d"],
        v: Float[Tensor, "B h T d"],
        attention_mask: Tensor | None,
        recorder: MapRecorder | None,
    ) -> Float[Tensor, "B h N d"]:
        if recorder is None:
            return super().attend(q, k, v, attention_mask, recorder)
        # Autocast would keep the probabilities twice, in two precisions. The meta device, which counts costs, has none.
        with nullcontext() if q.is_meta else torch.autocast(q.device.type, enabled=False):
            probabilities: Tensor = (q * q.shape[-1] ** -0.5 @ k.transpose(-1, -2)).softmax(dim=-1)
            ca = cross_attention_map(probabilities, recorder.entity_tokens)
            recorder.maps[self.name] = ca.reshape(*ca.shape[:2], *self._sides(recorder.latent_size))
            return probabilities @ v

    def _sides(self, latent_size: tuple[int, int]) -> tuple[int, int]:
        height, width = latent_size
        return -(-height // self.downsampling), -(-width // self.downsampling)


def keys_values(attn: Attention, states: Float[Tensor, "B T _t"]) -> KeysValues:
    """What the layer's queries look at."""
    return _split(attn, attn.to_k(states)), _split(attn, attn.to_v(states))


def _split(attn: Attention, x: Float[Tensor, "B T _w"]) -> Float[Tensor, "B h T d"]:
    return x.reshape(*x.shape[:2], attn.heads, -1).transpose(1, 2)


def _merge(attn: Attention, x: Float[Tensor, "B h N d"]) -> Float[Tensor, "B N D"]:
    out: Tensor = attn.to_out[0](x.transpose(1, 2).flatten(2))
    return out
