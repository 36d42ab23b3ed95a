"""The schedule agrees with diffusers' schedulers, for noise and for velocity."""

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler

from model.errors import ModelWeightsError
from model.objective.noise import NoiseSchedule
from model.weights.bases import STABLE_DIFFUSION_2_1, STABLE_DIFFUSION_2_BASE


def draw():
    torch.manual_seed(0)
    return torch.randn(3, 4, 8, 8), torch.randn(3, 4, 8, 8), torch.tensor([0, 500, 999])


def test_z_t_is_diffusers():
    z_0, eps, t = draw()
    theirs = DDPMScheduler.from_config(dict(STABLE_DIFFUSION_2_BASE.scheduler)).add_noise(z_0, eps, t)
    assert torch.allclose(NoiseSchedule(STABLE_DIFFUSION_2_BASE.scheduler).add_noise(z_0, eps, t), theirs, atol=1e-6)


def test_the_target_is_the_noise_or_the_velocity():
    z_0, eps, t = draw()
    assert torch.equal(NoiseSchedule(STABLE_DIFFUSION_2_BASE.scheduler).target(z_0, eps, t), eps)
    theirs = DDPMScheduler.from_config(dict(STABLE_DIFFUSION_2_1.scheduler)).get_velocity(z_0, eps, t)
    assert torch.allclose(NoiseSchedule(STABLE_DIFFUSION_2_1.scheduler).target(z_0, eps, t), theirs, atol=1e-6)


def test_a_sampler_recovers_z_0_from_the_target():
    z_0, eps, t = draw()
    noise = NoiseSchedule(STABLE_DIFFUSION_2_1.scheduler)
    ddim = DDIMScheduler.from_config(dict(STABLE_DIFFUSION_2_1.scheduler), clip_sample=False)
    ddim.set_timesteps(1000)
    z_t, v = noise.add_noise(z_0, eps, t), noise.target(z_0, eps, t)
    predicted = ddim.step(v[1:2], 500, z_t[1:2]).pred_original_sample
    assert torch.allclose(predicted, z_0[1:2], atol=1e-4)


def test_other_targets_are_refused():
    with pytest.raises(ModelWeightsError, match="prediction_type='sample'"):
        NoiseSchedule(STABLE_DIFFUSION_2_BASE.scheduler | {"prediction_type": "sample"})


@pytest.mark.parametrize(
    "wrong",
    [
        {"num_train_timesteps": True},
        {"num_train_timesteps": 10**25},
        {"num_train_timesteps": 0},
        {"beta_start": "0.1"},
        {"beta_end": -7},
        {"beta_end": float("nan")},
        {"steps_offset": 1.5},
        {"steps_offset": None},
        {"timestep_spacing": None},
        {"timestep_spacing": ["leading"]},
        {"rescale_betas_zero_snr": "no"},
    ],
)
def test_values_that_would_fail_or_hang_later_are_refused(wrong):
    with pytest.raises(ModelWeightsError, match="settings of the base's scheduler make no schedule of noise"):
        NoiseSchedule(STABLE_DIFFUSION_2_BASE.scheduler | wrong)
