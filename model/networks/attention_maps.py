"""Attention of the UNet's blocks, and the attention maps of entity tokens in the layers of Eq. 2.

All layers use fused attention, except the layers of Eq. 2: they compute the attention probabilities explicitly and keep
only the columns of the entities. Do not compute the maps from the log-sum-exp that fused kernels return: the values
would be right, but the log-sum-exp carries no gradient, so the gradient of the loss would be wrong.

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
    """Attention maps CA_l recorded during one forward pass; every pass needs a new recorder.

    Args:
        entity_tokens: weight of each text token in an entity's map. A row sums to 1, or to 0 in an absent slot.
        latent_size: height and width of the latent.
        maps: recorded maps by the name of their layer.
    """

    entity_tokens: Float[Tensor, "B K T"]
    latent_size: tuple[int, int]
    maps: dict[str, Float[Tensor, "B K _h _w"]] = field(default_factory=dict)


def cross_attention_map(
    probabilities: Float[Tensor, "B h N T"], entity_tokens: Float[Tensor, "B K T"]
) -> Float[Tensor, "B K N"]:
    """Return CA_l(z_t, y_k), the attention of each latent position to entity k.

    Paper: Eq. 1,  CA_l(z_t, y_k) = Softmax(Q_l(z_t) · L_l(y_k)^T).

    Args:
        probabilities: softmax over all T text tokens.
        entity_tokens: weight of each text token in an entity's map.

    Choices: the logits are scaled by the UNet's own 1/sqrt(d); heads are averaged; the map of a label with several
    tokens is the mean of their maps.
    """
    ca = probabilities.mean(dim=1, dtype=torch.float32)
    return entity_tokens.float() @ ca.transpose(1, 2)


class FusedAttention:
    """Attention processor of a layer whose map is not recorded.

    Args:
        index: index among the cross-attention layers, and so of the keys and values projected in advance; None for
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
        """Return the attention of `hidden_states` to the text, or to themselves; diffusers calls this."""
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
        """Return the attended values by fused attention."""
        return F.scaled_dot_product_attention(q, k, v, attn_mask=attention_mask)


class RecordedAttention(FusedAttention):
    """Attention processor of a layer of Eq. 2: fused, except in a forward pass with a recorder.

    Args:
        index: index among the cross-attention layers.
        name: name of the layer, the key of its map.
        downsampling: factor by which its map is smaller than the latent.
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
        """Return the attended values; with a recorder, also record the map of each entity."""
        if recorder is None:
            return super().attend(q, k, v, attention_mask, recorder)
        # Autocast would keep the probabilities in two precisions. The meta device has no autocast.
        with nullcontext() if q.is_meta else torch.autocast(q.device.type, enabled=False):
            probabilities: Tensor = (q * q.shape[-1] ** -0.5 @ k.transpose(-1, -2)).softmax(dim=-1)
            ca = cross_attention_map(probabilities, recorder.entity_tokens)
            recorder.maps[self.name] = ca.reshape(*ca.shape[:2], *self._sides(recorder.latent_size))
            return probabilities @ v

    def _sides(self, latent_size: tuple[int, int]) -> tuple[int, int]:
        height, width = latent_size
        return -(-height // self.downsampling), -(-width // self.downsampling)


def keys_values(attn: Attention, states: Float[Tensor, "B T _t"]) -> KeysValues:
    """Return the layer's keys and values of `states`."""
    return _split(attn, attn.to_k(states)), _split(attn, attn.to_v(states))


def _split(attn: Attention, x: Float[Tensor, "B T _w"]) -> Float[Tensor, "B h T d"]:
    return x.reshape(*x.shape[:2], attn.heads, -1).transpose(1, 2)


def _merge(attn: Attention, x: Float[Tensor, "B h N d"]) -> Float[Tensor, "B N D"]:
    out: Tensor = attn.to_out[0](x.transpose(1, 2).flatten(2))
    return out
