"""From the conditions of a batch to images: what the pipeline and the sample grids of a training job have in common.

The network is used as it stands; its device, its precision and autocast are the caller's.

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
    make_scheduler,
    sample,
    seeded_generators,
)
from model.sampling.guidance import Branch
from model.subject_diffusion import SubjectDiffusion


def encode_conditions(
    net: SubjectDiffusion, batch: SubjectBatch, strengths: Float[Tensor, "B R"] | None = None
) -> tuple[Conditions, Float[Tensor, "1 T D"]]:
    """What a batch with pictures of subjects asks for, and the text condition of the empty prompt.

    Args:
        batch: what it may hold of images is not used.
        strengths: of each subject in the adapters, by default 1.
    """
    assert batch.subject_images is not None
    size = (net.latent_side, net.latent_side)
    l_m = net.location_mask(batch.boxes, batch.masks, batch.present, size)
    features = net.image_encoder(batch.subject_images)
    conditions = net.conditions(batch.prompts, features, batch.boxes, batch.present, l_m, strengths, batch.full)
    return conditions, net.empty_text()


def subject_denoiser(
    net: SubjectDiffusion,
    conditions: Conditions,
    empty_text: Float[Tensor, "1 T D"],
    coefficients: Mapping[Branch, float],
) -> GuidedDenoiser:
    """eps_theta under guidance.

    Args:
        coefficients: of `Guidance`.
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
    """One image for each of `seeds`, of the rows of what `denoise` was made for.

    Args:
        side: of the latent.
        on_step: called after each evaluation of the network.

    Raises:
        ValueError: diffusers has no scheduler of that name.
    """
    scheduler = make_scheduler(sampling.scheduler, net.scheduler)
    generators = seeded_generators(seeds)
    z_T = initial_noise(generators, (net.unet.latent_channels, side, side), net.empty_token_ids.device)
    z_0 = sample(denoise, scheduler, z_T, generators, sampling.steps, on_step)
    return [_image(net, latent) for latent in z_0]


def _image(net: SubjectDiffusion, latent: Float[Tensor, "C H W"]) -> Image.Image:
    """Decoded alone, which bounds the VAE's working memory."""
    pixels = net.decode(latent[None])[0]
    return Image.fromarray((pixels * 255).round().byte().permute(1, 2, 0).cpu().numpy())
