"""The denoiser epsilon_theta: the stock diffusers UNet with adapters, a wider conv_in and recorded attention maps.

No code of the UNet is copied. The adapter takes the place of the stock transformer block's `fuser`, which runs between
self- and cross-attention; conv_in is replaced by a wider layer; the attention layers get our processors.

Axes: B images, C latent channels, H W rows and columns of the latent, T text tokens, D width.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.unets.unet_2d_blocks import CrossAttnDownBlock2D
from diffusers.utils.accelerate_utils import apply_forward_hook
from jaxtyping import Float, Num
from torch import Tensor, nn

from model.config import ModelConfig
from model.networks.adapter import AdapterInputs, KeysValues, SubjectAdapter
from model.networks.attention_maps import FusedAttention, MapRecorder, RecordedAttention, keys_values
from model.networks.location import concatenate_location_mask, ignore_location_mask
from model.networks.network import Network


@dataclass(frozen=True)
class Conditions:
    """Conditions of epsilon_theta, its inputs besides z_t and t."""

    text: Float[Tensor, "B T D"]
    """Text condition C from the fusion text encoder."""
    adapter: AdapterInputs | None = None
    """Image tokens h_e; None turns the adapters off. Ignored by a network without adapters."""
    location_mask: Float[Tensor, "B 1 H W"] | None = None
    """Location mask l_m at the latent's size. Required with location control, ignored without it."""
    text_keys_values: Sequence[KeysValues] = ()
    """Keys and values of the text for each cross-attention layer; empty unless they were projected in advance."""


class SubjectUNet(Network):
    """epsilon_theta(z_t, t, conditions).

    Args:
        base: the stock UNet, which is changed in place and becomes `self.base`.
        config: settings of the model.
    """

    def __init__(self, base: UNet2DConditionModel, config: ModelConfig) -> None:
        super().__init__()
        self.base = base
        self.settings = config
        self.latent_channels: int = base.config.in_channels
        self._input = concatenate_location_mask if config.use_location_control else ignore_location_mask
        if config.use_location_control:
            _widen_conv_in(base)
        self._adapter_arguments = _gligen_arguments if config.use_adapter else _no_arguments
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
        """Predict the noise, or the velocity if the base predicts velocities.

        Args:
            noisy_latent: the latent z_t.
            timesteps: timestep t of each image.
            conditions: text, image tokens and location mask.
            recorder: records the attention maps of the layers of Eq. 2.
        """
        z_t = self._input(noisy_latent, conditions.location_mask)
        prediction: Tensor = self.base(
            z_t,
            timesteps,
            encoder_hidden_states=conditions.text,
            cross_attention_kwargs={
                "recorder": recorder,
                "text_keys_values": conditions.text_keys_values,
                **self._adapter_arguments(conditions.adapter),
            },
            return_dict=False,
        )[0]
        return prediction

    def project_keys_values(self, conditions: Conditions) -> Conditions:
        """Return `conditions` with the keys and values of all layers, which are the same in all sampler steps."""
        text, adapter = self.project_text(conditions.text), conditions.adapter
        if adapter is not None and not adapter.keys_values:
            adapter = replace(adapter, keys_values=self.project_tokens(adapter.tokens, adapter.patch_centres))
        return replace(conditions, text_keys_values=text, adapter=adapter)

    @apply_forward_hook  # type: ignore[untyped-decorator]  # with model offload, brings the weights to the device
    def project_text(self, text: Float[Tensor, "B T D"]) -> tuple[KeysValues, ...]:
        """Return keys and values of the text for each cross-attention layer."""
        return tuple(keys_values(block.attn2, text) for _, block in _blocks(self.base))

    @apply_forward_hook  # type: ignore[untyped-decorator]
    def project_tokens(
        self, tokens: Float[Tensor, "A M D"], centres: Float[Tensor, "A M 2"] | None
    ) -> tuple[KeysValues, ...]:
        """Return keys and values of the image tokens for each adapter.

        Args:
            tokens: image tokens h_e.
            centres: centre of each token's patch in the image, for adapters with a position code.
        """
        return tuple(adapter.S.keys_values(tokens, centres) for adapter in self.adapters())

    def blocks(self) -> Iterator[BasicTransformerBlock]:
        """Return the transformer blocks, in the order of their adapters."""
        return (block for _, block in _blocks(self.base))

    def adapters(self) -> Iterator[SubjectAdapter]:
        """Return the adapters, in the order of their `index`."""
        return (module for module in self.base.modules() if isinstance(module, SubjectAdapter))

    def layers_before_text(self) -> tuple[nn.Module, ...]:
        """Return the layers before the first cross-attention that take time; their outputs do not depend on the text.

        There are none if the first block has no cross-attention.
        """
        first = self.base.down_blocks[0]
        if not isinstance(first, CrossAttnDownBlock2D):
            return ()
        block = first.attentions[0].transformer_blocks[0]
        return (first.resnets[0], block.attn1, *((block.fuser,) if self.settings.use_adapter else ()))

    def gates(self) -> dict[str, float]:
        """Return tanh(gamma) of each adapter by the name of its block in the UNet."""
        return {name: float(block.fuser.gamma.detach().tanh()) for name, block in _blocks(self.base)}


def _gligen_arguments(inputs: AdapterInputs | None) -> dict[str, object]:
    """Return the keyword arguments by which diffusers hands `inputs` to the adapters."""
    return {} if inputs is None else {"gligen": {"objs": inputs}}


def _no_arguments(inputs: AdapterInputs | None) -> dict[str, object]:
    return {}


class _PassThrough(nn.Module):
    """Replacement for the diffusers module that makes adapter tokens from boxes; our tokens are ready."""

    def forward(self, objs: AdapterInputs) -> AdapterInputs:
        """Return `objs` unchanged."""
        return objs


def _widen_conv_in(base: UNet2DConditionModel) -> None:
    """Add an input channel for l_m to conv_in, with zero weights that leave the base's outputs unchanged at first."""
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
    """Add an adapter to each block, on the device of the base: on the meta device, nothing is allocated."""
    base.position_net = _PassThrough()
    with torch.device(base.conv_in.weight.device):
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
    """Return the factor by which the maps of block `name` are smaller than the latent: 1, 2, 4 or 8 in SD's UNet."""
    place = re.match(r"(down|mid|up)_block(?:s\.(\d+))?", name)
    assert place is not None, name
    depth = {"down": int(place[2] or 0), "mid": levels - 1, "up": levels - 1 - int(place[2] or 0)}[place[1]]
    return 1 << min(depth, levels - 1)
