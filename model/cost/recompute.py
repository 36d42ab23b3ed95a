"""Save activation memory: recompute cheap activations in the backward pass instead of keeping them.

The classes of a Stable Diffusion UNet's blocks are changed in place; names and values of weights stay the same. This
relies on a property of torch's checkpointing: recomputation stops as soon as all tensors that the backward pass needs
exist. A region that ends in a linear layer, which saves its input, therefore does not repeat that product.

    enable_recompute(unet, Recompute.ACTIVATIONS)    # norms with SiLU, GEGLU, concatenated skips; no extra FLOPs
    enable_recompute(unet, Recompute.FEED_FORWARDS)  # also feed-forwards, except their inputs; 7 % more FLOPs
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from diffusers.models.attention import FeedForward
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.unets.unet_2d_blocks import CrossAttnUpBlock2D, UpBlock2D
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.grad import conv2d_input
from torch.utils.checkpoint import checkpoint

from model.config import Recompute

T = TypeVar("T")


def enable_recompute(unet: nn.Module, mode: Recompute) -> None:
    """Make `unet` recompute activations.

    Set `requires_grad` first: only frozen convolutions can do without their inputs.
    """
    if mode is not Recompute.NOTHING:
        recompute_activations(unet)
    if mode is Recompute.FEED_FORWARDS:
        checkpoint_feed_forwards(unet)


def recompute_activations(unet: nn.Module) -> None:
    """Make `unet` keep only the inputs of norms and GEGLU, and the parts of concatenated skip connections.

    Frozen convolutions keep nothing.
    """
    _swap(unet, {FeedForward: _RecomputedGeglu, ResnetBlock2D: _ResnetBlock})
    _swap(unet, {CrossAttnUpBlock2D: _CrossAttnUpBlock, UpBlock2D: _UpBlock})
    _swap(nn.ModuleList(filter(_is_frozen, unet.modules())), {nn.Conv2d: _FrozenConv2d})


def checkpoint_feed_forwards(unet: nn.Module) -> None:
    """Make `unet` keep only the input of each feed-forward."""
    _swap(unet, {FeedForward: _CheckpointedFeedForward, _RecomputedGeglu: _CheckpointedFeedForward})


def _swap(net: nn.Module, classes: Mapping[type[nn.Module], type[nn.Module]]) -> None:
    """Replace the classes of modules in place; weights, hooks and submodules stay, only `forward` changes."""
    for module in net.modules():
        module.__class__ = classes.get(type(module), type(module))


def _is_frozen(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and not any(weight.requires_grad for weight in module.parameters())


def _recompute(function: Callable[..., T], *tensors: Tensor) -> T:
    """Call `function`, and call it again in the backward pass instead of keeping its activations."""
    if not torch.is_grad_enabled():
        return function(*tensors)
    result: T = checkpoint(function, *tensors, use_reentrant=False, preserve_rng_state=False)
    return result


class _RecomputedGeglu(FeedForward):  # type: ignore[misc]  # diffusers has no types
    def forward(self, hidden: Tensor) -> Tensor:
        gate, _, out = self.net
        result: Tensor = _recompute(lambda projected: out(_geglu(projected)), gate.proj(hidden))
        return result


class _CheckpointedFeedForward(FeedForward):  # type: ignore[misc]  # diffusers has no types
    def forward(self, hidden: Tensor) -> Tensor:
        result: Tensor = _recompute(super().forward, hidden)
        return result


def _geglu(projected: Tensor) -> Tensor:
    value, gate = projected.chunk(2, dim=-1)
    return value * F.gelu(gate)


class _ResnetBlock(ResnetBlock2D):  # type: ignore[misc]  # diffusers has no types
    """ResNet block that concatenates its inputs itself, so only the parts are kept, which other layers keep anyway."""

    def forward(self, parts: Tensor | Sequence[Tensor], temb: Tensor) -> Tensor:
        parts = [parts] if isinstance(parts, Tensor) else parts
        residual, hidden = _recompute(self._concatenate_and_activate, *parts)
        hidden = self.conv1(hidden) + self.time_emb_proj(F.silu(temb))[:, :, None, None]
        hidden = self.conv2(_recompute(lambda h: F.silu(self.norm2(h)), hidden))
        shortcut = residual if self.conv_shortcut is None else self.conv_shortcut(residual)
        result: Tensor = (shortcut + hidden) / self.output_scale_factor
        return result

    def _concatenate_and_activate(self, *parts: Tensor) -> tuple[Tensor, Tensor]:
        hidden = torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]
        return hidden, F.silu(self.norm1(hidden))


class _UpBlock(UpBlock2D):  # type: ignore[misc]  # diffusers has no types
    def forward(
        self,
        hidden_states: Tensor,
        res_hidden_states_tuple: Sequence[Tensor],
        temb: Tensor,
        upsample_size: tuple[int, int] | None = None,
    ) -> Tensor:
        hidden = hidden_states
        for resnet, skip in zip(self.resnets, reversed(res_hidden_states_tuple), strict=True):
            hidden = resnet((hidden, skip), temb)
        for upsampler in self.upsamplers or ():
            hidden = upsampler(hidden, upsample_size)
        return hidden


class _CrossAttnUpBlock(CrossAttnUpBlock2D):  # type: ignore[misc]  # diffusers has no types
    def forward(
        self,
        hidden_states: Tensor,
        res_hidden_states_tuple: Sequence[Tensor],
        temb: Tensor,
        encoder_hidden_states: Tensor,
        cross_attention_kwargs: dict[str, object] | None = None,
        upsample_size: tuple[int, int] | None = None,
        attention_mask: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
    ) -> Tensor:
        hidden = hidden_states
        for resnet, attention, skip in zip(
            self.resnets, self.attentions, reversed(res_hidden_states_tuple), strict=True
        ):
            hidden = resnet((hidden, skip), temb)
            hidden = attention(
                hidden,
                encoder_hidden_states=encoder_hidden_states,
                cross_attention_kwargs=cross_attention_kwargs,
                attention_mask=attention_mask,
                encoder_attention_mask=encoder_attention_mask,
                return_dict=False,
            )[0]
        for upsampler in self.upsamplers or ():
            hidden = upsampler(hidden, upsample_size)
        return hidden


class _FrozenConv2d(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        result: Tensor = _ConvolutionWithoutInput.apply(
            input, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups
        )
        return result


class _ConvolutionWithoutInput(torch.autograd.Function):
    """Convolution without saved input; autograd's own saves it even if the weight is frozen."""

    @staticmethod
    def forward(input: Tensor, weight: Tensor, bias: Tensor | None, *geometry: Any) -> Tensor:
        return F.conv2d(input, weight, bias, *geometry)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        input, weight, _, *geometry = inputs
        ctx.save_for_backward(weight)
        ctx.input_shape, ctx.geometry = input.shape, geometry

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (weight,), (gradient,) = ctx.saved_tensors, gradients
        weight = weight.to(gradient.dtype)  # autocast computed in the gradient's type
        # torch does not annotate conv2d_input.
        input_gradient = conv2d_input(ctx.input_shape, weight, gradient, *ctx.geometry)  # type: ignore[no-untyped-call]
        return input_gradient, *[None] * (2 + len(ctx.geometry))
