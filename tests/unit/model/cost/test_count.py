"""Counted costs against sums by hand, and against the memory of a real run."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.cost.count import Cost, build_on_meta, inference_flops, training_cost

B, N, D = 3, 10, 16


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(D, 3 * D, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).view(B, -1, 3, 2, D // 2).permute(2, 0, 3, 1, 4)
        return F.scaled_dot_product_attention(q, k, v).sum(dim=1)


def test_nothing_is_allocated() -> None:
    layer = build_on_meta(lambda: nn.Linear(200_000, 200_000), torch.bfloat16)
    assert layer.weight.device.type == "meta"
    assert layer.weight.dtype == torch.bfloat16
    assert torch.get_default_dtype() == torch.float32


def test_a_linear_layer_by_hand() -> None:
    layer = build_on_meta(lambda: nn.Linear(D, 5 * D))
    x = torch.empty(B, N, D, device="meta", requires_grad=True)
    cost = training_cost(lambda: layer(x), layer.parameters())
    product = 2 * B * N * D * 5 * D
    assert (cost.forward_flops, cost.backward_flops) == (product, 2 * product)
    assert cost.saved_bytes == 4 * B * N * D
    assert inference_flops(lambda: layer(x)) == product


def test_a_frozen_layer_costs_one_product_and_keeps_nothing() -> None:
    layer = build_on_meta(lambda: nn.Linear(D, 5 * D)).requires_grad_(False)
    x = torch.empty(B, N, D, device="meta", requires_grad=True)
    cost = training_cost(lambda: layer(x), layer.parameters())
    assert cost.backward_flops == cost.forward_flops
    assert cost.saved_bytes == 0


def test_attention_keeps_no_probabilities_and_its_backward_is_four_products() -> None:
    layer = build_on_meta(Attention)
    x = torch.empty(B, N, D, device="meta", requires_grad=True)
    cost = training_cost(lambda: layer(x), layer.parameters())
    projection, attention = 2 * B * N * D * 3 * D, 2 * 2 * B * N * N * D
    assert cost.forward_flops == projection + attention
    assert cost.backward_flops == 2 * (projection + attention)
    longer = training_cost(lambda: layer(x.repeat(1, 8, 1)), layer.parameters())
    assert longer.saved_bytes < 9 * cost.saved_bytes


def test_a_storage_is_counted_once_however_often_it_is_kept() -> None:
    x = torch.empty(B, N, device="meta", requires_grad=True)
    once = training_cost(lambda: x * x, [])
    views = training_cost(lambda: x * x.view(N, B).view(B, N) * x, [])
    assert once.saved_bytes == 4 * B * N
    assert views.saved_bytes == 2 * once.saved_bytes


def test_a_masked_attention_is_counted_like_an_open_one() -> None:
    q = torch.empty(B, 2, N, D, device="meta")
    mask = torch.zeros(1, 1, 1, N, device="meta")
    masked = inference_flops(lambda: F.scaled_dot_product_attention(q, q, q, attn_mask=mask))
    assert masked == inference_flops(lambda: F.scaled_dot_product_attention(q, q, q)) == 4 * B * 2 * N * N * D


def test_meta_counts_what_a_real_run_does() -> None:
    def cost(device: str) -> Cost:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(4, 8, 3, stride=2), nn.GroupNorm(2, 8), nn.SiLU(), nn.Flatten(), nn.Linear(72, 5))
        net.to(device)[0].requires_grad_(False)
        x = torch.ones(B, 4, 7, 7, device=device, requires_grad=True)
        return training_cost(lambda: net(x), net.parameters())

    real = cost("cpu")
    assert cost("meta") == real
    assert real.saved_bytes > 0
