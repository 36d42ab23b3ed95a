"""Eq. 1: the maps are exact, and so are their gradients."""

from collections.abc import Callable

import torch
from diffusers.models.attention_processor import Attention, AttnProcessor
from torch import Tensor
from torch.nn import functional as F

from model.networks.attention_maps import FusedAttention, MapRecorder, RecordedAttention, cross_attention_map

B, H, W, T, WIDTH, HEADS = 2, 4, 6, 7, 32, 4
ENTITIES = torch.zeros(B, 3, T)
ENTITIES[:, 0, 2], ENTITIES[:, 1, 3:5] = 1.0, 0.5  # a token, a label of two tokens, an absent slot


def layer() -> Attention:
    torch.manual_seed(0)
    attn = Attention(WIDTH, cross_attention_dim=16, heads=HEADS, dim_head=WIDTH // HEADS)
    with torch.no_grad():
        attn.to_q.weight.mul_(6)  # so that the softmax is far from flat
    return attn


def inputs() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(B, H * W, WIDTH, requires_grad=True), torch.randn(B, T, 16, requires_grad=True)


def recorded(attn: Attention, latents: Tensor, text: Tensor) -> Tensor:
    attn.set_processor(RecordedAttention(0, "layer", downsampling=2))
    recorder = MapRecorder(ENTITIES, (2 * H, 2 * W))
    attn(latents, encoder_hidden_states=text, recorder=recorder)
    return recorder.maps["layer"].flatten(2)


def eager(attn: Attention, latents: Tensor, text: Tensor) -> Tensor:
    """Maps from the probabilities of diffusers' own processor, one column at a time."""
    q, k = attn.head_to_batch_dim(attn.to_q(latents)), attn.head_to_batch_dim(attn.to_k(text))
    per_head = attn.get_attention_scores(q, k).reshape(B, HEADS, H * W, T).mean(dim=1)
    return torch.stack([per_head[..., 2], per_head[..., 3:5].mean(-1), torch.zeros(B, H * W)], dim=1)


def from_detached_log_sum_exp(attn: Attention, latents: Tensor, text: Tensor) -> Tensor:
    """Maps from the log-sum-exp that a fused kernel returns, which carries no gradient."""
    q, k = attn.to_q(latents), attn.to_k(text)
    q, k = (x.unflatten(-1, (HEADS, -1)).transpose(1, 2) for x in (q, k))
    logits = q @ k.transpose(-1, -2) * attn.scale
    return cross_attention_map((logits - logits.logsumexp(-1, keepdim=True).detach()).exp(), ENTITIES)


Maps = Callable[[Attention, Tensor, Tensor], Tensor]


def maps_and_gradients(maps_of: Maps) -> tuple[Tensor, list[Tensor]]:
    attn = layer()
    latents, text = inputs()
    maps = maps_of(attn, latents, text)
    torch.manual_seed(2)
    (maps - torch.rand_like(maps)).abs().mean().backward()
    return maps, [latents.grad, text.grad, attn.to_q.weight.grad, attn.to_k.weight.grad]


def deviation(maps_of: Maps) -> tuple[float, float]:
    """Largest differences of the maps, and of the gradients relative to their size, from the eager form."""
    maps, gradients = maps_and_gradients(maps_of)
    true_maps, true_gradients = maps_and_gradients(eager)
    relative = [(g - t).norm() / t.norm() for g, t in zip(gradients, true_gradients, strict=True)]
    return float((maps - true_maps).detach().abs().max()), float(max(relative))


def test_maps_and_their_gradients_are_the_eager_forms():
    """Gate C4 of docs/benchmarks/model-gates.md."""
    maps, gradients = deviation(recorded)
    assert maps <= 1e-6
    assert gradients <= 1e-5


def test_maps_from_a_detached_log_sum_exp_would_be_caught():
    """Their values are right, but the test above would fail on their gradients."""
    maps, gradients = deviation(from_detached_log_sum_exp)
    assert maps <= 1e-6
    assert gradients > 0.1


def test_both_processors_attend_as_diffusers_does():
    attn = layer()
    latents, text = inputs()
    attn.set_processor(AttnProcessor())
    theirs = attn(latents, encoder_hidden_states=text)
    attn.set_processor(FusedAttention(0))
    fused = attn(latents, encoder_hidden_states=text)
    attn.set_processor(RecordedAttention(0, "layer", downsampling=1))
    unrecorded = attn(latents, encoder_hidden_states=text)
    explicit = attn(latents, encoder_hidden_states=text, recorder=MapRecorder(ENTITIES, (H, W)))
    assert torch.equal(fused, unrecorded)
    assert torch.allclose(theirs, fused, atol=1e-5)
    assert torch.allclose(theirs, explicit, atol=1e-5)


def test_maps_have_the_layers_sides():
    attn = layer()
    attn.set_processor(RecordedAttention(0, "here", downsampling=2))
    recorder = MapRecorder(ENTITIES, (2 * H - 1, 2 * W))  # an odd side is rounded up, as the UNet's convolutions do
    attn(inputs()[0], encoder_hidden_states=inputs()[1], recorder=recorder)
    assert {name: tuple(ca.shape) for name, ca in recorder.maps.items()} == {"here": (B, 3, H, W)}


def test_a_map_sums_over_tokens_to_one_and_is_zero_in_an_absent_slot():
    probabilities = torch.rand(B, HEADS, H * W, T).softmax(-1)
    every_token = cross_attention_map(probabilities, torch.eye(T).expand(B, T, T))
    assert torch.allclose(every_token.sum(1), torch.ones(B, H * W))
    assert (cross_attention_map(probabilities, ENTITIES)[:, 2] == 0).all()


def test_probabilities_recorded_in_bfloat16_are_kept_once():
    attn = layer()
    attn.set_processor(RecordedAttention(0, "layer", downsampling=1))
    kept: list[Tensor] = []
    latents, text = inputs()
    keep = torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x)
    with torch.autocast("cpu", torch.bfloat16), keep:
        attn(latents, encoder_hidden_states=text, recorder=MapRecorder(ENTITIES, (H, W)))
    probabilities = {x.data_ptr(): x for x in kept if x.numel() == B * HEADS * H * W * T}
    assert [x.dtype for x in probabilities.values()] == [torch.bfloat16]


def test_sdpa_is_what_runs_without_a_recorder(monkeypatch):
    calls = []
    fused = F.scaled_dot_product_attention
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *a, **k: calls.append(1) or fused(*a, **k))
    attn = layer()
    attn.set_processor(RecordedAttention(0, "layer", downsampling=1))
    attn(inputs()[0], encoder_hidden_states=inputs()[1])
    assert calls == [1]
