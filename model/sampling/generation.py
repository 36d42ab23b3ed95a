"""Generate images for a batch: the part that the pipeline shares with the sample grids of a training job.

The caller chooses the network's device, its precision and autocast.

Axes: B images, R reference subjects, H W rows and columns of the latent, T text tokens, D width.
"""

from collections.abc import Mapping, Sequence

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from model.inputs.batch import SubjectBatch
from model.networks.unet import Conditions
from model.sampling.config import SamplingConfig
from model.sampling.denoising import (
    Denoiser,
    GuidedDenoiser,
    OnStep,
    branch_conditions,
    initial_noise,
    sample,
    seeded_generators,
)
from model.sampling.guidance import Branch
from model.sampling.schedulers import make_scheduler
from model.subject_diffusion import SubjectDiffusion


def encode_conditions(
    net: SubjectDiffusion, batch: SubjectBatch, strengths: Float[Tensor, "B R"] | None = None
) -> tuple[Conditions, Float[Tensor, "1 T D"]]:
    """Return the conditions of a batch with pictures of subjects, and the text condition of the empty prompt.

    Args:
        net: the model.
        batch: the batch; its training images are not used.
        strengths: strength of each subject in the adapters, by default 1.
    """
    assert batch.subject_images is not None
    size = (net.latent_side, net.latent_side)
    location_mask = net.location_mask(batch.boxes, batch.masks, batch.present, size)
    features = net.image_encoder(batch.subject_images)
    conditions = net.conditions(
        batch.prompts, features, batch.boxes, batch.present, location_mask, strengths, batch.full
    )
    return conditions, net.empty_text()


def subject_denoiser(
    net: SubjectDiffusion,
    conditions: Conditions,
    empty_text: Float[Tensor, "1 T D"],
    coefficients: Mapping[Branch, float],
) -> GuidedDenoiser:
    """Return the guided denoiser for `conditions`.

    Args:
        net: the model.
        conditions: conditions of the branch with text and image.
        empty_text: text condition of the empty prompt.
        coefficients: coefficient of each branch, from `Guidance`.
    """
    null = net.config.null_branches
    branches = [branch_conditions(branch, conditions, empty_text, null) for branch in coefficients]
    return GuidedDenoiser(net.unet, branches, coefficients)


def generate_images(
    net: SubjectDiffusion,
    denoise: Denoiser,
    sampling: SamplingConfig,
    seeds: Sequence[int],
    side: int,
    on_step: OnStep | None = None,
) -> list[Image.Image]:
    """Generate one image per seed.

    Args:
        net: the model.
        denoise: denoiser for a batch of as many rows as there are seeds.
        sampling: scheduler and number of steps.
        seeds: seed of each image.
        side: side of the latent.
        on_step: called after each evaluation of the network.

    Raises:
        ValueError: diffusers has no scheduler of that name.
    """
    scheduler = make_scheduler(sampling.scheduler, net.scheduler)
    generators = seeded_generators(seeds)
    noise = initial_noise(generators, (net.unet.latent_channels, side, side), net.empty_token_ids.device)
    latents = sample(denoise, scheduler, noise, generators, sampling.steps, on_step)
    return [_decode_image(net, latent) for latent in latents]


def _decode_image(net: SubjectDiffusion, latent: Float[Tensor, "C H W"]) -> Image.Image:
    """Decode one latent; decoding images one by one bounds the VAE's working memory."""
    pixels = net.decode(latent[None])[0]
    return Image.fromarray((pixels * 255).round().byte().permute(1, 2, 0).cpu().numpy())
