"""Times generation with the committed small model on the CPU, against naive ways with the same weights (`make bench`).

CPU seconds of one thread, the medians of five pairs. The figures of docs/benchmarks/generation.md are of an idle
machine. The images of both ways are compared as well.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from miniature.scoring.cases import Case, cases
from model.config import NullBranches
from model.inputs.reference import Subject
from model.networks.unet import Conditions
from model.pipeline import SubjectDiffusionPipeline
from model.sampling.conditioning import encode_rows
from model.sampling.denoising import branch_conditions, sample, seeded_generators
from model.sampling.guidance import Branch, Guidance
from model.sampling.references import ReferenceEncoder
from model.sampling.rows import spread_rows
from model.sampling.schedulers import make_scheduler
from tests.benchmarks.history import Better, Recorder
from tests.benchmarks.pairs import cpu_seconds_of, in_turns

pytestmark = [pytest.mark.bench, pytest.mark.usefixtures("one_thread")]
MODEL = Path("miniature/weights/subject_diffusion")
GUIDANCE = Guidance(text=2.0, image=4.0)


@pytest.fixture(scope="module")
def pipeline() -> SubjectDiffusionPipeline:
    loaded = SubjectDiffusionPipeline.from_pretrained(MODEL)
    loaded.set_progress_bar_config(disable=True)
    return loaded


@pytest.fixture
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def subjects(case: Case) -> list[Subject]:
    return [Subject(one.image, one.label, one.mask, one.box, one.place) for one in case.subjects]


CheckRatio = Callable[[str, Callable[[], Any], Callable[[], Any], float], None]


@pytest.fixture
def check_ratio(record: Recorder) -> CheckRatio:
    """Records how many times fewer CPU seconds ours takes than the naive way, and fails below the gate."""

    def check(name: str, naive: Callable[[], Any], ours: Callable[[], Any], at_least: float) -> None:
        before, after, ratio = in_turns(partial(cpu_seconds_of, naive), partial(cpu_seconds_of, ours))
        print(f"\n{name}, the naive way: {before:.3f} CPU s", end="")
        record(name, after, "CPU s")
        record(f"{name}: naive over ours", ratio, better=Better.MORE)
        print(f" (at least {at_least:g})", end="")
        assert ratio.median >= at_least

    return check


@torch.no_grad()
def test_sampling_against_three_passes_per_step(pipeline: SubjectDiffusionPipeline, check_ratio: CheckRatio) -> None:
    """Two subjects, 50 steps; the naive sampler evaluates branch by branch and projects keys and values each time."""
    case = next(iter(cases(2)))
    net, given = pipeline._model(), subjects(case)

    def ours() -> Tensor:
        pipeline.clear_caches()
        latents: Tensor = pipeline(
            case.prompt, given, num_inference_steps=50, generator=seeded_generators([0]), output_type="latent"
        ).images
        return latents

    def naive() -> Tensor:
        rows = spread_rows(case.prompt, None, given, 1, seeded_generators([0]), 2)
        size = (net.latent_side, net.latent_side)
        places = pipeline._choose_places(rows, "auto", net.config.location_mask, size, None)
        encoded = encode_rows(net, ReferenceEncoder(pipeline._references._pictures), rows, places, size)
        adapter = encoded.conditions.adapter
        assert adapter is not None
        without = Conditions(
            encoded.conditions.text,
            type(adapter)(adapter.tokens, adapter.bias, adapter.gate, adapter.patch_centres),
            encoded.conditions.location_mask,
        )

        def branch(which: Branch, z_t: Tensor, t: float) -> Tensor:
            conditions = branch_conditions(which, without, net.empty_text(), NullBranches.ADAPTER_OFF)
            predicted: Tensor = net.unet(z_t, torch.full((1,), t), conditions)
            return predicted

        def denoise(z_t: Tensor, t: float) -> Tensor:
            full, image, neither = (branch(b, z_t, t) for b in (Branch.TEXT_AND_IMAGE, Branch.IMAGE, Branch.NEITHER))
            return neither + GUIDANCE.image * (image - neither) + GUIDANCE.text * (full - image)

        noise = torch.randn(1, net.unet.latent_channels, *size, generator=seeded_generators([0])[0])
        return sample(denoise, make_scheduler("DDIM", net.scheduler), noise, None, 50)

    assert (naive() - ours()).abs().max() < 1e-3
    check_ratio("G1 two subjects, 50 steps, against three passes", naive, ours, 1.5)


def test_caches_of_photos_and_of_keys_and_values(pipeline: SubjectDiffusionPipeline, check_ratio: CheckRatio) -> None:
    """What is spared from the second call with a subject on: everything before the first step but the text."""
    case = next(iter(cases(1)))
    given = subjects(case)

    def first() -> None:
        pipeline.clear_caches()
        pipeline.encode_prompt(case.prompt, given)

    check_ratio("G2 conditions of a known subject", first, lambda: pipeline.encode_prompt(case.prompt, given), 1.2)


def test_eight_prompts_of_one_subject_in_one_call(pipeline: SubjectDiffusionPipeline, check_ratio: CheckRatio) -> None:
    case = next(iter(cases(1)))
    given, prompts = subjects(case), [f"{case.prompt} {number}" for number in range(8)]

    def apart() -> Any:
        return [pipeline(p, given, generator=seeded_generators([i])).images[0] for i, p in enumerate(prompts)]

    def together() -> Any:
        return pipeline(prompts, given, generator=seeded_generators(range(8))).images

    pairs = zip(apart(), together(), strict=True)
    assert max(np.abs(np.asarray(a, int) - np.asarray(b, int)).max() for a, b in pairs) <= 1
    check_ratio("G3 eight prompts of one subject, against eight calls", apart, together, 1.3)
