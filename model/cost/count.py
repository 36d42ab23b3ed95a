"""Count the FLOPs of a computation and the bytes that autograd keeps, on the meta device.

Nothing is allocated or computed, so the full-size network is counted in seconds on any machine. A multiply-add is two
FLOPs. Attention is counted as a GPU's fused kernels compute it: N x N probabilities are not kept. Scores that fused
kernels recompute in the backward pass are not counted; every implementation needs the same four products there.

    net = build_on_meta(lambda: UNet2DConditionModel(**STABLE_DIFFUSION_2.unet))
    cost = training_cost(lambda: net(latent, t, text).sample, net.parameters())
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

T = TypeVar("T")
aten = torch.ops.aten


@dataclass(frozen=True)
class Cost:
    """Cost of one training step, or of a part of it."""

    forward_flops: int
    """FLOPs of the forward pass."""
    backward_flops: int
    """FLOPs of the backward pass, with the recomputation of `model/cost/recompute.py`."""
    saved_bytes: int
    """Bytes of activations kept between forward and backward, without weights."""

    @property
    def flops(self) -> int:
        """FLOPs of both passes."""
        return self.forward_flops + self.backward_flops


def build_on_meta(build: Callable[[], T], dtype: torch.dtype = torch.float32, device: str = "meta") -> T:
    """Call `build` with tensors that have shapes but no storage.

    Args:
        build: function that builds a network.
        dtype: type of its floating-point tensors.
        device: "meta", or "cuda" within `fake_gpu_autocast`.
    """
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            return build()
    finally:
        torch.set_default_dtype(default)


def inference_flops(run: Callable[[], object]) -> int:
    """Count the FLOPs of `run` without gradients."""
    with torch.no_grad(), _GpuAttention(), _flop_counter() as counter:
        run()
    return int(counter.get_total_flops())


@contextmanager
def fake_gpu_autocast() -> Iterator[None]:
    """Compute shapes by a GPU's rules of autocast to bfloat16; no GPU is needed."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        torch.set_autocast_dtype("cuda", torch.bfloat16)
        torch.set_autocast_enabled("cuda", True)  # `torch.autocast` would look for a GPU
        try:
            yield
        finally:
            torch.set_autocast_enabled("cuda", False)
            torch.clear_autocast_cache()


def saved_bytes(forward: Callable[[], Tensor], weights: Iterable[Tensor]) -> int:
    """Count the bytes that `forward` keeps for its backward pass.

    Args:
        forward: the computation.
        weights: parameters and buffers, which are not counted.
    """
    saved = _SavedBytes(weights)
    with _GpuAttention(), torch.autograd.graph.saved_tensors_hooks(saved.pack, _unpack):
        forward()
    return saved.total


def training_cost(forward: Callable[[], Tensor], weights: Iterable[Tensor]) -> Cost:
    """Count the cost of `forward` and of the backward pass from its result.

    Args:
        forward: the computation.
        weights: parameters and buffers, which are not counted.
    """
    saved = _SavedBytes(weights)
    with _GpuAttention():
        with _flop_counter() as forward_counter, torch.autograd.graph.saved_tensors_hooks(saved.pack, _unpack):
            result = forward()
        with _flop_counter() as backward_counter:
            result.sum().backward()  # type: ignore[no-untyped-call]  # torch annotates no backward
    return Cost(int(forward_counter.get_total_flops()), int(backward_counter.get_total_flops()), saved.total)


class _SavedBytes:
    """Bytes of saved tensors; each storage counts once, even if several operations keep a view of it."""

    def __init__(self, weights: Iterable[Tensor]) -> None:
        self._weights = {_storage_id(weight) for weight in weights}
        self._storages: dict[int, torch.UntypedStorage] = {}

    def pack(self, tensor: Tensor) -> Tensor:
        """Record a tensor that autograd saves, and return it."""
        if (key := _storage_id(tensor)) not in self._weights:
            self._storages[key] = tensor.untyped_storage()  # keep a reference, so that its id is not reused
        return tensor

    @property
    def total(self) -> int:
        """Bytes of all saved storages."""
        return sum(storage.nbytes() for storage in self._storages.values())


def _storage_id(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _unpack(tensor: Tensor) -> Tensor:
    return tensor


class _GpuAttention(TorchFunctionMode):
    """Routes attention to a GPU's fused kernels, because the meta device would count the unfused computation."""

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: Sequence[object] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        if func is F.scaled_dot_product_attention:
            # torch passes the arguments of the call unchanged, but declares them as objects.
            return _gpu_attention(*args, **(kwargs or {}))  # type: ignore[arg-type]
        return func(*args, **(kwargs or {}))


def _gpu_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Call the kernel that CUDA would choose: memory-efficient attention with a mask, otherwise flash attention."""
    if attn_mask is None:
        flash = aten._scaled_dot_product_flash_attention
        attended: Tensor = flash(query, key, value, dropout_p, is_causal, False, scale=scale)[0]
    else:
        bias = attn_mask.expand(*query.shape[:-1], key.shape[-2])
        efficient = aten._scaled_dot_product_efficient_attention
        attended = efficient(query, key, value, bias, query.requires_grad, dropout_p, is_causal, scale=scale)[0]
    return attended


def _flop_counter() -> FlopCounterMode:
    return FlopCounterMode(
        display=False,
        custom_mapping={
            aten._scaled_dot_product_flash_attention_backward: _attention_backward_flops,
            aten._scaled_dot_product_efficient_attention_backward: _attention_backward_flops,
        },
    )


def _attention_backward_flops(
    gradient: Sequence[int], query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: object, **__: object
) -> int:
    """Count the products for the gradients of value, probabilities, query and key, without recomputed scores.

    Torch's own formula counts the recomputed scores as a fifth product.
    """
    *batch_and_heads, queries, width = query
    keys, value_width = value[-2:]
    return 4 * math.prod(batch_and_heads) * queries * keys * (width + value_width)
