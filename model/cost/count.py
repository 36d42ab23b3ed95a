"""What a computation costs: exact FLOPs and the bytes that autograd keeps, on the meta device.

Nothing is allocated and nothing runs, so the full-size network is counted in seconds on any machine. One multiply-add
is two FLOPs. Attention counts as the fused kernels of a GPU do it: no N x N probabilities are kept, and what their
backward recomputes is not counted as work, since every implementation of attention needs the same four products.

    net = build_on_meta(lambda: UNet2DConditionModel(**STABLE_DIFFUSION_2.unet))
    cost = training_cost(lambda: net(latent, t, text).sample, net.parameters())
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

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
    """Of one training step, or of a part of it."""

    forward_flops: int
    backward_flops: int
    """Includes what is recomputed on purpose (`model/cost/recompute.py`)."""
    saved_bytes: int
    """Activations kept between forward and backward; weights are not among them."""

    @property
    def flops(self) -> int:
        return self.forward_flops + self.backward_flops


def build_on_meta(build: Callable[[], T], dtype: torch.dtype = torch.float32, device: str = "meta") -> T:
    """What `build` makes, with shapes but without storage; within `autocast_gpu` that may be on "cuda"."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            return build()
    finally:
        torch.set_default_dtype(default)


def inference_flops(run: Callable[[], object]) -> int:
    """FLOPs of `run`, which keeps nothing for a backward pass."""
    with torch.no_grad(), _FusedAttention(), _flop_counter() as counter:
        run()
    return int(counter.get_total_flops())


@contextmanager
def fake_gpu_autocast() -> Iterator[None]:
    """Compute shapes on a GPU that need not be there, under its rules of autocast to bfloat16."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        torch.set_autocast_dtype("cuda", torch.bfloat16)
        torch.set_autocast_enabled("cuda", True)  # `torch.autocast` would look for a GPU
        try:
            yield
        finally:
            torch.set_autocast_enabled("cuda", False)
            torch.clear_autocast_cache()


def saved_bytes(forward: Callable[[], Tensor], weights: Iterable[Tensor]) -> int:
    """Bytes that `forward` keeps for its backward pass.

    Args:
        weights: parameters and buffers, whose bytes are there anyway.
    """
    saved = _SavedBytes(weights)
    with _FusedAttention(), torch.autograd.graph.saved_tensors_hooks(saved.pack, _unpack):
        forward()
    return saved.total


def training_cost(forward: Callable[[], Tensor], weights: Iterable[Tensor]) -> Cost:
    """Cost of `forward` and of the backward pass from its result.

    Args:
        weights: parameters and buffers, whose bytes are there anyway.
    """
    saved = _SavedBytes(weights)
    with _FusedAttention():
        with _flop_counter() as forward_counter, torch.autograd.graph.saved_tensors_hooks(saved.pack, _unpack):
            result = forward()
        with _flop_counter() as backward_counter:
            result.sum().backward()  # type: ignore[no-untyped-call]
    return Cost(int(forward_counter.get_total_flops()), int(backward_counter.get_total_flops()), saved.total)


class _SavedBytes:
    """Counts each storage once, however many operations keep a view of it."""

    def __init__(self, weights: Iterable[Tensor]) -> None:
        self._weights = {_storage_id(weight) for weight in weights}
        self._storages: dict[int, torch.UntypedStorage] = {}

    def pack(self, tensor: Tensor) -> Tensor:
        if (key := _storage_id(tensor)) not in self._weights:
            self._storages[key] = tensor.untyped_storage()  # held, so that its id is not given to another
        return tensor

    @property
    def total(self) -> int:
        return sum(storage.nbytes() for storage in self._storages.values())


def _storage_id(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _unpack(tensor: Tensor) -> Tensor:
    return tensor


class _FusedAttention(TorchFunctionMode):
    """Takes attention to the kernels of a GPU; left alone, the meta device takes the unfused path."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is F.scaled_dot_product_attention:
            return _fused_attention(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _fused_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """As CUDA chooses: a mask rules out flash attention and leaves the memory-efficient kernel."""
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
    """Four products: gradients of value, probabilities, query and key. torch also counts the recomputed scores."""
    *batch_and_heads, queries, width = query
    keys, value_width = value[-2:]
    return 4 * math.prod(batch_and_heads) * queries * keys * (width + value_width)
