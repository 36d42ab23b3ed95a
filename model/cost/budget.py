"""FLOPs and bytes of training steps and sampling, for any configuration, counted on the meta device.

    budget = training_budget(ModelConfig(), images=12, subjects=2)
    budget.flops() / 12                                          # per image, if everything is computed in the step
    budget.flops(cached_latents=True, cached_features=True)      # if the frozen encoders' outputs are cached

Divide these FLOPs by a GPU's time for its useful rate (MFU); recomputation to save memory is not counted.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from model.config import ModelConfig, Recompute
from model.cost.count import Cost, build_on_meta, fake_gpu_autocast, inference_flops, saved_bytes, training_cost
from model.cost.recompute import enable_recompute
from model.inputs.batch import ImageFeatures, PromptTokens, SubjectBatch
from model.networks.adapter import AdapterInputs
from model.networks.attention_maps import MapRecorder
from model.networks.unet import Conditions
from model.objective.losses import attention_map_loss
from model.sampling.denoising import GuidedDenoiser, branch_conditions
from model.sampling.guidance import Guidance
from model.subject_diffusion import SubjectDiffusion

BF16 = torch.bfloat16


@dataclass(frozen=True)
class TrainingBudget:
    """FLOPs of one training step of a batch, by part."""

    vae: int
    """FLOPs of encoding the images."""
    image_encoder: int
    """FLOPs of encoding the subjects' pictures."""
    text_encoder: int
    """FLOPs of the text encoder, forward and backward."""
    unet: int
    """FLOPs of the UNet, adapters, perceptrons and losses, forward and backward."""

    def flops(self, cached_latents: bool = False, cached_features: bool = False) -> int:
        """Return the FLOPs of a step; cached outputs of the VAE and of the image encoder cost nothing."""
        encoders = (0 if cached_latents else self.vae) + (0 if cached_features else self.image_encoder)
        return encoders + self.text_encoder + self.unet


@dataclass(frozen=True)
class SamplingBudget:
    """FLOPs of sampling one image."""

    step: int
    """FLOPs of one evaluation of all branches."""
    once: int
    """FLOPs that do not repeat with each step: encoders, keys and values of the conditions, and decoder."""

    def flops(self, evaluations: int) -> int:
        """Return the FLOPs of an image with this number of evaluations."""
        return self.once + evaluations * self.step


def training_budget(config: ModelConfig, images: int, subjects: int, image_px: int | None = None) -> TrainingBudget:
    """Count the FLOPs of a training step.

    Args:
        config: settings of the model.
        images: number of images in the batch.
        subjects: number of subjects per image.
        image_px: side of an image in pixels; by default that of the base.
    """
    net = build_on_meta(lambda: SubjectDiffusion.from_config(config))
    if image_px is not None:
        net.set_image_size(image_px)
    batch = _batch(net, images, subjects)
    weights = [*net.parameters(), *net.buffers()]
    step = training_cost(lambda: net.training_loss(batch).total, weights)
    text = training_cost(lambda: _text(net, batch.prompts), weights)
    side = net.image_encoder.side_px
    pictures = torch.empty(images, subjects, 3, side, side, dtype=torch.uint8, device="meta")
    pixels = torch.empty(images, 3, *_image_size(net), dtype=torch.uint8, device="meta")
    return TrainingBudget(
        vae=inference_flops(lambda: net.latent_moments(pixels)),
        image_encoder=inference_flops(lambda: net.image_encoder(pictures)),
        text_encoder=text.flops,
        unet=step.flops - text.flops,
    )


def float32_saved_bytes(config: ModelConfig, images: int, subjects: int, mode: Recompute) -> int:
    """Count the bytes that a training step in float32 keeps between forward and backward.

    Args:
        config: settings of the model.
        images: number of images in the batch.
        subjects: number of subjects per image.
        mode: activations that are recomputed instead of kept.
    """
    return _saved_bytes(config, images, subjects, mode, torch.float32, "meta")


def autocast_saved_bytes(config: ModelConfig, images: int, subjects: int, mode: Recompute) -> int:
    """Count the bytes that an uncompiled training step under bfloat16 autocast keeps between forward and backward.

    Inputs of norms, which autocast keeps in float32, are counted; bfloat16 copies of weights are not.

    Args:
        config: settings of the model.
        images: number of images in the batch.
        subjects: number of subjects per image.
        mode: activations that are recomputed instead of kept.
    """
    with fake_gpu_autocast():
        return _saved_bytes(config, images, subjects, mode, BF16, "cuda")


def _saved_bytes(
    config: ModelConfig, images: int, subjects: int, mode: Recompute, dtype: torch.dtype, device: str
) -> int:
    net = build_on_meta(lambda: SubjectDiffusion.from_config(config), dtype, device)
    enable_recompute(net.unet, mode)
    batch = _batch(net, images, subjects, device)
    return saved_bytes(lambda: net.training_loss(batch).total, [*net.parameters(), *net.buffers()])


def unet_cost(
    config: ModelConfig, images: int, subjects: int, mode: Recompute = Recompute.NOTHING, maps: bool = True
) -> Cost:
    """Count the cost of the UNet's part of a training step, in bfloat16.

    Args:
        config: settings of the model.
        images: number of images in the batch.
        subjects: number of subjects per image.
        mode: activations that are recomputed instead of kept.
        maps: whether Eq. 2 is part of the loss.
    """
    net = build_on_meta(lambda: SubjectDiffusion.from_config(config), BF16)
    enable_recompute(net.unet, mode)
    batch, latent = _batch(net, images, subjects), _latent(net, images)
    conditions = _conditions(net, images, subjects)
    steps = torch.empty(images, dtype=torch.long, device="meta")
    present = torch.empty(batch.prompts.entity_tokens.shape[:2], dtype=torch.bool, device="meta")
    masks = batch.masks.repeat_interleave(present.shape[1] // subjects, dim=1)

    def loss() -> Tensor:
        recorder = MapRecorder(batch.prompts.entity_tokens, (latent.shape[2], latent.shape[3])) if maps else None
        total: Tensor = net.unet(latent, steps, conditions, recorder).float().sum()
        return total if recorder is None else total + attention_map_loss(recorder.maps, masks, present)

    return training_cost(loss, [*net.parameters(), *net.buffers()])


def text_cost(config: ModelConfig, images: int, subjects: int) -> Cost:
    """Count the cost of the text encoder's part of a training step, in bfloat16."""
    net = build_on_meta(lambda: SubjectDiffusion.from_config(config), BF16)
    prompts = _batch(net, images, subjects).prompts
    return training_cost(lambda: _text(net, prompts), [*net.parameters(), *net.buffers()])


def sampling_budget(config: ModelConfig, subjects: int, guidance: Guidance | None = None) -> SamplingBudget:
    """Count the FLOPs of sampling one image with `subjects` subjects."""
    net = build_on_meta(lambda: SubjectDiffusion.from_config(config), BF16)
    conditions = _conditions(net, 1, subjects)
    coefficients = (guidance or Guidance()).subject_coefficients()
    null = config.null_branches
    branches = [branch_conditions(branch, conditions, conditions.text, null) for branch in coefficients]
    denoisers: list[GuidedDenoiser] = []
    once = inference_flops(lambda: denoisers.append(GuidedDenoiser(net.unet, branches, coefficients)))
    prompts, latent, side = _batch(net, 1, subjects).prompts, _latent(net, 1), net.image_encoder.side_px
    pictures = torch.empty(1, subjects, 3, side, side, dtype=torch.uint8, device="meta")
    once += inference_flops(lambda: net.image_encoder(pictures))
    once += 2 * inference_flops(lambda: _text(net, prompts)) + inference_flops(lambda: net.decode(latent))
    return SamplingBudget(step=inference_flops(lambda: denoisers[0](latent, 0.0)), once=once)


def _batch(net: SubjectDiffusion, images: int, subjects: int, device: str = "meta") -> SubjectBatch:
    """Return a batch with cached latents and image features."""
    encoder, (height, width) = net.image_encoder, _latent(net, images).shape[2:]
    with torch.device(device):
        return SubjectBatch(
            prompts=PromptTokens(
                token_ids=torch.empty(images, net.text_encoder.max_tokens, dtype=torch.long),
                placeholder_positions=torch.empty(images, subjects, dtype=torch.long),
                entity_tokens=torch.empty(images, 2 * subjects, net.text_encoder.max_tokens),
            ),
            boxes=torch.empty(images, subjects, 4),
            masks=torch.empty(images, subjects, height, width),
            present=torch.empty(images, subjects, dtype=torch.bool),
            latent_moments=torch.empty(images, 2 * net.unet.latent_channels, height, width),
            image_features=ImageFeatures(
                cls=torch.empty(images, subjects, encoder.width),
                patches=torch.empty(images, subjects, encoder.patches, encoder.patch_width),
            ),
            full=True,
        )


def _conditions(net: SubjectDiffusion, images: int, subjects: int) -> Conditions:
    """Return conditions in bfloat16 that require gradients, since text encoder and perceptrons are trained."""
    width = net.text_encoder.width
    text = torch.empty(images, net.text_encoder.max_tokens, width, dtype=BF16, device="meta", requires_grad=True)
    adapter = None
    if net.subject_tokens is not None:
        tokens = max(subjects, net.subject_tokens.slots) * net.image_encoder.patches
        h_e = torch.empty(images, tokens, width, dtype=BF16, device="meta", requires_grad=True)
        centres = torch.empty(images, tokens, 2, device="meta") if net.config.departures.patch_positions else None
        adapter = AdapterInputs(h_e, patch_centres=centres)
    return Conditions(text, adapter, torch.empty_like(_latent(net, images)[:, :1]))


def _latent(net: SubjectDiffusion, images: int) -> Tensor:
    side = net.unet.base.config.sample_size
    return torch.empty(images, net.unet.latent_channels, side, side, dtype=BF16, device="meta")


def _image_size(net: SubjectDiffusion) -> tuple[int, int]:
    side = net.unet.base.config.sample_size * net.latent_downsampling
    return side, side


def _text(net: SubjectDiffusion, prompts: PromptTokens) -> Tensor:
    dtype = net.text_encoder.clip.dtype
    images, subjects = prompts.placeholder_positions.shape
    cls = torch.empty(images, subjects, net.image_encoder.width, dtype=dtype, device="meta")
    condition: Tensor = net.text_encoder(prompts.token_ids, prompts.placeholder_positions, cls)
    return condition
