"""Recomputation changes the memory of a step, but not its results."""

import copy
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from model.config import Recompute
from model.cost.count import Cost, build_on_meta, training_cost
from model.cost.recompute import checkpoint_feed_forwards, enable_recompute, recompute_activations


def small_unet() -> UNet2DConditionModel:
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=(2, 4),
        cross_attention_dim=24,
        norm_num_groups=8,
        use_linear_projection=True,
    )
    unet.requires_grad_(False)
    for name, weight in unet.named_parameters():
        weight.requires_grad_("attn2.to_k" in name or "attn2.to_v" in name or name.startswith("conv_in"))
    return unet


def both(unet: nn.Module) -> None:
    enable_recompute(unet, Recompute.FEED_FORWARDS)


def outputs_and_gradients(unet: nn.Module, run: Callable[..., Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    latent, text = (torch.randn(shape, generator=generator) for shape in ((2, 4, 16, 16), (2, 7, 24)))
    result = run(latent, torch.tensor([10, 700]), text)
    (result.float() ** 2).sum().backward()  # type: ignore[no-untyped-call]
    return result.detach(), {n: p.grad.clone() for n, p in unet.named_parameters() if p.grad is not None}


def runner(unet: nn.Module) -> Callable[..., Tensor]:
    return lambda latent, t, text: unet(latent, t, text).sample


def assert_close(ours: dict[str, Tensor], plain: dict[str, Tensor], tolerance: float) -> None:
    assert ours.keys() == plain.keys()
    for name, gradient in plain.items():
        scale = gradient.abs().max().clamp(min=1e-3)
        assert (ours[name] - gradient).abs().max() / scale <= tolerance, name


each = pytest.mark.parametrize("change", [recompute_activations, checkpoint_feed_forwards, both])


@each
def test_outputs_gradients_and_names_stay(change: Callable[[nn.Module], None]) -> None:
    plain = small_unet()
    ours = copy.deepcopy(plain)
    change(ours)
    assert list(ours.state_dict()) == list(plain.state_dict())
    expected, expected_gradients = outputs_and_gradients(plain, runner(plain))
    result, gradients = outputs_and_gradients(ours, runner(ours))
    assert (result - expected).abs().max() <= 1e-6
    assert len(expected_gradients) == 10
    assert_close(gradients, expected_gradients, 1e-5)


@each
def test_holds_under_bf16_autocast(change: Callable[[nn.Module], None]) -> None:
    plain = small_unet()
    ours = copy.deepcopy(plain)
    change(ours)
    with torch.autocast("cpu", torch.bfloat16):
        expected, expected_gradients = outputs_and_gradients(plain, runner(plain))
        result, gradients = outputs_and_gradients(ours, runner(ours))
    assert torch.equal(result, expected)
    assert_close(gradients, expected_gradients, 0.02)


def compare_compiled(change: Callable[[nn.Module], None]) -> None:
    unet = small_unet()
    plain = copy.deepcopy(unet)
    change(unet)
    compiled = torch.compile(runner(unet), backend="aot_eager", fullgraph=True)
    expected, expected_gradients = outputs_and_gradients(plain, runner(plain))
    result, gradients = outputs_and_gradients(unet, compiled)
    assert (result - expected).abs().max() <= 1e-6
    assert_close(gradients, expected_gradients, 1e-5)


@pytest.mark.slow
@each
def test_compiles_without_a_graph_break(change: Callable[[nn.Module], None]) -> None:
    """Runs in a separate process: the compiler cannot trace the shape checks that tests add to `model`."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        process.submit(compare_compiled, change).result()


def test_a_trained_convolution_keeps_its_input_and_learns() -> None:
    unet = small_unet()
    unet.conv_out.requires_grad_(True)
    recompute_activations(unet)
    _, gradients = outputs_and_gradients(unet, runner(unet))
    assert gradients["conv_out.weight"].abs().max() > 0


def test_survives_a_copy() -> None:
    """Exponential moving averages copy the network; the copy must not compute with the original's weights."""
    unet = small_unet()
    recompute_activations(unet)
    twin = copy.deepcopy(unet)
    nn.init.zeros_(twin.conv_out.weight)
    nn.init.zeros_(twin.conv_out.bias)
    latent, t, text = torch.ones(1, 4, 16, 16), torch.tensor([5]), torch.ones(1, 7, 24)
    assert twin(latent, t, text).sample.abs().max() == 0
    assert unet(latent, t, text).sample.abs().max() > 0


def cost(change: Callable[[nn.Module], None]) -> Cost:
    unet = build_on_meta(small_unet)
    change(unet)
    latent, t, text = (torch.empty(shape, device="meta") for shape in ((2, 4, 16, 16), (2,), (2, 7, 24)))
    return training_cost(lambda: unet(latent, t, text).sample, unet.parameters())


def test_each_step_keeps_less_for_few_flops() -> None:
    plain, cheap, cheapest = cost(lambda _: None), cost(recompute_activations), cost(both)
    assert cheap.saved_bytes < 0.75 * plain.saved_bytes
    assert cheapest.saved_bytes < 0.9 * cheap.saved_bytes
    assert cheap.flops == plain.flops
    assert plain.flops < cheapest.flops < 1.15 * plain.flops
