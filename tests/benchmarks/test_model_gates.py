"""Gates of the model's cost at the full width of Stable Diffusion v2-base (`make bench`).

FLOPs and bytes are exact counts on the meta device, the same on every machine. Only `test_step_on_the_cpu` measures
time, and needs an idle machine. The results are in docs/benchmarks/model-gates.md.

All ratios are to N, the naive baseline of `tests/benchmarks/naive.py`, at 12 images of 2 subjects unless a line says
otherwise, with attention-plus-feed-forward adapters on both sides.
"""

import contextlib
import functools
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention import GatedSelfAttentionDense
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from model.config import DropConfig, ModelConfig, Recompute
from model.cost.budget import sampling_budget, training_budget, unet_cost
from model.cost.count import Cost, _GpuAttention, build_on_meta, inference_flops, training_cost
from model.cost.recompute import enable_recompute
from model.networks.adapter import AdapterInputs, SubjectAdapter
from model.networks.attention_maps import MapRecorder, RecordedAttention
from model.networks.unet import Conditions, SubjectUNet
from model.objective.losses import attention_map_loss
from model.sampling.denoising import GuidedDenoiser, branch_conditions, combine_branches, sample
from model.sampling.guidance import Branch, Guidance
from model.sampling.schedulers import make_scheduler
from model.weights.bases import STABLE_DIFFUSION_2_BASE as BASE
from model.weights.folders import random_parts
from tests.benchmarks.history import Better, Kind, Recorder
from tests.benchmarks.naive import TRAINED, MapKeeper, NaiveModel, NaiveUNet, our_names
from tests.benchmarks.pairs import cpu_seconds_of, in_turns
from tests.benchmarks.peak_bytes import PeakBytes

pytestmark = pytest.mark.bench

OURS = ModelConfig(adapter_feed_forward=True)
IMAGES, SUBJECTS, SIDE, PATCHES, TEXT, WIDTH = 12, 2, 64, 256, 77, 1024
MARKS = {
    "C1 FLOPs of a step, online": 0.97,
    "C1 FLOPs of a step, latents cached": 0.75,
    "C1 FLOPs of a step, latents and image features cached": 0.62,
    "FLOPs of a cached step with fixed_rows, 12 images of 2": 0.98,
    "FLOPs of a cached step with fixed_rows, 12 images of 4": 0.98,
    "FLOPs of a cached step with fixed_rows, 20 images of 2": 0.98,
    "C2 FLOPs of the adapters, 2 subjects": 0.87,
    "C2 FLOPs of the adapters, 4 subjects": 0.76,
    "C2 adapter, output apart from GLIGEN's": 1e-6,
    "C2 adapter, gradients apart from GLIGEN's": 1e-5,
    "C3 bytes kept": 0.38,
    "C3 bytes kept, activations recomputed": 0.27,
    "C3 bytes kept, activations recomputed, to S": 0.70,
    "C3 FLOPs more for it": 0.01,
    "C3 bytes kept, feed-forwards recomputed": 0.18,
    "C3 FLOPs more for them": 0.11,
    "C4 bytes more for the map loss": 0.02,
    "C4 FLOPs more for the map loss": 0.001,
    "C4 gradients apart from the eager form's": 1e-5,
    "C5 FLOPs of a sampling step, 2 subjects": 0.83,
    "C5 FLOPs of a sampling step, 4 subjects": 0.76,
    "C5 cached apart from uncached": 1e-5,
}
SPEEDUPS = {torch.float32: 1.2, torch.bfloat16: 1.4}


CheckGate = Callable[[str, float], None]


@pytest.fixture
def check_gate(record: Recorder) -> CheckGate:
    """Records a figure, and fails if it exceeds its gate."""

    def check(gate: str, figure: float) -> None:
        is_difference = " apart " in gate or " more " in gate
        record(gate, figure, kind=Kind.TOLERANCE if is_difference else Kind.COUNTED)
        print(f" (at most {MARKS[gate]:g})", end="")
        assert figure <= MARKS[gate]

    return check


# C1, C3: whole steps


@functools.cache
def naive_flops(subjects: int = SUBJECTS) -> int:
    """FLOPs of a step of N, with everything computed in it."""
    net = build_on_meta(lambda: NaiveModel(BASE, random_parts(OURS).visual))
    with torch.device("meta"):
        batch = {
            "pixels": torch.empty(IMAGES, 3, 8 * SIDE, 8 * SIDE),
            "pictures": torch.empty(IMAGES, subjects, 3, 224, 224),
            "token_ids": torch.empty(IMAGES, TEXT, dtype=torch.long),
            "entities": torch.empty(IMAGES, 2 * subjects, TEXT),
            "masks": torch.empty(IMAGES, 2 * subjects, SIDE, SIDE),
        }
    return training_cost(lambda: net.loss(batch), [*net.parameters(), *net.buffers()]).flops


@functools.cache
def baseline(fused: bool, subjects: int = SUBJECTS) -> Cost:
    """Cost of the UNet's part of a step of N, or of S if `fused`, in bfloat16."""
    net = build_on_meta(lambda: NaiveUNet(BASE, fused), torch.bfloat16)
    inputs = tensors(IMAGES, subjects, torch.device("meta"), torch.bfloat16)
    return training_cost(lambda: net(*inputs), net.parameters())


def tensors(images: int, subjects: int, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Latent with mask, timesteps, text and image tokens; the last two require gradients."""
    torch.manual_seed(0)
    latent = torch.randn(images, 5, SIDE, SIDE, device=device, dtype=dtype)
    text = torch.randn(images, TEXT, WIDTH, device=device, dtype=dtype).requires_grad_()
    tokens = torch.randn(images, PATCHES * subjects, WIDTH, device=device, dtype=dtype).requires_grad_()
    return latent, torch.full((images,), 500, device=device), text, tokens


def test_counts_of_the_naive_baseline_are_those_counted_independently() -> None:
    """TFLOP per image and GiB of twelve images, counted before the code was written."""
    unet = baseline(fused=False)
    assert naive_flops() / IMAGES / 1e12 == pytest.approx(5.020, rel=0.002)
    assert (unet.forward_flops / IMAGES / 1e12, unet.backward_flops / IMAGES / 1e12) == pytest.approx(
        (1.256, 1.837), abs=1e-3
    )
    assert unet.saved_bytes / 2**30 == pytest.approx(42.31, abs=0.01)
    assert baseline(fused=False, subjects=4).saved_bytes / 2**30 == pytest.approx(50.9, abs=0.05)


def test_flops_of_a_step(check_gate: CheckGate) -> None:
    budget = training_budget(OURS, IMAGES, SUBJECTS)
    check_gate("C1 FLOPs of a step, online", budget.flops() / naive_flops())
    check_gate("C1 FLOPs of a step, latents cached", budget.flops(cached_latents=True) / naive_flops())
    cached = budget.flops(cached_latents=True, cached_features=True)
    check_gate("C1 FLOPs of a step, latents and image features cached", cached / naive_flops())


@pytest.mark.parametrize(("images", "subjects"), [(12, 2), (12, 4), (20, 2)])
def test_flops_of_a_step_whose_adapters_skip_rows_without_image(
    images: int, subjects: int, check_gate: CheckGate
) -> None:
    """With `drop.fixed_rows`, a twelfth or a tenth of the adapters is not computed."""
    config = OURS.model_copy(update={"drop": DropConfig(fixed_rows=True)})
    budgets = [training_budget(each, images, subjects) for each in (config, OURS)]
    skipped, computed = (budget.flops(cached_latents=True, cached_features=True) for budget in budgets)
    check_gate(f"FLOPs of a cached step with fixed_rows, {images} images of {subjects}", skipped / computed)


def test_bytes_kept(check_gate: CheckGate) -> None:
    plain, naive = unet_cost(OURS, IMAGES, SUBJECTS), baseline(fused=False)
    check_gate("C3 bytes kept", plain.saved_bytes / naive.saved_bytes)
    activations = unet_cost(OURS, IMAGES, SUBJECTS, Recompute.ACTIVATIONS)
    check_gate("C3 bytes kept, activations recomputed", activations.saved_bytes / naive.saved_bytes)
    check_gate(
        "C3 bytes kept, activations recomputed, to S", activations.saved_bytes / baseline(fused=True).saved_bytes
    )
    check_gate("C3 FLOPs more for it", activations.flops / plain.flops - 1)
    feed_forwards = unet_cost(OURS, IMAGES, SUBJECTS, Recompute.FEED_FORWARDS)
    check_gate("C3 bytes kept, feed-forwards recomputed", feed_forwards.saved_bytes / naive.saved_bytes)
    check_gate("C3 FLOPs more for them", feed_forwards.flops / plain.flops - 1)


@pytest.mark.parametrize("keeps_maps", [False, True], ids=["no_maps", "maps"])
def test_full_checkpointing_of_diffusers(keeps_maps: bool, record: Recorder) -> None:
    """Peak of forward and backward and FLOPs of the UNet's part with `enable_gradient_checkpointing()`.

    With maps, it is S with its processors, which keep the maps of the recomputation until the end of the step.
    """
    net = build_on_meta(lambda: NaiveUNet(BASE, fused=True), torch.bfloat16)
    if not keeps_maps:
        net.unet.set_attn_processor(AttnProcessor2_0())
    net.unet.enable_gradient_checkpointing(_checkpoint_on_a_gpu)
    inputs = tensors(IMAGES, SUBJECTS, torch.device("meta"), torch.bfloat16)
    record_peak(net, lambda: net(*inputs), record)


@pytest.mark.parametrize("mode", Recompute)
def test_peak_of_ours(mode: Recompute, record: Recorder) -> None:
    net = build_on_meta(lambda: SubjectUNet(UNet2DConditionModel(**BASE.unet), OURS), torch.bfloat16)
    for name, weight in net.named_parameters():
        weight.requires_grad_(any(part in name for part in TRAINED))
    enable_recompute(net, mode)
    latent, t, text, tokens = tensors(IMAGES, SUBJECTS, torch.device("meta"), torch.bfloat16)
    conditions = Conditions(text, AdapterInputs(tokens), latent[:, 4:])
    record_peak(net, lambda: net(latent[:, :4], t, conditions), record)


def record_peak(net: nn.Module, forward: Callable[[], Tensor], record: Recorder) -> None:
    """Record FLOPs of an image, and the most bytes that live at once, without weights, with gradients."""
    flops = training_cost(forward, net.parameters()).flops
    net.zero_grad(set_to_none=True)
    with PeakBytes([*net.parameters(), *net.buffers()]) as live, _GpuAttention():
        torch.autograd.backward(forward().float().sum())
    record("FLOPs of an image", flops / IMAGES / 1e12, "TFLOP", kind=Kind.COUNTED)
    record("peak of forward and backward", live.peak / 2**30, "GiB", kind=Kind.COUNTED)


def _checkpoint_on_a_gpu(function: Callable[..., object], *inputs: object) -> object:
    """Checkpoint as diffusers does; the recomputation runs the same attention as the forward pass."""
    return checkpoint(
        function, *inputs, use_reentrant=False, context_fn=lambda: (contextlib.nullcontext(), _GpuAttention())
    )


# C2: the adapter


BLOCKS = [(320, 5, 64, 5), (640, 10, 32, 5), (1280, 20, 16, 5), (1280, 20, 8, 1)]
"""Width, heads, side and number of the UNet's transformer blocks."""


def gligen(width: int, heads: int) -> GatedSelfAttentionDense:
    torch.manual_seed(0)
    layer = GatedSelfAttentionDense(width, WIDTH, heads, width // heads)
    nn.init.constant_(layer.alpha_attn, 0.6)
    nn.init.constant_(layer.alpha_dense, 0.4)
    return layer


def adapter_with_weights_of(layer: GatedSelfAttentionDense, width: int, heads: int) -> SubjectAdapter:
    adapter = SubjectAdapter(0, width, heads, width, WIDTH, OURS)
    named = our_names({f"fuser.{name}": weight for name, weight in layer.state_dict().items()})
    adapter.load_state_dict({name.removeprefix("fuser."): weight for name, weight in named.items()})
    return adapter


@pytest.mark.parametrize("subjects", [2, 4])
def test_flops_of_the_adapters(subjects: int, check_gate: CheckGate) -> None:
    ours = theirs = 0
    for width, heads, side, count in BLOCKS:
        x = torch.empty(1, side * side, width, device="meta")
        objects = torch.empty(1, PATCHES * subjects, WIDTH, device="meta")
        layer = build_on_meta(functools.partial(gligen, width, heads))
        adapter = build_on_meta(functools.partial(SubjectAdapter, 0, width, heads, width, WIDTH, OURS))
        theirs += count * inference_flops(functools.partial(layer, x, objects))
        ours += count * inference_flops(functools.partial(adapter, x, AdapterInputs(objects)))
    check_gate(f"C2 FLOPs of the adapters, {subjects} subjects", ours / theirs)


@pytest.mark.parametrize(("width", "heads", "side"), [block[:3] for block in BLOCKS[1:]])
def test_the_adapter_is_gligens(width: int, heads: int, side: int, check_gate: CheckGate) -> None:
    layer = gligen(width, heads)
    adapter = adapter_with_weights_of(layer, width, heads)
    x, objects = torch.randn(1, side * side, width), torch.randn(1, PATCHES * SUBJECTS, WIDTH)
    expected, result = layer(x, objects), adapter(x, AdapterInputs(objects))
    check_gate("C2 adapter, output apart from GLIGEN's", relative_difference(result, expected))
    expected.square().mean().backward()
    result.square().mean().backward()
    expected_gradients = our_names({f"fuser.{name}": weight.grad for name, weight in layer.named_parameters()})
    gradients = {f"fuser.{name}": weight.grad for name, weight in adapter.named_parameters() if weight.grad is not None}
    assert gradients.keys() == expected_gradients.keys()
    check_gate(
        "C2 adapter, gradients apart from GLIGEN's",
        max(relative_difference(gradients[name], expected_gradients[name]) for name in expected_gradients),
    )


def relative_difference(a: Tensor, b: Tensor) -> float:
    """Largest difference, as a share of the largest value of `b`."""
    return float(((a - b).abs().max() / b.abs().max()).detach())


# C4: the loss on the attention maps


def test_cost_of_the_map_loss(check_gate: CheckGate) -> None:
    on, off = (unet_cost(OURS, IMAGES, SUBJECTS, maps=maps) for maps in (True, False))
    check_gate("C4 bytes more for the map loss", on.saved_bytes / off.saved_bytes - 1)
    check_gate("C4 FLOPs more for the map loss", on.flops / off.flops - 1)


def layer_gradient(form: Callable[[Attention, Tensor, Tensor, Tensor], Tensor]) -> Tensor:
    """Gradient of Eq. 2 by the weight of the keys, in one layer of 16 x 16 positions.

    Args:
        form: function of layer, latents, text and entity tokens that returns the map [B K N].
    """
    torch.manual_seed(0)
    attn = Attention(query_dim=1280, cross_attention_dim=WIDTH, heads=20, dim_head=64)
    x, text = torch.randn(1, 256, 1280), 3 * torch.randn(1, TEXT, WIDTH)
    entities = torch.eye(TEXT)[None, 5 : 5 + 2 * SUBJECTS]
    maps = form(attn, x, text, entities).reshape(1, -1, 16, 16)
    masks = (torch.rand(1, 2 * SUBJECTS, SIDE, SIDE) > 0.5).float()
    loss = attention_map_loss({"layer": maps}, masks, torch.ones(1, 2 * SUBJECTS, dtype=torch.bool))
    gradient: Tensor = torch.autograd.grad(loss, attn.to_k.weight)[0]
    return gradient


def recorded_map(attn: Attention, x: Tensor, text: Tensor, entities: Tensor) -> Tensor:
    attn.set_processor(RecordedAttention(0, "layer", 4))
    recorder = MapRecorder(entities, (SIDE, SIDE))
    attn(x, encoder_hidden_states=text, recorder=recorder)
    return recorder.maps["layer"].flatten(2)


def eager_map(attn: Attention, x: Tensor, text: Tensor, entities: Tensor) -> Tensor:
    kept: dict[str, Tensor] = {}
    attn.set_processor(MapKeeper(kept, "layer"))
    attn(x, encoder_hidden_states=text)
    return entities @ kept["layer"].mean(dim=0, keepdim=True).transpose(1, 2)


def map_from_log_sum_exp(attn: Attention, x: Tensor, text: Tensor, entities: Tensor) -> Tensor:
    """Map from a fused kernel's log-sum-exp: right in value, wrong in its gradient."""
    logits = attn.head_to_batch_dim(attn.to_q(x)) @ attn.head_to_batch_dim(attn.to_k(text)).transpose(1, 2) * attn.scale
    maps: Tensor = (logits - logits.logsumexp(dim=-1, keepdim=True).detach()).exp()
    return entities @ maps.mean(dim=0, keepdim=True).transpose(1, 2)


def test_gradients_of_the_maps(check_gate: CheckGate) -> None:
    wanted = layer_gradient(eager_map)
    check_gate("C4 gradients apart from the eager form's", relative_difference(layer_gradient(recorded_map), wanted))
    assert relative_difference(layer_gradient(map_from_log_sum_exp), wanted) > 0.1


# C5: sampling


@pytest.mark.parametrize("subjects", [2, 4])
def test_flops_of_a_sampling_step(subjects: int, check_gate: CheckGate) -> None:
    net = build_on_meta(lambda: NaiveUNet(BASE), torch.bfloat16)
    naive = inference_flops(lambda: net(*tensors(3, subjects, torch.device("meta"), torch.bfloat16)))
    check_gate(f"C5 FLOPs of a sampling step, {subjects} subjects", sampling_budget(OURS, subjects).step / naive)


def test_constant_keys_and_values_are_projected_once() -> None:
    """At full width, in 50 steps of PNDM, counted by hooks of the projections."""
    unet = build_on_meta(lambda: SubjectUNet(UNet2DConditionModel(**BASE.unet), OURS))
    calls: Counter[nn.Module] = Counter()
    constant = [adapter.S.from_tokens for adapter in unet.adapters()]
    constant += [layer for block in unet.blocks() for layer in (block.attn2.to_k, block.attn2.to_v)]
    for layer in [*constant, unet.base.conv_in]:
        layer.register_forward_hook(lambda module, *_: calls.update([module]))
    latent = torch.empty(1, 4, SIDE, SIDE, device="meta")
    with torch.no_grad():
        sample(
            denoiser(unet, conditions(1, torch.device("meta"))), make_scheduler("PNDM", BASE.scheduler), latent, [], 50
        )
    assert calls[unet.base.conv_in] == 51
    assert len(constant) == 48
    assert {calls[layer] for layer in constant} == {1}


COEFFICIENTS = Guidance().subject_coefficients()


def conditions(images: int, device: torch.device) -> Conditions:
    latent, _, text, tokens = (t.detach() for t in tensors(images, SUBJECTS, device, torch.float32))
    return Conditions(text, AdapterInputs(tokens), latent[:, :1])


def conditions_by_branch(given: Conditions) -> dict[Branch, Conditions]:
    empty = given.text[:1] * 0.5
    return {branch: branch_conditions(branch, given, empty, OURS.null_branches) for branch in COEFFICIENTS}


def denoiser(unet: SubjectUNet, given: Conditions) -> GuidedDenoiser:
    return GuidedDenoiser(unet, list(conditions_by_branch(given).values()), COEFFICIENTS)


# C8: time on the CPU, and C5 with real weights


@dataclass(frozen=True)
class Pair:
    """Both networks with the same weights."""

    naive: NaiveUNet
    ours: SubjectUNet


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def pair(request: pytest.FixtureRequest) -> Pair:
    dtype: torch.dtype = request.param
    if dtype is torch.bfloat16 and not _has_bfloat16():
        pytest.skip("this processor has neither avx512_bf16 nor AMX")
    torch.manual_seed(0)
    naive = NaiveUNet(BASE).to(dtype)
    for name, weight in naive.named_parameters():
        if "alpha" in name:
            nn.init.constant_(weight, 0.3)
    ours = build_on_meta(lambda: SubjectUNet(UNet2DConditionModel(**BASE.unet), OURS))
    ours.load_state_dict(our_names(naive.state_dict()), assign=True)
    for name, weight in ours.named_parameters():
        weight.requires_grad_(any(part in name for part in TRAINED))
    return Pair(naive, ours.to(memory_format=torch.channels_last))


def test_step_on_the_cpu(pair: Pair, record: Recorder) -> None:
    """CPU seconds of a step of the UNet with the map loss: one image, the medians of five pairs."""
    dtype = pair.naive.unet.dtype
    predictions: dict[str, Tensor] = {}

    def seconds_of(name: str, step: Callable[[Pair], Tensor]) -> float:
        return cpu_seconds_of(lambda: predictions.update({name: step(pair)}))

    before, after, ratio = in_turns(partial(seconds_of, "naive", naive_step), partial(seconds_of, "ours", our_step))
    print(f"\nC8 {dtype}, N: {before:.1f} CPU s", end="")
    record("C8 step on the CPU", after, "CPU s")
    record("C8 N over ours", ratio, better=Better.MORE)
    print(f" (at least {SPEEDUPS[dtype]:g})", end="")
    assert relative_difference(predictions["ours"], predictions["naive"]) < (1e-4 if dtype is torch.float32 else 0.1)
    assert ratio.median >= SPEEDUPS[dtype]


def test_cached_keys_and_values_change_nothing(pair: Pair, check_gate: CheckGate) -> None:
    if pair.naive.unet.dtype is not torch.float32:
        pytest.skip("checked in float32 only")
    given = conditions(1, torch.device("cpu"))
    z_t = torch.randn(1, 4, SIDE, SIDE)
    with torch.no_grad():
        cached = denoiser(pair.ours, given)(z_t, 500.0)
        uncached = combine_branches(
            {b: pair.ours(z_t, torch.tensor([500]), c) for b, c in conditions_by_branch(given).items()}, COEFFICIENTS
        )
    check_gate("C5 cached apart from uncached", relative_difference(cached, uncached))


def naive_step(pair: Pair) -> Tensor:
    latent, t, text, tokens = tensors(1, SUBJECTS, torch.device("cpu"), pair.naive.unet.dtype)
    entities, masks = targets(text.dtype)
    prediction = pair.naive(latent, t, text, tokens)
    loss = prediction.float().square().mean() + OURS.lambda_attn * pair.naive.map_loss(entities, masks)
    return run_backward(pair.naive, loss, prediction)


def our_step(pair: Pair) -> Tensor:
    latent, t, text, tokens = tensors(1, SUBJECTS, torch.device("cpu"), pair.naive.unet.dtype)
    entities, masks = targets(torch.float32)
    recorder = MapRecorder(entities, (SIDE, SIDE))
    prediction: Tensor = pair.ours(latent[:, :4], t, Conditions(text, AdapterInputs(tokens), latent[:, 4:]), recorder)
    L_attn = attention_map_loss(recorder.maps, masks, entities.sum(dim=-1) > 0)
    return run_backward(pair.ours, prediction.float().square().mean() + OURS.lambda_attn * L_attn, prediction)


def run_backward(net: nn.Module, loss: Tensor, prediction: Tensor) -> Tensor:
    """Run the backward pass, and return the prediction."""
    loss.backward()  # type: ignore[no-untyped-call]
    net.zero_grad(set_to_none=True)
    return prediction.detach()


def targets(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Entity tokens and masks."""
    masks = torch.zeros(1, 2 * SUBJECTS, SIDE, SIDE, dtype=dtype)
    masks[:, :, 10:40, 20:50] = 1
    return torch.eye(TEXT, dtype=dtype)[None, 5 : 5 + 2 * SUBJECTS], masks


def _has_bfloat16() -> bool:
    flags = Path("/proc/cpuinfo").read_text().split()
    return "avx512_bf16" in flags or "amx_bf16" in flags
