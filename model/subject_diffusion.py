"""The whole model of Fig. 3 and its training loss.

    net = SubjectDiffusion.from_base(ModelConfig())  # Stable Diffusion and OpenCLIP, with new adapters
    net.training_loss(batch).total.backward()
    net.save_pretrained("out/model")
    net = SubjectDiffusion.from_pretrained("out/model")

Axes: B images, R reference subjects, K entity tokens, M image tokens of all subjects, T text tokens, D width, C latent
channels, H W rows and columns of the latent.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from jaxtyping import Bool, Float, Num, UInt8
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTokenizer

from infra.precision import Precision
from model.config import LocationMask, ModelConfig, NullBranches
from model.inputs.batch import ABSENT, ImageFeatures, PromptTokens, SubjectBatch
from model.inputs.boxes import box_masks
from model.inputs.prompt import Prompt, PromptTokenizer
from model.networks.adapter import AdapterInputs, SubjectTokens
from model.networks.attention_maps import MapRecorder
from model.networks.image_encoder import ImageEncoder
from model.networks.location import overlay_regions
from model.networks.text_encoder import TextEncoder
from model.networks.unet import Conditions, SubjectUNet
from model.objective.drop import DropMasks, draw_drops
from model.objective.location_shapes import vary_shapes
from model.objective.losses import attention_in_mask, attention_map_loss, training_objective
from model.objective.noise import NoiseSchedule
from model.weights.folders import (
    LoadOptions,
    Parts,
    SaveOptions,
    check_widths,
    load_base,
    load_network,
    load_parts,
    load_settings,
    random_parts,
    save_model,
)

_IN_FLOAT32 = LoadOptions()
_NEW_FOLDER = SaveOptions()


@dataclass(frozen=True)
class TrainingLoss:
    """Loss of one batch and its terms. Only `total` has a gradient."""

    total: Float[Tensor, ""]
    """Loss of Eq. 3."""
    denoising: Float[Tensor, ""]
    """First term of Eq. 3."""
    attention: Float[Tensor, ""]
    """L_attn of Eq. 2, without its weight."""
    attention_in_mask: Float[Tensor, ""]
    """Share of the entities' attention that falls inside their masks, 0 to 1."""


@dataclass(frozen=True)
class Networks:
    """The networks of Fig. 3, with the added weights in their places."""

    vae: AutoencoderKL
    text_encoder: TextEncoder
    tokenizer: CLIPTokenizer
    unet: SubjectUNet
    """The denoiser; its `settings` are those of the model."""
    image_encoder: ImageEncoder
    subject_tokens: SubjectTokens | None
    """Perceptron of the adapters' tokens; None without adapters."""
    scheduler: Mapping[str, object]
    """Settings of the base's scheduler."""

    @classmethod
    def build(cls, parts: Parts, config: ModelConfig) -> "Networks":
        """Add new adapters and perceptrons to pretrained parts, which are changed in place.

        Raises:
            ModelWeightsError: the parts do not fit each other.
        """
        check_widths(parts.unet, parts.vae, parts.text_encoder)
        encoder = ImageEncoder(parts.visual, parts.image_encoder, config.patch_tokens)
        text_encoder = TextEncoder(parts.text_encoder, subject_width=encoder.width if config.use_image_cls else None)
        text_encoder.grow_vocabulary(_prompts(parts.tokenizer, text_encoder, config).vocabulary_size)
        tokens = None
        if config.use_adapter:
            tokens = SubjectTokens(encoder.patches, encoder.patch_width, text_encoder.width, config)
        unet = SubjectUNet(parts.unet, config)
        return cls(parts.vae, text_encoder, parts.tokenizer, unet, encoder, tokens, parts.scheduler)


class SubjectDiffusion(nn.Module):
    """All networks of Fig. 3; only the parts that App. A lists are trainable.

    Args:
        networks: the networks, which this module shares.

    Raises:
        ModelWeightsError: the scheduler's settings make no noise schedule.
    """

    def __init__(self, networks: Networks) -> None:
        super().__init__()
        config = networks.unet.settings
        self.config = config
        self.scheduler = networks.scheduler
        self.vae = networks.vae
        self.image_encoder = networks.image_encoder
        self.text_encoder = networks.text_encoder
        self.prompts = _prompts(networks.tokenizer, networks.text_encoder, config)
        self.subject_tokens = networks.subject_tokens
        self.unet = networks.unet
        self.noise = NoiseSchedule(networks.scheduler)
        self.empty_token_ids = nn.Buffer(self.prompts([Prompt("")]).token_ids, persistent=False)
        self._drop_image = _DROP_IMAGE[config.null_branches]
        self.requires_grad_(False)
        for part in self.trained_parts().values():
            part.requires_grad_(True)

    @classmethod
    def from_base(cls, config: ModelConfig) -> "SubjectDiffusion":
        """Load the base of `config` and add new adapters, which leave its images unchanged.

        Raises:
            ModelWeightsError: weights are missing, unreadable or do not fit each other.
        """
        return cls(Networks.build(load_base(config), config))

    @classmethod
    def from_config(cls, config: ModelConfig) -> "SubjectDiffusion":
        """Build the networks of `config` with random weights; under `torch.device("meta")` nothing is allocated."""
        return cls(Networks.build(random_parts(config), config))

    @classmethod
    def from_pretrained(cls, folder: str | Path, options: LoadOptions = _IN_FLOAT32) -> "SubjectDiffusion":
        """Load a model that `save_pretrained` wrote.

        Args:
            folder: folder of the model.
            options: precision and variant, by default float32 and the plain files.

        Raises:
            ModelWeightsError: `folder` holds no model, or a part of the model is missing.
        """
        folder = Path(folder).expanduser()
        config = load_settings(folder)
        net = cls(Networks.build(load_parts(folder, options), config))
        load_network(net, folder, options)
        return net

    def save_pretrained(self, folder: str | Path, options: SaveOptions = _NEW_FOLDER) -> None:
        """Write the model with its settings, in the layout of `model/weights/folders.py`.

        Args:
            folder: folder of the model.
            options: how it is written, by default as a new folder of plain files.

        Raises:
            ModelWeightsError: `folder` exists already, unless its files may be replaced.
        """
        parts = Parts(
            vae=self.vae,
            unet=self.unet.base,
            text_encoder=self.text_encoder.clip,
            tokenizer=self.prompts.tokenizer,
            scheduler=self.scheduler,
            visual=self.image_encoder.visual,
            image_encoder=self.image_encoder.settings,
        )
        save_model(Path(folder).expanduser(), parts, self.state_dict(), self.config, options)

    def place_buffers(self, device: torch.device) -> None:
        """Move the tensors that belong to none of the networks to the device of the computation."""
        self._buffers["empty_token_ids"] = self.empty_token_ids.to(device)
        self.noise.to(device)

    @property
    def latent_downsampling(self) -> int:
        """Factor by which a latent is smaller than its image."""
        return 1 << len(self.vae.config.block_out_channels) - 1

    @property
    def latent_side(self) -> int:
        """Side of the latents in training and sampling."""
        return int(self.unet.base.config.sample_size)

    def set_image_size(self, image_px: int) -> None:
        """Set the side of images in training and sampling, in pixels."""
        self.unet.base.register_to_config(sample_size=image_px // self.latent_downsampling)

    def trained_parts(self) -> Mapping[str, nn.ModuleList]:
        """Return the trained parts by their names in App. A; perceptrons are a part of their own.

        With `DeparturesConfig.train_unet`, the UNet is one part with all that it contains.
        """
        cross_attention = [block.attn2 for block in self.unet.blocks()]
        perceptrons = [self.text_encoder.subject_mlp, self.subject_tokens]
        unet = {
            "conv_in": nn.ModuleList([self.unet.base.conv_in]),
            "adapters": nn.ModuleList(self.unet.adapters()),
            "cross-attention K, V": nn.ModuleList([p for attn in cross_attention for p in (attn.to_k, attn.to_v)]),
        }
        return {
            "text encoder": nn.ModuleList([self.text_encoder.clip]),
            **({"UNet": nn.ModuleList([self.unet])} if self.config.departures.train_unet else unet),
            "perceptrons": nn.ModuleList([part for part in perceptrons if part is not None]),
        }

    def fsdp_units(self) -> Iterator[nn.Module]:
        """Return the modules that FSDP2 gathers one at a time; all other trained weights are gathered together.

        No unit lies inside the UNet: FSDP2 gathers a unit in a hook of its module, which breaks compiled graphs and
        copies the recorder of attention maps among the module's arguments.
        """
        return iter(self.text_encoder.clip.encoder.layers)

    def cast_frozen(self, precision: Precision) -> None:
        """Cast frozen weights to `precision`; of the UNet only matrices, because its norms are small and need float32.

        In bfloat16, run the network under autocast, which computes in bfloat16 anyway.
        """
        dtype = {Precision.FLOAT32: torch.float32, Precision.BFLOAT16: torch.bfloat16}[precision]
        for part in (self.vae, self.image_encoder.visual):
            nn.Module.to(part, dtype)  # diffusers' own `to` warns about an empty list
        for weight in self.unet.parameters():
            if not weight.requires_grad and weight.ndim > 1:
                weight.data = weight.data.to(dtype)

    def predict_noise(
        self,
        noisy_latent: Float[Tensor, "B C H W"],
        timesteps: Num[Tensor, " B"],
        prompts: PromptTokens,
        subject_images: UInt8[Tensor, "B R 3 _s _s"],
        boxes: Float[Tensor, "B R 4"],
        location_mask: Float[Tensor, "B 1 H W"],
    ) -> Float[Tensor, "B C H W"]:
        """Predict the noise, or the velocity if the base predicts velocities: epsilon_theta of Eq. 3.

        A slot holds a subject if the prompt has a clause for it.

        Args:
            noisy_latent: z_t.
            timesteps: t.
            prompts: y.
            subject_images: x_s.
            boxes: l.
            location_mask: l_m.
        """
        features = self.image_encoder(subject_images)
        present = prompts.placeholder_positions != ABSENT
        conditions = self.conditions(prompts, features, boxes, present, location_mask)
        prediction: Tensor = self.unet(noisy_latent, timesteps, conditions)
        return prediction

    def conditions(
        self,
        prompts: PromptTokens,
        features: ImageFeatures,
        boxes: Float[Tensor, "B R 4"],
        present: Bool[Tensor, "B R"],
        location_mask: Float[Tensor, "B 1 H W"],
        strengths: Float[Tensor, "B R"] | None = None,
        full: bool = False,
    ) -> Conditions:
        """Return the conditions of the UNet.

        Args:
            prompts: tokenized prompts.
            features: outputs of the image encoder for the subjects' pictures.
            boxes: xyxy in [0, 1].
            present: slots that hold a subject.
            location_mask: location mask at the latent's size.
            strengths: strength of each subject in the adapters, by default 1.
            full: whether every slot is known to hold a subject, so that attention needs no mask.
        """
        adapter = None
        if self.subject_tokens is not None:
            adapter = self.subject_tokens.inputs(features.patches, boxes, present, strengths, full)
        text = self.text_encoder(prompts.token_ids, prompts.placeholder_positions, features.cls)
        return Conditions(text, adapter, location_mask)

    def empty_text(self) -> Float[Tensor, "1 T D"]:
        """Return the text condition of the empty prompt, which stands for no text."""
        no_subjects = self.empty_token_ids.new_empty(1, 0)
        no_embeddings = self.noise.alphas_cumprod.new_empty(1, 0, 1)
        text: Tensor = self.text_encoder(self.empty_token_ids, no_subjects, no_embeddings)
        return text

    def location_mask(
        self,
        boxes: Float[Tensor, "B R 4"],
        masks: Float[Tensor, "B R _y _x"],
        present: Bool[Tensor, "B R"],
        size: tuple[int, int],
    ) -> Float[Tensor, "B 1 H W"]:
        """Return the location mask from the subjects' masks or boxes (`ModelConfig.location_mask`)."""
        config, regions = self.config, masks
        if config.location_mask is LocationMask.BOX:
            regions = box_masks(boxes, size, config.box_edges, self.latent_downsampling)
        return overlay_regions(regions, present, size, config.location_marks)

    @torch.no_grad()
    def latent_moments(self, images: UInt8[Tensor, "B 3 _h _w"], chunk: int = 4) -> Float[Tensor, "B _moments H W"]:
        """Return mean and log-variance of the VAE's posterior, which can be cached for `SubjectBatch`.

        Args:
            images: RGB, 0 to 255.
            chunk: number of images encoded at once, which bounds the VAE's working memory.
        """
        pixels = (images / 127.5 - 1.0).to(self.vae.dtype)
        parts = torch.split(pixels, chunk)
        return torch.cat([self.vae.encode(part).latent_dist.parameters for part in parts]).float()

    @torch.no_grad()
    def encode_pictures(self, batch: SubjectBatch) -> SubjectBatch:
        """Return a batch whose pictures are encoded by the frozen networks; what is encoded already stays."""
        return replace(
            batch,
            latent_moments=self._moments(batch),
            image_features=self._features(batch),
            images=None,
            subject_images=None,
        )

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "B C H W"]) -> Float[Tensor, "B 3 _h _w"]:
        """Return the pixels of latents, in [0, 1]."""
        pixels: Tensor = self.vae.decode((latents / self.vae.config.scaling_factor).to(self.vae.dtype)).sample
        return (pixels.float() / 2 + 0.5).clamp(0, 1)

    def forward(self, batch: SubjectBatch, generator: torch.Generator | None = None) -> TrainingLoss:
        """Return `training_loss`; data-parallel wrappers call this method."""
        return self.training_loss(batch, generator)

    def training_loss(self, batch: SubjectBatch, generator: torch.Generator | None = None) -> TrainingLoss:
        """Return the loss of Eq. 3 for one draw of noise, timestep and dropped conditions per image.

        Args:
            batch: the batch.
            generator: source of the draws, on the batch's device.
        """
        z_0 = self._latents(batch, generator)
        eps = torch.randn(z_0.shape, generator=generator, device=z_0.device)
        t = torch.randint(self.noise.steps, (len(z_0),), generator=generator, device=z_0.device)
        dropped = draw_drops(len(z_0), self.config.drop, z_0.device, generator)
        prompts = self._drop_text(batch.prompts, dropped.text)
        size = (z_0.shape[-2], z_0.shape[-1])
        boxes, masks = self._training_places(batch, size, generator)
        l_m = self.location_mask(boxes, masks, batch.present, size)
        conditions = self.conditions(prompts, self._features(batch), boxes, batch.present, l_m, full=batch.full)
        recorder = MapRecorder(prompts.entity_tokens, size)
        eps_theta = self.unet(self.noise.add_noise(z_0, eps, t), t, self._drop(conditions, dropped), recorder)
        return self._loss(self.noise.target(z_0, eps, t), eps_theta, recorder, batch.masks)

    def _training_places(
        self, batch: SubjectBatch, size: tuple[int, int], generator: torch.Generator | None
    ) -> tuple[Float[Tensor, "B R 4"], Float[Tensor, "B R _y _x"]]:
        """Return the subjects' boxes and masks in the shapes that mark them in this step."""
        shapes = self.config.departures.location_shapes
        if not shapes.are_varied:
            return batch.boxes, batch.masks
        filled_boxes = box_masks(batch.boxes, size, self.config.box_edges, self.latent_downsampling)
        masks = F.interpolate(batch.masks, size=size, mode="area")
        return vary_shapes(batch.boxes, masks, filled_boxes, shapes, generator)

    def _loss(
        self, target: Tensor, eps_theta: Tensor, recorder: MapRecorder, masks: Float[Tensor, "B R _y _x"]
    ) -> TrainingLoss:
        config, entities = self.config, recorder.entity_tokens
        M_k = masks.repeat_interleave(entities.shape[1] // masks.shape[1], dim=1)
        present = entities.sum(dim=-1) > 0
        L_attn = attention_map_loss(
            recorder.maps,
            M_k,
            present,
            form=config.attention_loss,
            reduction=config.attention_reduction,
            mean=config.attention_mean,
            resize=config.attention_mask_resize,
        )
        total = training_objective(target, eps_theta, L_attn, config.lambda_attn)
        return TrainingLoss(
            total=total,
            denoising=(total - config.lambda_attn * L_attn).detach(),
            attention=L_attn.detach(),
            attention_in_mask=attention_in_mask(recorder.maps, M_k, present),
        )

    def _latents(self, batch: SubjectBatch, generator: torch.Generator | None) -> Float[Tensor, "B C H W"]:
        moments = DiagonalGaussianDistribution(self._moments(batch))
        z_0: Tensor = moments.sample(generator) * self.vae.config.scaling_factor
        return z_0

    def _moments(self, batch: SubjectBatch) -> Float[Tensor, "B _moments H W"]:
        if batch.images is not None:
            return self.latent_moments(batch.images)
        assert batch.latent_moments is not None
        return batch.latent_moments

    def _features(self, batch: SubjectBatch) -> ImageFeatures:
        if batch.subject_images is None:
            assert batch.image_features is not None
            return batch.image_features
        features: ImageFeatures = self.image_encoder(batch.subject_images)
        return features

    def _drop_text(self, prompts: PromptTokens, dropped: Bool[Tensor, " B"]) -> PromptTokens:
        empty = dropped[:, None]
        return PromptTokens(
            token_ids=torch.where(empty, self.empty_token_ids, prompts.token_ids),
            placeholder_positions=prompts.placeholder_positions.masked_fill(empty, ABSENT),
            entity_tokens=prompts.entity_tokens.masked_fill(empty[..., None], 0.0),
        )

    def _drop(self, conditions: Conditions, dropped: DropMasks) -> Conditions:
        assert conditions.location_mask is not None
        no_location = (dropped.layout | dropped.image)[:, None, None, None]
        adapter = conditions.adapter
        if adapter is not None:
            adapter = adapter.without_last(dropped.last_without_image)
            adapter = self._drop_image(adapter, ~dropped.image[: len(adapter.tokens)])
        return replace(
            conditions,
            adapter=adapter,
            location_mask=conditions.location_mask.masked_fill(no_location, 0.0),
        )


def _prompts(tokenizer: CLIPTokenizer, text_encoder: TextEncoder, config: ModelConfig) -> PromptTokenizer:
    return PromptTokenizer(
        tokenizer, config.placeholder, text_encoder.max_tokens, config.attention_tokens, config.template_tokens
    )


def _turn_adapter_off(inputs: AdapterInputs, kept: Bool[Tensor, " B"]) -> AdapterInputs:
    gate = kept.to(inputs.tokens.dtype)
    return replace(inputs, gate=gate if inputs.gate is None else gate * inputs.gate)


def _zero_tokens(inputs: AdapterInputs, kept: Bool[Tensor, " B"]) -> AdapterInputs:
    return replace(inputs, tokens=inputs.tokens.masked_fill(~kept[:, None, None], 0.0))


_DROP_IMAGE = {NullBranches.ADAPTER_OFF: _turn_adapter_off, NullBranches.ZERO_TOKENS: _zero_tokens}
