"""Guided denoising with any diffusers scheduler, and the interpolation of Eq. 4.

A step evaluates all branches of guidance in one batch. The conditions of a branch never change, so the keys and values
of text and image tokens are projected once for every layer, before the first step. The first two branches differ in
their text alone, so the layers before it compute one of them (`model/sampling/shared_rows.py`).

Axes: B images, C latent channels, H W rows and columns of the latent, T text tokens, D width.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from model.config import NullBranches
from model.networks.adapter import AdapterInputs, KeysValues
from model.networks.unet import Conditions, SubjectUNet
from model.sampling.attention import MapCollector
from model.sampling.config import Interpolation, Phase
from model.sampling.guidance import Branch
from model.sampling.schedulers import Scheduler
from model.sampling.shared_rows import share_first_rows

Denoiser = Callable[[Float[Tensor, "B C H W"], float], Float[Tensor, "B C H W"]]
"""Function that predicts the noise of a latent at a timestep, `num_train_timesteps` - 1 down to 0."""


@dataclass(frozen=True)
class SamplingProgress:
    """Progress of sampling after an evaluation of the network."""

    done: int
    """Number of evaluations so far. PNDM takes 51 of them for 50 steps."""
    total: int
    """Number of evaluations in all."""
    latents: Float[Tensor, "B C H W"]
    """Latents of the batch so far."""
    timestep: float = 0.0
    """Timestep of the evaluation."""
    following: float | None = None
    """Timestep of the next evaluation; None after the last."""


OnStep = Callable[[SamplingProgress], Tensor | None]
"""Function that is called after each evaluation of the network; latents that it returns replace those of the step."""


class GuidedDenoiser:
    """Denoiser with guidance for one batch of images.

    Args:
        unet: the denoising network.
        conditions: conditions of each branch, in the order of `coefficients`.
        coefficients: coefficient of each branch, from `Guidance`.
        rescale: share by which the result's standard deviation is brought to that of the prediction with all
            conditions, 0 to 1 (Lin et al. 2023, arXiv 2305.08891, Sec. 3.4).
        maps: collects attention maps, if they are wanted.
    """

    def __init__(
        self,
        unet: SubjectUNet,
        conditions: Sequence[Conditions],
        coefficients: Mapping[Branch, float],
        rescale: float = 0.0,
        maps: MapCollector | None = None,
    ) -> None:
        self._unet = unet
        self._coefficients = coefficients
        self._rescale = rescale
        self._maps = maps
        branches = list(coefficients)
        self._shares_rows = len(branches) > 1 and branches[0].has_image == branches[1].has_image
        self._conditions = unet.project_keys_values(
            _cast(concatenate_conditions(conditions), unet.base.conv_in.weight.dtype)
        )

    def __call__(self, z_t: Float[Tensor, "B C H W"], t: float) -> Float[Tensor, "B C H W"]:
        """Predict the noise of `z_t` at timestep `t`."""
        branches = list(self._coefficients)
        rows = z_t.to(self._conditions.text.dtype).repeat(len(branches), 1, 1, 1)
        timesteps = torch.full((len(rows),), t, device=rows.device)
        recorder = None if self._maps is None else self._maps.recorder(len(rows))
        with share_first_rows(self._unet, len(z_t) if self._shares_rows else 0):
            predictions = self._unet(rows, timesteps, self._conditions, recorder).chunk(len(branches))
        if self._maps is not None and recorder is not None:
            self._maps.add(recorder)
        by_branch = dict(zip(branches, predictions, strict=True))
        return rescale_guidance(combine_branches(by_branch, self._coefficients), by_branch, self._rescale)


def combine_branches(
    predictions: Mapping[Branch, Float[Tensor, "B C H W"]], coefficients: Mapping[Branch, float]
) -> Float[Tensor, "B C H W"]:
    """Combine the predictions of the branches, in float32."""
    weighted = [coefficient * predictions[branch].float() for branch, coefficient in coefficients.items()]
    return torch.stack(weighted).sum(dim=0)


def rescale_guidance(
    guided: Float[Tensor, "B C H W"], predictions: Mapping[Branch, Float[Tensor, "B C H W"]], share: float
) -> Float[Tensor, "B C H W"]:
    """Bring the standard deviation of each image's guided prediction towards that with all conditions."""
    conditional = predictions.get(Branch.TEXT_AND_IMAGE, predictions.get(Branch.TEXT))
    if share == 0.0 or conditional is None:
        return guided
    spread = conditional.float().flatten(1).std(dim=1) / guided.flatten(1).std(dim=1)
    return guided * (1.0 + share * (spread - 1.0))[:, None, None, None]


def _cast(conditions: Conditions, dtype: torch.dtype) -> Conditions:
    """Return `conditions` with text, image tokens and gates in `dtype`."""
    adapter = conditions.adapter
    if adapter is not None:
        gate = None if adapter.gate is None else adapter.gate.to(dtype)
        known = tuple((k.to(dtype), v.to(dtype)) for k, v in adapter.keys_values)
        adapter = replace(adapter, tokens=adapter.tokens.to(dtype), gate=gate, keys_values=known)
    return replace(conditions, text=conditions.text.to(dtype), adapter=adapter)


def branch_conditions(
    branch: Branch, conditions: Conditions, empty_text: Float[Tensor, "_b T D"], null: NullBranches
) -> Conditions:
    """Return the conditions of one branch.

    Args:
        branch: the branch.
        conditions: conditions of the branch with text and image.
        empty_text: text condition of the empty prompt, or of a negative prompt for each image.
        null: how a branch without image is computed.
    """
    text = conditions.text if branch.has_text else empty_text.expand_as(conditions.text)
    if branch.has_image:
        return replace(conditions, text=text)
    mask = None if conditions.location_mask is None else torch.zeros_like(conditions.location_mask)
    adapter = None
    if null is NullBranches.ZERO_TOKENS and conditions.adapter is not None:
        adapter = replace(conditions.adapter, tokens=torch.zeros_like(conditions.adapter.tokens), keys_values=())
    return Conditions(text, adapter, mask)


def concatenate_conditions(conditions: Sequence[Conditions]) -> Conditions:
    """Concatenate batches; those with adapter tokens must come first, as the adapters expect."""
    masks = [part.location_mask for part in conditions if part.location_mask is not None]
    adapters = [part.adapter for part in conditions if part.adapter is not None]
    return Conditions(
        text=torch.cat([part.text for part in conditions]),
        adapter=_concatenate_adapters(adapters) if adapters else None,
        location_mask=torch.cat(masks) if masks else None,
    )


def _concatenate_adapters(adapters: Sequence[AdapterInputs]) -> AdapterInputs:
    biases = [part.bias for part in adapters if part.bias is not None]
    gates = [part.gate for part in adapters if part.gate is not None]
    centres = [part.patch_centres for part in adapters if part.patch_centres is not None]
    known = [part.keys_values for part in adapters if part.keys_values]
    return AdapterInputs(
        tokens=torch.cat([part.tokens for part in adapters]),
        bias=torch.cat(biases) if biases else None,
        gate=torch.cat(gates) if gates else None,
        patch_centres=torch.cat(centres) if centres else None,
        keys_values=_concatenate_keys_values(known) if len(known) == len(adapters) else (),
        latent_size=adapters[0].latent_size,
    )


def _concatenate_keys_values(parts: Sequence[Sequence[KeysValues]]) -> tuple[KeysValues, ...]:
    """Concatenate the images of each layer."""
    return tuple(
        (torch.cat([keys for keys, _ in layer]), torch.cat([values for _, values in layer]))
        for layer in zip(*parts, strict=True)
    )


def interpolate_denoisers(
    interpolation: Interpolation, steps: int, of_subject: Denoiser, of_text: Denoiser
) -> Denoiser:
    """Return a denoiser that uses subject and text in one phase, and text alone in the other.

    Paper: Eq. 4,  eps_t = eps_theta(z_t, t, y', x_s, l, l_m) if t > alpha T, eps_theta(z_t, t, y) otherwise.

    Args:
        interpolation: length and order of the phases.
        steps: number of steps T of the training noise schedule.
        of_subject: denoiser by subject and text.
        of_text: denoiser by text alone.

    Choice: the paper's t runs from 1 to T, diffusers' from 0 to T - 1: alpha = 0 is all first phase, 1 all second.
    """
    first, second = (of_subject, of_text) if interpolation.first is Phase.SUBJECT else (of_text, of_subject)

    def eps_t(z_t: Float[Tensor, "B C H W"], t: float) -> Float[Tensor, "B C H W"]:
        return first(z_t, t) if t + 1 > interpolation.alpha * steps else second(z_t, t)

    return eps_t


def seeded_generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """Return one noise generator per image, so that an image does not depend on its batch or on the device."""
    return [torch.Generator("cpu").manual_seed(seed) for seed in seeds]


def initial_noise(
    generators: Sequence[torch.Generator], shape: tuple[int, int, int], device: torch.device
) -> Float[Tensor, "B C H W"]:
    """Draw the initial noise z_T of each image, in float32.

    Args:
        generators: one per image.
        shape: channels, height and width of a latent.
        device: device of the result.
    """
    return torch.stack([torch.randn(shape, generator=generator) for generator in generators]).to(device)


def sample(
    denoise: Denoiser,
    scheduler: Scheduler,
    z_T: Float[Tensor, "B C H W"],
    generators: torch.Generator | Sequence[torch.Generator] | None,
    steps: int,
    on_step: OnStep | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> Float[Tensor, "B C H W"]:
    """Denoise z_T step by step and return z_0, or the latents so far if `stopped`.

    Args:
        denoise: predicts the noise.
        scheduler: any diffusers scheduler with the base's noise schedule; its state is reset.
        z_T: initial noise.
        generators: one for all images or one for each, for schedulers that add noise in each step.
        steps: number of denoising steps.
        on_step: called after each evaluation of the network.
        stopped: whether to skip the steps that are left, asked before each.
    """
    scheduler.set_timesteps(steps)  # kept on the CPU: no step waits for the device
    adds_noise = "generator" in inspect.signature(scheduler.step).parameters
    given = list(generators) if isinstance(generators, Sequence) else generators
    options = {"generator": given} if adds_noise else {}
    z_t: Tensor = z_T * scheduler.init_noise_sigma
    total = len(scheduler.timesteps)
    for done, t in enumerate(scheduler.timesteps, start=1):
        if stopped():
            break
        eps_t = denoise(scheduler.scale_model_input(z_t, t), float(t))
        z_t = scheduler.step(eps_t, t, z_t, **options).prev_sample
        if on_step is not None:
            following = float(scheduler.timesteps[done]) if done < total else None
            replaced = on_step(SamplingProgress(done, total, z_t, float(t), following))
            z_t = z_t if replaced is None else replaced
    return z_t
