"""From noise to latents: guided denoising by any diffusers scheduler, and Eq. 4.

A step runs all branches of guidance in one batch. What a branch is conditioned on never changes, so every layer's keys
and values of text and image tokens are made once, before the first step.

Axes: B images, C latent channels, H W rows and columns of the latent, T text tokens, D width.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import diffusers
import torch
from jaxtyping import Float
from torch import Tensor

from model.config import NullBranches
from model.networks.adapter import AdapterInputs
from model.networks.unet import Conditions, SubjectUNet
from model.sampling.config import Interpolation, Phase
from model.sampling.guidance import Branch

_DEFAULTS = {"set_alpha_to_one": False}
"""Settings of Stable Diffusion's schedulers, for a base that does not name them."""
_FIXED = {
    "clip_sample": False,  # the default of some clips to [-1, 1], which pixels keep and latents do not
    "steps_offset": 1,
    "skip_prk_steps": True,  # else PNDM takes 59 evaluations for 50 steps, the first of them Runge-Kutta's
}
"""Settings that sampling fixes, the first two as diffusers' StableDiffusionPipeline does."""
Denoiser = Callable[[Float[Tensor, "B C H W"], float], Float[Tensor, "B C H W"]]
"""eps_t of z_t and of t, which counts down from the scheduler's `num_train_timesteps` - 1."""


@dataclass(frozen=True)
class SamplingProgress:
    """How far an image is."""

    done: int
    """Evaluations of the network so far. PNDM takes 51 of them for 50 steps."""
    total: int
    latents: Float[Tensor, "B C H W"]


OnStep = Callable[[SamplingProgress], None]


class GuidedDenoiser:
    """eps_theta under guidance, for one batch of images.

    Args:
        conditions: of each branch, in the order of `coefficients`.
        coefficients: of `Guidance`.
    """

    def __init__(
        self, unet: SubjectUNet, conditions: Sequence[Conditions], coefficients: Mapping[Branch, float]
    ) -> None:
        self._unet = unet
        self._coefficients = coefficients
        self._conditions = unet.project_keys_values(
            _cast(concatenate_conditions(conditions), unet.base.conv_in.weight.dtype)
        )

    def __call__(self, z_t: Float[Tensor, "B C H W"], t: float) -> Float[Tensor, "B C H W"]:
        branches = list(self._coefficients)
        rows = z_t.to(self._conditions.text.dtype).repeat(len(branches), 1, 1, 1)
        timesteps = torch.full((len(rows),), t, device=rows.device)
        predictions = self._unet(rows, timesteps, self._conditions).chunk(len(branches))
        return combine_branches(dict(zip(branches, predictions, strict=True)), self._coefficients)


def combine_branches(
    predictions: Mapping[Branch, Float[Tensor, "B C H W"]], coefficients: Mapping[Branch, float]
) -> Float[Tensor, "B C H W"]:
    """The branches' predictions as one, in float32."""
    weighted = [coefficient * predictions[branch].float() for branch, coefficient in coefficients.items()]
    return torch.stack(weighted).sum(dim=0)


def _cast(conditions: Conditions, dtype: torch.dtype) -> Conditions:
    adapter = conditions.adapter
    if adapter is not None:
        gate = None if adapter.gate is None else adapter.gate.to(dtype)
        adapter = replace(adapter, tokens=adapter.tokens.to(dtype), gate=gate)
    return replace(conditions, text=conditions.text.to(dtype), adapter=adapter)


def branch_conditions(
    branch: Branch, conditions: Conditions, empty_text: Float[Tensor, "1 T D"], null: NullBranches
) -> Conditions:
    """`conditions` without what `branch` leaves out.

    Args:
        empty_text: the text condition of the empty prompt.
    """
    text = conditions.text if branch.has_text else empty_text.expand_as(conditions.text)
    if branch.has_image:
        return replace(conditions, text=text)
    mask = None if conditions.location_mask is None else torch.zeros_like(conditions.location_mask)
    adapter = None
    if null is NullBranches.ZERO_TOKENS and conditions.adapter is not None:
        adapter = replace(conditions.adapter, tokens=torch.zeros_like(conditions.adapter.tokens))
    return Conditions(text, adapter, mask)


def concatenate_conditions(conditions: Sequence[Conditions]) -> Conditions:
    """One batch of several. Those with adapter tokens come first, as the adapters take it."""
    masks = [part.location_mask for part in conditions if part.location_mask is not None]
    adapters = [part.adapter for part in conditions if part.adapter is not None]
    return Conditions(
        text=torch.cat([part.text for part in conditions]),
        adapter=_stacked_adapters(adapters) if adapters else None,
        location_mask=torch.cat(masks) if masks else None,
    )


def _stacked_adapters(adapters: Sequence[AdapterInputs]) -> AdapterInputs:
    biases = [part.bias for part in adapters if part.bias is not None]
    gates = [part.gate for part in adapters if part.gate is not None]
    centres = [part.patch_centres for part in adapters if part.patch_centres is not None]
    return AdapterInputs(
        tokens=torch.cat([part.tokens for part in adapters]),
        bias=torch.cat(biases) if biases else None,
        gate=torch.cat(gates) if gates else None,
        patch_centres=torch.cat(centres) if centres else None,
    )


def interpolate_denoisers(
    interpolation: Interpolation, steps: int, of_subject: Denoiser, of_text: Denoiser
) -> Denoiser:
    """eps_t, by subject and text or by text alone.

    Paper: Eq. 4,  eps_t = eps_theta(z_t, t, y', x_s, l, l_m) if t > alpha T, eps_theta(z_t, t, y) otherwise.

    Args:
        steps: T, of the noise schedule in training.

    Choice: the paper's t runs from 1 to T, diffusers' from 0 to T - 1: alpha = 0 is all first phase, 1 all second.
    """
    first, second = (of_subject, of_text) if interpolation.first is Phase.SUBJECT else (of_text, of_subject)

    def eps_t(z_t: Float[Tensor, "B C H W"], t: float) -> Float[Tensor, "B C H W"]:
        return first(z_t, t) if t + 1 > interpolation.alpha * steps else second(z_t, t)

    return eps_t


def make_scheduler(name: str, noise_schedule: Mapping[str, Any]) -> Any:
    """A fresh scheduler of diffusers, for latents.

    Args:
        noise_schedule: settings of the base's scheduler, of whatever kind that is.

    Raises:
        ValueError: diffusers has none of that name, or one that samples in another way.
    """
    scheduler_class = getattr(diffusers, f"{name}Scheduler", None)
    if scheduler_class is None:
        known = sorted(found.removesuffix("Scheduler") for found in dir(diffusers) if found.endswith("Scheduler"))
        raise ValueError(f"sampling.scheduler={name!r} is no scheduler of diffusers; there are {', '.join(known)}")
    try:
        scheduler = scheduler_class.from_config(_scheduler_settings(scheduler_class, noise_schedule))
        steps_alone = _asks_for(scheduler.step) <= {"model_output", "timestep", "sample"}
    except (TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"sampling.scheduler={name!r} does not take the base's noise schedule: {error}") from error
    if not steps_alone or not hasattr(scheduler, "init_noise_sigma"):
        raise ValueError(f"sampling.scheduler={name!r} does not step from noise to an image alone: DDIM or PNDM do")
    return scheduler


def _scheduler_settings(scheduler_class: Any, noise_schedule: Mapping[str, Any]) -> dict[str, Any]:
    """The base's settings, and of the others those that this scheduler has."""
    settings = _DEFAULTS | dict(noise_schedule) | _FIXED
    accepted = inspect.signature(scheduler_class.__init__).parameters
    return {name: value for name, value in settings.items() if name in noise_schedule or name in accepted}


def _asks_for(function: Callable[..., Any]) -> set[str]:
    """Names of what has to be given."""
    asked = inspect.signature(function).parameters.values()
    return {one.name for one in asked if one.default is one.empty and one.kind is not one.VAR_KEYWORD}


def seeded_generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """One source of noise per image, the same on every device, so that an image does not depend on its batch."""
    return [torch.Generator("cpu").manual_seed(seed) for seed in seeds]


def initial_noise(
    generators: Sequence[torch.Generator], shape: tuple[int, int, int], device: torch.device
) -> Float[Tensor, "B C H W"]:
    """z_T for the seeds of `generators`, in float32.

    Args:
        shape: C, H, W.
    """
    return torch.stack([torch.randn(shape, generator=generator) for generator in generators]).to(device)


def sample(
    denoise: Denoiser,
    scheduler: Any,
    z_T: Float[Tensor, "B C H W"],
    generators: Sequence[torch.Generator],
    steps: int,
    on_step: OnStep | None = None,
) -> Float[Tensor, "B C H W"]:
    """z_0 of z_T.

    Args:
        scheduler: any of diffusers', of the base's noise schedule; its state is started afresh.
        generators: one per image, for schedulers that add noise on the way.
        on_step: called after each evaluation of the network.
    """
    scheduler.set_timesteps(steps)  # kept on the CPU: no step waits for the device
    adds_noise = "generator" in inspect.signature(scheduler.step).parameters
    options = {"generator": list(generators)} if adds_noise else {}
    z_t: Tensor = z_T * scheduler.init_noise_sigma
    for done, t in enumerate(scheduler.timesteps, start=1):
        eps_t = denoise(scheduler.scale_model_input(z_t, t), float(t))
        z_t = scheduler.step(eps_t, t, z_t, **options).prev_sample
        if on_step is not None:
            on_step(SamplingProgress(done, len(scheduler.timesteps), z_t))
    return z_t
