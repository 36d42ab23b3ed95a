"""epsilon_theta's trunk: the stock diffusers UNet with adapters, a wider conv_in and attention that can be recorded.

Nothing of the UNet is copied. The stock transformer block calls its `fuser` between self- and cross-attention when it
is given one, conv_in is replaced by a wider one, and the attention layers get our processors.

Axes: B images, C latent channels, H W rows and columns of the latent, T text tokens, D width.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention import BasicTransformerBlock
from jaxtyping import Float, Num
from torch import Tensor, nn

from model.config import ModelConfig
from model.networks.adapter import AdapterInputs, KeysValues, SubjectAdapter
from model.networks.attention_maps import FusedAttention, MapRecorder, RecordedAttention, keys_values
from model.networks.location import concatenate_location_mask, ignore_location_mask


@dataclass(frozen=True)
class Conditions:
    """All that epsilon_theta is given besides z_t and t."""

    text: Float[Tensor, "B T D"]
    """C, what the fusion text encoder makes of prompt and CLS."""
    adapter: AdapterInputs | None = None
    """h_e; None turns the adapters off. A network without adapters does not look at it."""
    location_mask: Float[Tensor, "B 1 H W"] | None = None
    """l_m at the latent's size. A network without location control does not look at it; any other needs it."""
    text_keys_values: Sequence[KeysValues] = ()
    """The text as each cross-attention layer's keys and values, where they were projected ahead."""


class SubjectUNet(nn.Module):
    """epsilon_theta(z_t, t, conditions).

    Args:
        base: the stock UNet; it is changed in place and becomes `self.base`.
    """

    def __init__(self, base: UNet2DConditionModel, config: ModelConfig) -> None:
        super().__init__()
        self.base = base
        self.latent_channels: int = base.config.in_channels
        self._input = concatenate_location_mask if config.use_location_control else ignore_location_mask
        if config.use_location_control:
            _widen_conv_in(base)
        self._for_adapters = _as_gligen if config.use_adapter else _to_nobody
        if config.use_adapter:
            _insert_adapters(base, config)
        _set_attention(base, config.attention_downsampling if config.use_attention_control else ())

    def forward(
        self,
        noisy_latent: Float[Tensor, "B C H W"],
        timesteps: Num[Tensor, " B"],
        conditions: Conditions,
        recorder: MapRecorder | None = None,
    ) -> Float[Tensor, "B C H W"]:
        """The noise, or the velocity, as the base's scheduler has it.

        Args:
            recorder: takes the maps of the layers of Eq. 2.
        """
        z_t = self._input(noisy_latent, conditions.location_mask)
        prediction: Tensor = self.base(
            z_t,
            timesteps,
            encoder_hidden_states=conditions.text,
            cross_attention_kwargs={
                "recorder": recorder,
                "text_keys_values": conditions.text_keys_values,
                **self._for_adapters(conditions.adapter),
            },
            return_dict=False,
        )[0]
        return prediction

    def project_keys_values(self, conditions: Conditions) -> Conditions:
        """`conditions` with every layer's keys and values made, which stay the same over all steps of a sampler."""
        text = tuple(keys_values(block.attn2, conditions.text) for _, block in _blocks(self.base))
        if conditions.adapter is None:
            return replace(conditions, text_keys_values=text)
        tokens, centres = conditions.adapter.tokens, conditions.adapter.patch_centres
        objects = tuple(adapter.S.keys_values(tokens, centres) for adapter in self.adapters())
        return replace(conditions, text_keys_values=text, adapter=replace(conditions.adapter, keys_values=objects))

    def blocks(self) -> Iterator[BasicTransformerBlock]:
        """The transformer blocks, in the order of their adapters."""
        return (block for _, block in _blocks(self.base))

    def adapters(self) -> Iterator[SubjectAdapter]:
        """The adapters, in the order of their `index`."""
        return (module for module in self.base.modules() if isinstance(module, SubjectAdapter))

    def gates(self) -> dict[str, float]:
        """tanh(gamma) of each adapter, by its place in the UNet."""
        return {name: float(block.fuser.gamma.detach().tanh()) for name, block in _blocks(self.base)}


def _as_gligen(inputs: AdapterInputs | None) -> dict[str, Any]:
    return {} if inputs is None else {"gligen": {"objs": inputs}}


def _to_nobody(inputs: AdapterInputs | None) -> dict[str, Any]:
    return {}


class _Given(nn.Module):
    """Where diffusers would make the adapter tokens from boxes: ours come ready."""

    def forward(self, objs: AdapterInputs) -> AdapterInputs:
        return objs


def _widen_conv_in(base: UNet2DConditionModel) -> None:
    """A fifth input channel for l_m whose weights are zero, so that the base's outputs stay as they are at first."""
    old = base.conv_in
    new = nn.Conv2d(
        old.in_channels + 1,
        old.out_channels,
        old.kernel_size,
        padding=old.padding,
        device=old.weight.device,
        dtype=old.weight.dtype,
    )
    with torch.no_grad():
        new.weight.zero_()
        new.weight[:, : old.in_channels] = old.weight
    new.bias = old.bias
    base.conv_in = new
    base.register_to_config(in_channels=new.in_channels)


def _insert_adapters(base: UNet2DConditionModel, config: ModelConfig) -> None:
    base.position_net = _Given()
    for index, (_, block) in enumerate(_blocks(base)):
        block.fuser = SubjectAdapter(
            index=index,
            width=block.dim,
            heads=block.attn1.heads,
            inner_width=block.attn1.inner_dim,
            token_width=base.config.cross_attention_dim,
            config=config,
        )


def _set_attention(base: UNet2DConditionModel, recorded: Sequence[int]) -> None:
    for index, (name, block) in enumerate(_blocks(base)):
        block.attn1.set_processor(FusedAttention(index=None))
        scale = downsampling(name, len(base.config.block_out_channels))
        block.attn2.set_processor(RecordedAttention(index, name, scale) if scale in recorded else FusedAttention(index))


def _blocks(base: UNet2DConditionModel) -> Iterator[tuple[str, BasicTransformerBlock]]:
    return ((name, module) for name, module in base.named_modules() if isinstance(module, BasicTransformerBlock))


def downsampling(name: str, levels: int) -> int:
    """How much smaller than the latent the maps of the block `name` are: 1, 2, 4 or 8 in SD's UNet of 4 levels."""
    place = re.match(r"(down|mid|up)_block(?:s\.(\d+))?", name)
    assert place is not None, name
    depth = {"down": int(place[2] or 0), "mid": levels - 1, "up": levels - 1 - int(place[2] or 0)}[place[1]]
    return 1 << min(depth, levels - 1)
