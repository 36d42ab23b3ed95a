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
            scheduler = DDPMScheduler.from_config(dict(settings))
            if (shape := scheduler.alphas_cumprod.shape) != (scheduler.config.num_train_timesteps,):
                raise ValueError(f"{list(shape)} betas for {scheduler.config.num_train_timesteps} steps")
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
