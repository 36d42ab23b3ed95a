"""The sampler on a small random network of the real classes."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import diffusers
import pytest
import torch
from diffusers import DDIMScheduler, EulerAncestralDiscreteScheduler, PNDMScheduler, UNet2DConditionModel
from torch import Tensor

from model.config import ModelConfig, NullBranches
from model.networks.adapter import AdapterInputs
from model.networks.unet import Conditions, SubjectUNet
from model.sampling.config import Interpolation, Phase
from model.sampling.denoising import (
    Denoiser,
    GuidedDenoiser,
    SamplingProgress,
    branch_conditions,
    combine_branches,
    concatenate_conditions,
    initial_noise,
    interpolate_denoisers,
    sample,
    seeded_generators,
)
from model.sampling.guidance import Branch, Guidance
from model.sampling.schedulers import make_scheduler
from model.weights.bases import STABLE_DIFFUSION_2_BASE

pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")  # diffusers' schedulers on numpy 2
WIDTH, SIDE = 16, 8
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def unet() -> SubjectUNet:
    torch.manual_seed(0)
    base = UNet2DConditionModel(
        sample_size=SIDE,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=(2, 4),
        cross_attention_dim=WIDTH,
        norm_num_groups=8,
    )
    net = SubjectUNet(base, ModelConfig(adapter_feed_forward=True)).eval().requires_grad_(False)
    for name, weight in net.named_parameters():
        if "gamma" in name:
            weight.fill_(0.5)
    net.base.conv_in.weight.normal_(std=0.2)
    return net


def conditions(images: int, seed: int = 0) -> Conditions:
    generator = torch.Generator().manual_seed(seed)
    return Conditions(
        text=torch.randn(images, 7, WIDTH, generator=generator),
        adapter=AdapterInputs(tokens=torch.randn(images, 10, WIDTH, generator=generator)),
        location_mask=(torch.rand(images, 1, SIDE, SIDE, generator=generator) > 0.5).float(),
    )


def empty_text() -> Tensor:
    return torch.full((1, 7, WIDTH), 0.1)


def denoiser(
    unet: SubjectUNet, given: Conditions, guidance: Guidance, null: NullBranches = NullBranches.ADAPTER_OFF
) -> GuidedDenoiser:
    coefficients = guidance.subject_coefficients()
    return GuidedDenoiser(unet, [branch_conditions(b, given, empty_text(), null) for b in coefficients], coefficients)


def plain(unet: SubjectUNet, given: Conditions, guidance: Guidance, null: NullBranches) -> Denoiser:
    """Denoiser that evaluates each branch separately, without a cache, by InstructPix2Pix's formula as printed."""

    def eps(branch: Branch, z_t: Tensor, t: float) -> Tensor:
        times = torch.full((len(z_t),), int(t))
        predicted: Tensor = unet(z_t, times, branch_conditions(branch, given, empty_text(), null))
        return predicted

    def denoise(z_t: Tensor, t: float) -> Tensor:
        full, image, none = (eps(b, z_t, t) for b in (Branch.TEXT_AND_IMAGE, Branch.IMAGE, Branch.NEITHER))
        return none + guidance.image * (image - none) + guidance.text * (full - image)

    return denoise


def pndm() -> PNDMScheduler:
    return PNDMScheduler(**STABLE_DIFFUSION_2_BASE.scheduler)


def run(denoise: Denoiser, seeds: Sequence[int], scheduler: Any = None, steps: int = 6) -> Tensor:
    generators = seeded_generators(seeds)
    return sample(denoise, scheduler or pndm(), initial_noise(generators, (4, SIDE, SIDE), CPU), generators, steps)


@pytest.mark.parametrize("null", list(NullBranches))
def test_one_batch_with_cached_keys_equals_branch_by_branch(unet: SubjectUNet, null: NullBranches) -> None:
    given, guidance = conditions(2), Guidance(text=3, image=1.5)
    ours = run(denoiser(unet, given, guidance, null), [1, 2])
    assert (ours - run(plain(unet, given, guidance, null), [1, 2])).abs().max() <= 1e-5


def test_constant_keys_and_values_are_projected_once(unet: SubjectUNet) -> None:
    """Each of 16 layers projects once, not 51 times 3; counted by hooks of the projections."""
    calls: Counter[str] = Counter()
    names = {m: n for n, m in unet.named_modules() if n.endswith(("attn2.to_k", "attn2.to_v", "from_tokens", "to_q"))}
    handles = [m.register_forward_hook(lambda m, *_: calls.update([names[m]])) for m in names]
    try:
        run(denoiser(unet, conditions(1), Guidance()), [0], steps=50)
    finally:
        for handle in handles:
            handle.remove()
    constant = {name: count for name, count in calls.items() if not name.endswith("to_q")}
    assert set(constant.values()) == {1}
    assert len(constant) == 4 * 3
    assert {count for name, count in calls.items() if name.endswith("to_q")} == {51}


def test_fifty_steps_of_pndm_are_51_evaluations_and_are_reported(unet: SubjectUNet) -> None:
    seen: list[SamplingProgress] = []
    generators = seeded_generators([0])
    noise = initial_noise(generators, (4, SIDE, SIDE), CPU)
    result = sample(denoiser(unet, conditions(1), Guidance()), pndm(), noise, generators, 50, seen.append)
    assert [(p.done, p.total) for p in seen] == [(i, 51) for i in range(1, 52)]
    assert torch.equal(seen[-1].latents, result)


def rows(unet: SubjectUNet, guidance: Guidance) -> int:
    seen: list[int] = []
    handle = unet.base.conv_in.register_forward_hook(lambda _, args, __: seen.append(len(args[0])))
    try:
        denoiser(unet, conditions(2), guidance)(torch.zeros(2, 4, SIDE, SIDE), 1)
    finally:
        handle.remove()
    return seen[0] // 2


@pytest.mark.parametrize(("text", "image", "count"), [(3, 1.5, 3), (3, 1, 2), (0, 1.5, 2), (2, 2, 2), (1, 1, 1)])
def test_branches_without_weight_are_not_run(unet: SubjectUNet, text: float, image: float, count: int) -> None:
    assert rows(unet, Guidance(text=text, image=image)) == count


def test_adapters_do_not_run_for_the_branch_without_an_image(unet: SubjectUNet) -> None:
    *_, adapter = unet.adapters()
    seen: list[int] = []
    handle = adapter.S.to_q.register_forward_hook(lambda _, args, __: seen.append(len(args[0])))
    try:
        denoiser(unet, conditions(2), Guidance())(torch.zeros(2, 4, SIDE, SIDE), 1)
    finally:
        handle.remove()
    assert seen == [4]


@pytest.mark.parametrize("null", list(NullBranches))
@pytest.mark.parametrize("coefficients", [Guidance().subject_coefficients(), Guidance().text_coefficients()])
def test_layers_before_the_text_run_once_for_branches_that_differ_in_text(
    unet: SubjectUNet, coefficients: dict[Branch, float], null: NullBranches
) -> None:
    given, z_t = conditions(2), torch.randn(2, 4, SIDE, SIDE)
    branches = [branch_conditions(branch, given, empty_text(), null) for branch in coefficients]
    denoise = GuidedDenoiser(unet, branches, coefficients)
    seen: list[int] = []
    first, *_, last = unet.blocks()
    handles = [b.attn1.to_q.register_forward_hook(lambda _, args, __: seen.append(len(args[0]))) for b in (first, last)]
    try:
        shared = denoise(z_t, 3)
    finally:
        for handle in handles:
            handle.remove()
    assert seen == [2 * len(branches) - 2, 2 * len(branches)]
    all_rows = z_t.repeat(len(branches), 1, 1, 1)
    projected = unet.project_keys_values(concatenate_conditions(branches))
    together = unet(all_rows, torch.full((len(all_rows),), 3.0), projected).chunk(len(branches))
    expected = combine_branches(dict(zip(coefficients, together, strict=True)), coefficients)
    assert (shared - expected).abs().max() <= 5e-6 * expected.abs().max()  # kernels round by the size of their batch


def test_null_branches_do_not_depend_on_dropped_conditions() -> None:
    given = conditions(2)
    neither = branch_conditions(Branch.NEITHER, given, empty_text(), NullBranches.ADAPTER_OFF)
    assert torch.equal(neither.text, empty_text().expand(2, -1, -1))
    assert neither.adapter is None
    assert neither.location_mask is not None
    assert neither.location_mask.abs().max() == 0
    zeros = branch_conditions(Branch.NEITHER, given, empty_text(), NullBranches.ZERO_TOKENS)
    assert zeros.adapter is not None
    assert zeros.adapter.tokens.abs().max() == 0
    image = branch_conditions(Branch.IMAGE, given, empty_text(), NullBranches.ADAPTER_OFF)
    assert image.adapter is given.adapter
    assert torch.equal(image.text, neither.text)


@pytest.mark.parametrize("scheduler_class", [pndm, EulerAncestralDiscreteScheduler])
def test_an_image_is_the_same_alone_or_in_a_batch(unet: SubjectUNet, scheduler_class: Callable[[], Any]) -> None:
    scheduler = scheduler_class()
    both, guidance = conditions(2), Guidance()
    second = replace(
        both,
        text=both.text[1:],
        adapter=AdapterInputs(tokens=both.adapter.tokens[1:]),  # type: ignore[union-attr]
        location_mask=both.location_mask[1:],  # type: ignore[index]
    )
    in_batch = run(denoiser(unet, both, guidance), [5, 6], scheduler)
    alone = run(denoiser(unet, second, guidance), [6], scheduler)
    assert (in_batch[1:] - alone).abs().max() <= 1e-5 * alone.abs().max()
    assert torch.equal(in_batch, run(denoiser(unet, both, guidance), [5, 6], scheduler))
    assert not torch.allclose(in_batch, run(denoiser(unet, both, guidance), [5, 7], scheduler), atol=1e-2)


def test_ddim_does_not_clip_latents() -> None:
    """Sampling reaches known latents beyond 1 if the base's settings do not mention clipping."""
    z_0 = torch.linspace(-4, 4, 4 * SIDE * SIDE).view(1, 4, SIDE, SIDE)
    settings = {name: value for name, value in STABLE_DIFFUSION_2_BASE.scheduler.items() if name != "clip_sample"}
    scheduler = make_scheduler("DDIM", settings)

    def knows(z_t: Tensor, t: float) -> Tensor:
        alpha = scheduler.alphas_cumprod[int(t)]
        return (z_t - alpha.sqrt() * z_0) / (1 - alpha).sqrt()

    assert (run(knows, [0], scheduler, steps=30) - z_0).abs().max() <= 0.12


SCHEDULERS = [
    "DDIMScheduler",
    "DDPMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "UniPCMultistepScheduler",
]


@pytest.mark.parametrize("name", SCHEDULERS)
def test_any_scheduler_reaches_the_latents_that_the_denoiser_knows(name: str) -> None:
    """With a denoiser that knows z_0, every scheduler must reach it, which checks scales and timesteps.

    Some stop at the noise of t = 0, whose standard deviation is .03.
    """
    settings = {k: v for k, v in STABLE_DIFFUSION_2_BASE.scheduler.items() if k != "skip_prk_steps"}
    try:
        scheduler = getattr(diffusers, name).from_config(settings | {"clip_sample": False})
    except ImportError as missing:  # LMSDiscreteScheduler integrates with scipy
        pytest.skip(str(missing))
    z_0 = torch.linspace(-1, 1, 4 * SIDE * SIDE).view(1, 4, SIDE, SIDE)
    alphas = PNDMScheduler(**STABLE_DIFFUSION_2_BASE.scheduler).alphas_cumprod

    def knows(z_t: Tensor, t: float) -> Tensor:
        low = min(int(t), 998)
        alpha = torch.lerp(alphas[low], alphas[low + 1], t - low)
        return (z_t - alpha.sqrt() * z_0) / (1 - alpha).sqrt()

    assert (run(knows, [0], scheduler, steps=30) - z_0).abs().max() <= 0.12


def trace(interpolation: Interpolation, scheduler: Any, steps: int) -> list[str]:
    """Return the name of the denoiser that each evaluation used."""
    asked: list[str] = []

    def named(name: str) -> Denoiser:
        def eps(z_t: Tensor, t: float) -> Tensor:
            asked.append(name)
            return torch.zeros_like(z_t)

        return eps

    run(interpolate_denoisers(interpolation, 1000, named("subject"), named("text")), [0], scheduler, steps)
    return asked


def ddim() -> DDIMScheduler:
    return DDIMScheduler(clip_sample=False)


def test_equation_4_and_its_reverse() -> None:
    assert trace(Interpolation(alpha=0.3), ddim(), 10) == ["subject"] * 7 + ["text"] * 3
    assert trace(Interpolation(alpha=0.3, first=Phase.TEXT), ddim(), 10) == ["text"] * 7 + ["subject"] * 3


@pytest.mark.parametrize("make", [ddim, pndm])
def test_equation_4_at_its_ends(make: Callable[[], Any]) -> None:
    assert set(trace(Interpolation(alpha=0), make(), 10)) == {"subject"}
    assert set(trace(Interpolation(alpha=1), make(), 10)) == {"text"}


def test_concatenating_keeps_biases_and_gates() -> None:
    given = conditions(1)
    assert given.adapter is not None
    weaker = replace(given, adapter=replace(given.adapter, bias=torch.full((1, 10), -1.0), gate=torch.ones(1)))
    both = concatenate_conditions(
        [weaker, weaker, branch_conditions(Branch.NEITHER, weaker, empty_text(), NullBranches.ADAPTER_OFF)]
    )
    assert both.adapter is not None
    assert both.adapter.bias is not None
    assert both.adapter.bias.shape == both.adapter.tokens.shape[:2] == (2, 10)
    assert both.adapter.gate is not None
    assert torch.equal(both.adapter.gate, torch.ones(2))
    assert both.text.shape[0] == 3
