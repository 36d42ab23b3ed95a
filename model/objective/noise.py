"""The base's noise schedule: adds noise to latents and gives the target that the network predicts.

Axes: B images, C latent channels, H W rows and columns of the latent.
"""

from collections.abc import Mapping

import torch
from diffusers import DDPMScheduler
from jaxtyping import Float, Int
from torch import Tensor, nn

from model.errors import ModelWeightsError

EPSILON, VELOCITY = "epsilon", "v_prediction"
_KINDS: Mapping[str, tuple[type, ...]] = {
    "num_train_timesteps": (int,),
    "beta_start": (float, int),
    "beta_end": (float, int),
    "steps_offset": (int,),
    "rescale_betas_zero_snr": (bool, type(None)),
}
"""Kinds of the JSON values of settings that diffusers itself does not check when it reads them."""
_SPACINGS = ("leading", "linspace", "trailing")
_MAX_STEPS = 100_000


class NoiseSchedule(nn.Module):
    """q(z_t | z_0) of the base's scheduler, with its table on the network's device.

    Args:
        settings: configuration of any diffusers scheduler.

    Raises:
        ModelWeightsError: the scheduler predicts neither noise nor velocity, or its settings are of the wrong kind.
    """

    def __init__(self, settings: Mapping[str, object]) -> None:
        super().__init__()
        try:
            _refuse_wrong_values(settings)
            scheduler = DDPMScheduler.from_config(dict(settings))
            if (shape := scheduler.alphas_cumprod.shape) != (scheduler.config.num_train_timesteps,):
                raise ValueError(f"{list(shape)} betas for {scheduler.config.num_train_timesteps} steps")
            if not _within_bounds(scheduler.alphas_cumprod):
                raise ValueError("betas outside 0 to 1")
        except Exception as error:  # diffusers raises many kinds for invalid settings
            raise ModelWeightsError(
                f"the settings of the base's scheduler make no schedule of noise ({type(error).__name__}: "
                f"{' '.join(str(error).split())[:80]}): copy or download its scheduler_config.json again"
            ) from error
        self.prediction: str = scheduler.config.prediction_type
        if self.prediction not in (EPSILON, VELOCITY):
            raise ModelWeightsError(
                f"the base's scheduler has prediction_type={self.prediction!r}; use a base with {EPSILON!r} or "
                f"{VELOCITY!r}"
            )
        self.steps: int = scheduler.config.num_train_timesteps
        table = scheduler.alphas_cumprod.to(torch.get_default_device())  # it may be on another device
        self.alphas_cumprod = nn.Buffer(table, persistent=False)

    def add_noise(
        self, z_0: Float[Tensor, "B C H W"], eps: Float[Tensor, "B C H W"], t: Int[Tensor, " B"]
    ) -> Float[Tensor, "B C H W"]:
        """Return z_t, the latent z_0 with the noise of timestep t."""
        signal, noise = self._scales(t)
        return signal * z_0 + noise * eps

    def target(
        self, z_0: Float[Tensor, "B C H W"], eps: Float[Tensor, "B C H W"], t: Int[Tensor, " B"]
    ) -> Float[Tensor, "B C H W"]:
        """Return the target of Eq. 3: the noise, or the velocity if the base predicts velocities."""
        if self.prediction == EPSILON:
            return eps
        signal, noise = self._scales(t)
        return signal * eps - noise * z_0

    def _scales(self, t: Int[Tensor, " B"]) -> tuple[Tensor, Tensor]:
        alpha = self.alphas_cumprod[t][:, None, None, None]
        return alpha.sqrt(), (1.0 - alpha).sqrt()


def _within_bounds(alphas_cumprod: Tensor) -> bool:
    """Return whether all values are in 0 to 1, or there are none: a network may be built without memory."""
    if alphas_cumprod.is_meta or type(alphas_cumprod) is not Tensor:  # PyTorch's fake tensors are a subclass
        return True
    return bool(((alphas_cumprod >= 0) & (alphas_cumprod <= 1)).all())


def _refuse_wrong_values(settings: Mapping[str, object]) -> None:
    """Check settings whose value diffusers uses only when it samples, or that would take it for ever.

    Raises:
        ValueError: a value is of the wrong kind, or out of range.
    """
    for name, kinds in _KINDS.items():
        if name in settings and type(settings[name]) not in kinds:
            raise ValueError(f"{name}={settings[name]!r}")
    steps = settings.get("num_train_timesteps", 1)
    assert isinstance(steps, int)
    if not 0 < steps <= _MAX_STEPS:
        raise ValueError(f"num_train_timesteps={steps} is not in 1 to {_MAX_STEPS}")
    if (spacing := settings.get("timestep_spacing", _SPACINGS[0])) not in _SPACINGS:
        raise ValueError(f"timestep_spacing={spacing!r} is not one of {', '.join(_SPACINGS)}")
