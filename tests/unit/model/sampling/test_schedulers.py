"""Schedulers get the settings that latents need, and those that do not suit the noise schedule are refused."""

import inspect
from typing import Any

import diffusers
import pytest
from diffusers import HeunDiscreteScheduler

from model.sampling.schedulers import make_scheduler, refuse_unsuited
from model.weights.bases import STABLE_DIFFUSION_2_BASE

pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")  # diffusers on numpy 2


def without(*names: str) -> dict[str, Any]:
    """Stable Diffusion's scheduler settings without those of `names`."""
    settings = STABLE_DIFFUSION_2_BASE.scheduler | {"clip_sample": False}
    return {name: value for name, value in settings.items() if name not in names}


@pytest.mark.filterwarnings("ignore:The configuration file:FutureWarning")
@pytest.mark.parametrize("name", ["DDIM", "DDPM", "PNDM", "EulerDiscrete", "LCM"])
@pytest.mark.parametrize(
    "settings",
    [
        without(),
        without("clip_sample"),
        without("clip_sample", "steps_offset"),
        without() | {"clip_sample": True, "steps_offset": 0},
    ],
)
def test_a_scheduler_has_the_settings_that_stable_diffusions_own_pipeline_gives_it(
    name: str, settings: dict[str, Any]
) -> None:
    ours = make_scheduler(name, settings)
    theirs = getattr(diffusers, f"{name}Scheduler").from_config(settings)
    networks = dict.fromkeys(("vae", "text_encoder", "tokenizer", "unet", "safety_checker", "feature_extractor"))
    pipeline = diffusers.StableDiffusionPipeline(**networks, scheduler=theirs, requires_safety_checker=False)
    used = inspect.signature(type(theirs).__init__).parameters
    for setting in {"clip_sample", "steps_offset", "set_alpha_to_one"} & used.keys():
        assert ours.config.get(setting) == pipeline.scheduler.config.get(setting), setting


def test_the_last_alpha_is_not_one_by_default() -> None:
    assert make_scheduler("DDIM", without("set_alpha_to_one")).config.set_alpha_to_one is False


@pytest.mark.parametrize("name", ["HeunDiscrete", "KDPM2AncestralDiscrete"])
def test_a_scheduler_that_cannot_start_from_pure_noise_is_refused_where_the_schedule_ends_in_it(name: str) -> None:
    refuse_unsuited(make_scheduler(name, without()))
    with pytest.raises(ValueError, match=f"'{name}' gives black images"):
        make_scheduler(name, without() | {"rescale_betas_zero_snr": True})
    scheduler = HeunDiscreteScheduler.from_config(without() | {"rescale_betas_zero_snr": True})
    with pytest.raises(ValueError, match="'HeunDiscrete' gives black images"):
        refuse_unsuited(scheduler)
