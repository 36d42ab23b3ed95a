"""Schedulers of diffusers for latents: made from the noise schedule of a base, with the settings that latents need."""

import inspect
from collections.abc import Callable, Mapping
from typing import Protocol, runtime_checkable

import diffusers
from torch import Tensor

_DEFAULTS = {"set_alpha_to_one": False}
"""Settings of Stable Diffusion's schedulers that a base may leave out."""
_FIXED = {
    "clip_sample": False,  # some schedulers clip to [-1, 1] by default, which suits pixels and not latents
    "steps_offset": 1,
    "skip_prk_steps": True,  # otherwise PNDM starts with Runge-Kutta and takes 59 evaluations for 50 steps
}
"""Settings that the sampler overrides, the first two as in diffusers' StableDiffusionPipeline."""
_NOT_FROM_PURE_NOISE = ("HeunDiscrete", "KDPM2AncestralDiscrete")
"""Schedulers that cannot start from pure noise, whose sigma is infinite: two of those of diffusers 0.42."""


class _Step(Protocol):
    """Result of one step of a diffusers scheduler."""

    prev_sample: Tensor


@runtime_checkable
class Scheduler(Protocol):
    """The interface of a diffusers scheduler that sampling needs."""

    config: Mapping[str, object]
    timesteps: Tensor
    init_noise_sigma: float
    step: Callable[..., _Step]

    def set_timesteps(self, num_inference_steps: int) -> None:
        """Start a new run of `num_inference_steps` steps."""

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return latents with the noise of the timesteps."""

    def scale_model_input(self, sample: Tensor, timestep: Tensor) -> Tensor:
        """Return the network's input for `sample`."""


def make_scheduler(name: str, noise_schedule: Mapping[str, object]) -> Scheduler:
    """Make a new diffusers scheduler for latents.

    Args:
        name: name of the scheduler without its ending "Scheduler".
        noise_schedule: settings of the base's scheduler, of any class.

    Raises:
        ValueError: diffusers has no scheduler of that name, its interface differs, or as `refuse_unsuited`.
    """
    scheduler_class = getattr(diffusers, f"{name}Scheduler", None)
    if scheduler_class is None:
        known = sorted(each.removesuffix("Scheduler") for each in dir(diffusers) if each.endswith("Scheduler"))
        raise ValueError(
            f"sampling.scheduler={name!r} is not a scheduler of diffusers: choose one of {', '.join(known)}"
        )
    try:
        scheduler: Scheduler = scheduler_class.from_config(_scheduler_settings(scheduler_class, noise_schedule))
        steps_alone = _required_arguments(scheduler.step) <= {"model_output", "timestep", "sample"}
    except (TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"sampling.scheduler={name!r} does not take the base's noise schedule: {error}") from error
    if not steps_alone or not hasattr(scheduler, "init_noise_sigma"):
        raise ValueError(f"sampling.scheduler={name!r} does not sample by itself: choose another, such as DDIM or PNDM")
    refuse_unsuited(scheduler)
    return scheduler


def suits(name: str, noise_schedule: Mapping[str, object]) -> bool:
    """Return whether a scheduler can start from the pure noise of a schedule with `rescale_betas_zero_snr`.

    Args:
        name: name of the scheduler without its ending "Scheduler".
        noise_schedule: settings of the base's scheduler, of any class.
    """
    return not (noise_schedule.get("rescale_betas_zero_snr") and name in _NOT_FROM_PURE_NOISE)


def refuse_unsuited(scheduler: Scheduler) -> None:
    """Refuse a scheduler whose images are black because it cannot start from pure noise.

    Raises:
        ValueError: the scheduler is one of those, and its noise schedule ends in pure noise.
    """
    name = name_of(scheduler)
    if not suits(name, scheduler.config):
        raise ValueError(
            f"sampling.scheduler={name!r} gives black images with this model, whose noise schedule ends in pure noise "
            "(rescale_betas_zero_snr): choose another, such as DDIM or DPMSolverMultistep"
        )


def name_of(scheduler: Scheduler) -> str:
    """Return the name of a scheduler without its ending "Scheduler"."""
    return type(scheduler).__name__.removesuffix("Scheduler")


def _scheduler_settings(scheduler_class: type, noise_schedule: Mapping[str, object]) -> dict[str, object]:
    """Return the base's settings, and those of ours that this scheduler accepts."""
    settings = _DEFAULTS | dict(noise_schedule) | _FIXED
    accepted = inspect.signature(scheduler_class).parameters
    return {name: value for name, value in settings.items() if name in noise_schedule or name in accepted}


def _required_arguments(function: Callable[..., object]) -> set[str]:
    """Return the names of arguments without a default."""
    arguments = inspect.signature(function).parameters.values()
    return {one.name for one in arguments if one.default is one.empty and one.kind is not one.VAR_KEYWORD}
