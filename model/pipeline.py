"""Generate images from a prompt and reference photos of subjects, with a pipeline in the form of diffusers'.

    pipeline = SubjectDiffusionPipeline.from_pretrained("miniature/weights/subject_diffusion")
    taxi = Subject(Image.open("docs/pictures/taxi.png"), "vehicle")     # transparent around the subject
    result = pipeline("a vehicle in the snow", [taxi], generator=torch.Generator().manual_seed(1))
    result.images[0].save("taxi.png")

Axes: B images, R reference subjects, C latent channels, H W rows and columns of the latent, T text tokens, D width.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from diffusers import AutoencoderKL, DiffusionPipeline
from diffusers.utils import BaseOutput, logging
from diffusers.utils.torch_utils import randn_tensor
from huggingface_hub import snapshot_download
from jaxtyping import Float
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers import CLIPTokenizer

from model.config import LocationMask
from model.errors import ModelWeightsError
from model.inputs.layout import Layout, Place, RelativeBox, Size, choose_places, parse_choice
from model.inputs.pictures import Picture
from model.inputs.prompt import Prompt
from model.inputs.reference import Photo, Subject
from model.inputs.subject import SubjectPictures
from model.networks.adapter import SubjectTokens
from model.networks.image_encoder import ImageEncoder
from model.networks.text_encoder import TextEncoder
from model.networks.unet import Conditions, SubjectUNet
from model.sampling.attention import MapCollector
from model.sampling.conditioning import (
    EncodedRows,
    Texts,
    encode_rows,
    encode_text,
    prompt_of,
    slots_of,
    tokenize,
)
from model.sampling.config import Interpolation
from model.sampling.denoising import (
    Denoiser,
    GuidedDenoiser,
    SamplingProgress,
    branch_conditions,
    interpolate_denoisers,
    sample,
)
from model.sampling.guidance import Guidance
from model.sampling.inpainting import Canvas, keep_photo, photo_canvas
from model.sampling.original import OriginalBase
from model.sampling.references import ReferenceEncoder
from model.sampling.rows import Generators, Row, spread_rows
from model.sampling.schedulers import Scheduler, make_scheduler, refuse_unsuited
from model.subject_diffusion import Networks, SubjectDiffusion
from model.weights.folders import LoadOptions, SaveOptions, read_defaults

__all__ = ["Photo", "Subject", "SubjectDiffusionOutput", "SubjectDiffusionPipeline"]

logger = logging.get_logger(__name__)
_HUB_FILES = ["*.json", "*.txt", "*.model"]
"""Files of a model on the hub besides its weights."""
OutputType = Literal["pil", "np", "pt", "latent"]
Images = list[Image.Image] | NDArray[np.float32] | Tensor
OnStepEnd = Callable[["SubjectDiffusionPipeline", int, float, dict[str, Tensor]], Mapping[str, Tensor]]
"""Function of the pipeline, the number of the step, its timestep and the latents; latents that it returns are used."""


@dataclass
class SubjectDiffusionOutput(BaseOutput):  # type: ignore[misc]  # diffusers has no types
    """Generated images with their layout, in the order of the prompts."""

    images: Images
    """The images: a list of Pillow images, an array [B, height, width, 3] in 0 to 1, a tensor [B, 3, height, width] in
    0 to 1, or latents [B, C, H, W]."""
    boxes: list[tuple[RelativeBox, ...]]
    """Boxes of the subjects of each image, as requested or as the layout chose them."""
    bounds: list[tuple[RelativeBox, ...]]
    """Boxes of the subjects for the adapters: the bounds of the outlines that were fitted into their boxes."""
    cut: list[str]
    """End of each prompt that did not fit; empty if all of it did."""
    attention: Float[Tensor, "B R H W"] | None = None
    """Mean attention of each latent position to each subject, if it was asked for."""


class SubjectDiffusionPipeline(DiffusionPipeline):  # type: ignore[misc]  # diffusers has no types
    """Generates images with a trained model.

    Args:
        vae: autoencoder of the base.
        text_encoder: fusion text encoder.
        tokenizer: CLIP's tokenizer with the placeholder.
        unet: denoiser with adapters; its `settings` are those of the model.
        image_encoder: encoder of the subjects' photos.
        scheduler: any scheduler of diffusers that samples by itself, with the base's noise schedule.
        subject_tokens: perceptron of the adapters' tokens; None without adapters.
        num_inference_steps: default number of denoising steps (App. D).
        text_guidance: default scale of the text, s_text (App. D).
        image_guidance: default scale of the image, s_image (App. D).
    """

    model_cpu_offload_seq = "image_encoder->text_encoder->subject_tokens->unet->vae"
    # Sequential offload moves weights in hooks of the modules that hold them. Torch's multi-head attention reads
    # weights without calling their modules, and the null features of the tokens belong to no layer.
    _exclude_from_cpu_offload = ("image_encoder", "subject_tokens")
    _callback_tensor_inputs = ("latents",)

    def __init__(
        self,
        vae: AutoencoderKL,
        text_encoder: TextEncoder,
        tokenizer: CLIPTokenizer,
        unet: SubjectUNet,
        image_encoder: ImageEncoder,
        scheduler: Scheduler,
        subject_tokens: SubjectTokens | None,
        num_inference_steps: int = 50,
        text_guidance: float = 3.0,
        image_guidance: float = 1.5,
    ) -> None:
        super().__init__()
        self.register_modules(
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            unet=unet,
            image_encoder=image_encoder,
            scheduler=scheduler,
            subject_tokens=subject_tokens,
        )
        self.register_to_config(
            num_inference_steps=num_inference_steps, text_guidance=text_guidance, image_guidance=image_guidance
        )
        self._net: SubjectDiffusion | None = None
        self._networks: Networks | None = None
        self._original: OriginalBase | None = None
        self._interrupt = False
        mean = image_encoder.mean.flatten().tolist()
        self._references = ReferenceEncoder(
            SubjectPictures(unet.settings.subject, image_encoder.side_px, mean, training=False)
        )
        unet.requires_grad_(False).eval()
        for part in (vae, text_encoder, image_encoder, subject_tokens):
            if part is not None:
                torch.nn.Module.requires_grad_(part, False).eval()

    @classmethod
    def from_network(cls, net: SubjectDiffusion, **defaults: Any) -> "SubjectDiffusionPipeline":
        """Return a pipeline that shares the networks of `net`, with the scheduler of its base.

        Args:
            net: the model.
            defaults: default arguments of the pipeline's calls.
        """
        name = str(net.scheduler.get("_class_name", "PNDMScheduler")).removesuffix("Scheduler")
        return cls(
            vae=net.vae,
            text_encoder=net.text_encoder,
            tokenizer=net.prompts.tokenizer,
            unet=net.unet,
            image_encoder=net.image_encoder,
            scheduler=make_scheduler(name, net.scheduler),
            subject_tokens=net.subject_tokens,
            **defaults,
        )

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        dtype: torch.dtype | Mapping[str, torch.dtype] | None = None,
        variant: str | None = None,
        revision: str | None = None,
        device_map: str | torch.device | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        token: str | bool | None = None,
        **components: Any,
    ) -> "SubjectDiffusionPipeline":
        """Load a model from a folder, or from the hub.

        Args:
            pretrained_model_name_or_path: folder that `save_pretrained` wrote, or hub id.
            dtype: precision of the weights, or precisions by component with `default` for the others; float32 by
                default. Weights of another precision are converted one by one.
            variant: variant of the files, such as `fp16`.
            revision: revision on the hub.
            device_map: device that the weights are moved to.
            cache_dir: folder of the hub's cache.
            local_files_only: whether to use the cache alone.
            token: access token of the hub.
            components: components, or defaults of the calls, that replace those of the folder.

        Raises:
            ModelWeightsError: there is no such model, or a part of it is missing or damaged.
        """
        _check_device_map(device_map)
        folder = Path(pretrained_model_name_or_path).expanduser()
        if not folder.is_dir():
            name = str(pretrained_model_name_or_path)
            folder = _download(
                name, variant, revision=revision, cache_dir=cache_dir, local_files_only=local_files_only, token=token
            )
        net = SubjectDiffusion.from_pretrained(folder, LoadOptions(dtype or torch.float32, variant))
        pipeline = cls.from_network(net, **read_defaults(folder))
        pipeline = cls(**{**pipeline.components, **pipeline.parameters, **components}) if components else pipeline
        pipeline.register_to_config(_name_or_path=str(pretrained_model_name_or_path))
        return pipeline if device_map is None else pipeline.to(device_map)

    def save_pretrained(
        self,
        save_directory: str | Path,
        safe_serialization: bool = True,
        variant: str | None = None,
        push_to_hub: bool = False,
        **hub: Any,
    ) -> None:
        """Write the model; files of an existing folder are replaced one by one, the index last.

        Args:
            save_directory: folder of the model.
            safe_serialization: kept for callers of other pipelines: weights are always written as safetensors.
            variant: variant that the names of the weights' files get, such as `fp16`.
            push_to_hub: whether to upload the model afterwards.
            hub: arguments of `push_to_hub`, such as `repo_id`.

        Raises:
            ModelWeightsError: a weight is not finite.
        """
        if not safe_serialization:
            logger.warning("safe_serialization=False is ignored: weights are written as safetensors.")
        defaults = {name: self.config[name] for name in self.parameters}
        self._model().save_pretrained(save_directory, SaveOptions(variant, replace=True, defaults=defaults))
        if push_to_hub:
            repo_id = hub.pop("repo_id", Path(save_directory).name)
            self.push_to_hub(repo_id, variant=variant, **hub)

    def to(self, *args: Any, **kwargs: Any) -> "SubjectDiffusionPipeline":
        """Move and cast the networks, as in every pipeline of diffusers; on a GPU the UNet becomes channels-last."""
        super().to(*args, **kwargs)
        self._references.clear()
        if self.device.type == "cuda":
            self.unet.to(memory_format=torch.channels_last)
        return self

    def clear_caches(self) -> None:
        """Forget the encoded photos and the untrained base, and free their memory."""
        self._references.clear()
        self._original = None

    @property
    def interrupt(self) -> bool:
        """True if the call in progress skips the steps that are left; a callback sets it by `_interrupt`."""
        return self._interrupt

    @property
    def num_timesteps(self) -> int:
        """Number of evaluations of the network in the last call."""
        return len(self.scheduler.timesteps)

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        subjects: Sequence[Subject] | Sequence[Sequence[Subject]] = (),
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        text_guidance: float | None = None,
        image_guidance: float | None = None,
        guidance_rescale: float = 0.0,
        interpolation: Interpolation | float | None = None,
        layout: Layout | str = Layout.AUTO,
        marks: LocationMask | str | None = None,
        image: Picture | None = None,
        mask_image: Picture | None = None,
        feather_px: int = 8,
        negative_prompt: str | Sequence[str] | None = None,
        num_images_per_prompt: int = 1,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        latents: Float[Tensor, "B C H W"] | None = None,
        prompt_embeds: Float[Tensor, "_prompts T D"] | None = None,
        negative_prompt_embeds: Float[Tensor, "_prompts T D"] | None = None,
        scheduler: str | None = None,
        output_type: OutputType = "pil",
        return_dict: bool = True,
        callback_on_step_end: OnStepEnd | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        attention: bool = False,
    ) -> SubjectDiffusionOutput | tuple[Any, ...]:
        """Generate images, all in one batch; fastest if all have the same number of subjects.

        With a generator for each image, an image does not depend on the others of its batch.

        Args:
            prompt: one prompt or several. The clauses "the [label] is [PH]" are added to it.
            subjects: subjects of all images, or a list of subjects for each prompt.
            height: height of the images in pixels, by default that of training, or of the photo's window.
            width: width of the images in pixels.
            num_inference_steps: number of denoising steps.
            text_guidance: scale of the text, s_text. 1 adds no guidance.
            image_guidance: scale of the image, s_image. 1 adds no guidance.
            guidance_rescale: share, 0 to 1, by which guidance is kept from raising the contrast (arXiv 2305.08891).
            interpolation: Eq. 4, or its alpha: share of the schedule, from its end, that uses the text alone.
            layout: rule that places subjects without box or mask: given, detected, random, free or auto.
            marks: how a box is marked: `mask` by the subject's outline fitted into it, `box` as a whole; by default as
                `model.location_mask`. A model that was trained with masks alone paints a filled box as a tile of the
                subject's colours, so `box` causes a warning with such a model.
            image: photo to generate into; boxes and places are then shares of the photo.
            mask_image: region of the photo to generate, of its size; by default the boxes of the subjects.
            feather_px: width of the border around the region in which photo and image blend, in pixels of the photo.
            negative_prompt: text that guidance leads away from, one for all prompts or one for each.
            num_images_per_prompt: number of images of each prompt.
            generator: one generator, or one for each image.
            latents: initial noise, one row for each image.
            prompt_embeds: text condition in place of `prompt`, from `encode_prompt`.
            negative_prompt_embeds: text condition in place of `negative_prompt`.
            scheduler: name of a scheduler for this call, without its ending "Scheduler", such as DPMSolverMultistep.
            output_type: pil, np, pt or latent.
            return_dict: whether to return a `SubjectDiffusionOutput`; otherwise its fields as a tuple.
            callback_on_step_end: called after each step; it can change the latents, or set `_interrupt`.
            callback_on_step_end_tensor_inputs: tensors for the callback; `latents` is the only one.
            attention: whether to return where the model looked for each subject. Slower.

        Raises:
            PromptError: a prompt contains the placeholder, or its clauses alone are too long.
            ValueError: an argument is of the wrong kind, size or number; a scheduler, layout or mark is unknown or does
                not suit the model; `given` and a subject has no place.
            ModelWeightsError: interpolation is set and the untrained base cannot be read.
        """
        _check_choice("output_type", output_type, ("pil", "np", "pt", "latent"))
        for name in callback_on_step_end_tensor_inputs:
            _check_choice("callback_on_step_end_tensor_inputs", name, self._callback_tensor_inputs)
        own_scheduler = self.scheduler if scheduler is None else make_scheduler(scheduler, self.scheduler.config)
        refuse_unsuited(own_scheduler)
        net = self._model()
        prompts = [""] * _rows_of(prompt_embeds) if prompt is None else prompt
        rows = spread_rows(
            prompts, negative_prompt, subjects, num_images_per_prompt, generator, net.config.max_subjects
        )
        canvas = (
            None
            if image is None
            else photo_canvas(image, mask_image, [subject for row in rows for subject in row.subjects])
        )
        size = self._latent_size(height, width, canvas)
        places = self._choose_places(rows, self._resolve_layout(layout), self._resolve_marks(marks), size, canvas)
        guidance = Guidance(
            text=self.config.text_guidance if text_guidance is None else text_guidance,
            image=self.config.image_guidance if image_guidance is None else image_guidance,
        )
        encoded, texts = self._encode(
            net, rows, places, size, _Embeddings(prompt_embeds, negative_prompt_embeds, num_images_per_prompt)
        )
        maps = MapCollector(encoded.tokens.entity_tokens, slots_of(rows), size) if attention else None
        denoise: Denoiser = self._denoiser(net, encoded.conditions, texts, guidance, guidance_rescale, maps)
        if interpolation is not None:
            denoise = self._interpolate(net, interpolation, rows, denoise, guidance, guidance_rescale)
        steps = self.config.num_inference_steps if num_inference_steps is None else num_inference_steps
        noise = self._initial_latents(latents, generator, (len(rows), self.unet.latent_channels, *size))
        z_0 = self._sample(denoise, own_scheduler, noise, generator, steps, canvas, callback_on_step_end)
        to_image = _unchanged if canvas is None else canvas.to_photo
        result = SubjectDiffusionOutput(
            images=self._decode(net, z_0, output_type, canvas, feather_px),
            boxes=[tuple(to_image(place.box) for place in of_row) for of_row in places],
            bounds=[tuple(to_image(place.bounds) for place in of_row) for of_row in places],
            cut=[net.prompts.tokenize(prompt_of(row, len(row.subjects))).cut for row in rows],
            attention=None if maps is None else maps.mean(),
        )
        self.maybe_free_model_hooks()
        return result if return_dict else result.to_tuple()

    @torch.no_grad()
    def encode_prompt(
        self,
        prompt: str | Sequence[str],
        subjects: Sequence[Subject] | Sequence[Sequence[Subject]] = (),
        negative_prompt: str | Sequence[str] | None = None,
    ) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B T D"]]:
        """Return the text conditions of prompts and of negative prompts, as the pipeline takes them.

        Args:
            prompt: one prompt or several.
            subjects: subjects of all prompts, or a list of subjects for each; their CLS embeddings are in the result.
            negative_prompt: one for all prompts or one for each; by default the empty prompt.
        """
        net = self._model()
        rows = spread_rows(prompt, negative_prompt, subjects, 1, None, net.config.max_subjects)
        size = (net.latent_side, net.latent_side)
        places = self._choose_places(rows, self._resolve_layout(Layout.AUTO), self._resolve_marks(None), size, None)
        _, texts = self._encode(net, rows, places, size, _Embeddings(None, None, 1))
        return texts.positive, texts.negative.expand_as(texts.positive)

    def _model(self) -> SubjectDiffusion:
        """Return the model that the components make, with its buffers on the device of the computation."""
        networks = Networks(
            vae=self.vae,
            text_encoder=self.text_encoder,
            tokenizer=self.tokenizer,
            unet=self.unet,
            image_encoder=self.image_encoder,
            subject_tokens=self.subject_tokens,
            scheduler=self.scheduler.config,
        )
        if self._net is None or self._networks is None or not _same(self._networks, networks):
            self._net, self._networks = SubjectDiffusion(networks), networks
        net, device = self._net, self._execution_device
        net.place_buffers(device)
        return net

    @property
    def layouts(self) -> tuple[Layout, ...]:
        """Layouts that the model can take: `free` needs one that was trained with unmarked subjects."""
        is_free = self.unet.settings.departures.location_shapes.nothing > 0
        return tuple(layout for layout in Layout if is_free or layout is not Layout.FREE)

    def _resolve_layout(self, layout: Layout | str) -> Layout:
        chosen = parse_choice(Layout, layout, "layout")
        if chosen not in self.layouts:
            raise ValueError(
                "layout='free', but this model was trained with a mark for every subject "
                "(model.departures.location_shapes.nothing=0): choose another, such as 'auto'"
            )
        return chosen

    def _resolve_marks(self, marks: LocationMask | str | None) -> LocationMask:
        settings = self.unet.settings
        trained, knows_boxes = settings.location_mask, settings.departures.location_shapes.box > 0
        chosen = trained if marks is None else parse_choice(LocationMask, marks, "marks")
        if chosen is LocationMask.MASK and trained is LocationMask.BOX:
            raise ValueError("marks='mask', but this model takes whole boxes (model.location_mask='box'): leave it out")
        if chosen is not trained and not knows_boxes:
            warnings.warn(
                "marks='box', but this model was trained with outlines (model.location_mask='mask'): it paints a "
                "filled box as a tile of the subject's colours",
                stacklevel=4,  # the caller of the pipeline, beyond no_grad
            )
        return chosen

    def _latent_size(self, height: int | None, width: int | None, canvas: Canvas | None) -> Size:
        """Return rows and columns of the latent."""
        net, cell = self._model(), self.vae_scale_factor
        multiple = 1 << len(net.unet.base.config.block_out_channels) - 1
        rows = columns = net.latent_side
        if canvas is not None:
            rows, columns = canvas.latent_size(net.latent_side, multiple)
        for name, given in (("height", height), ("width", width)):
            if given is not None and (given < 1 or given % (cell * multiple)):
                raise ValueError(f"{name}={given}: give a multiple of {cell * multiple} pixels")
        return rows if height is None else height // cell, columns if width is None else width // cell

    @property
    def vae_scale_factor(self) -> int:
        """Factor by which a latent is smaller than its image."""
        return 1 << len(self.vae.config.block_out_channels) - 1

    def _choose_places(
        self, rows: Sequence[Row], layout: Layout | str, marks: LocationMask, size: Size, canvas: Canvas | None
    ) -> list[list[Place]]:
        inputs = [
            [subject.layout_input if canvas is None else canvas.layout_input(subject) for subject in row.subjects]
            for row in rows
        ]
        return [
            choose_places(of_row, layout, size, row.layout_rng, marks) for row, of_row in zip(rows, inputs, strict=True)
        ]

    def _autocast(self) -> AbstractContextManager[object]:
        """Return autocast for the encoders, parts of which compute in float32; the UNet is faster without it."""
        dtype = self.unet.dtype
        if dtype is torch.float32:
            return nullcontext()
        return torch.autocast(self._execution_device.type, dtype)

    def _encode(
        self,
        net: SubjectDiffusion,
        rows: Sequence[Row],
        places: Sequence[Sequence[Place]],
        size: Size,
        given: "_Embeddings",
    ) -> tuple[EncodedRows, Texts]:
        """Return the conditions of the rows, with the text conditions that were given in place of their own."""
        with self._autocast():
            encoded = encode_rows(net, self._references, rows, places, size)
            if any(row.negative_prompt for row in rows):
                negative = encode_text(net, [row.negative_prompt for row in rows])
            else:
                negative = net.empty_text()
        own = encoded.conditions.text
        texts = Texts(given.spread(given.positive, own), given.spread(given.negative, negative))
        return encoded, texts

    def _denoiser(
        self,
        net: SubjectDiffusion,
        conditions: Conditions,
        texts: Texts,
        guidance: Guidance,
        rescale: float,
        maps: MapCollector | None,
    ) -> GuidedDenoiser:
        coefficients = guidance.subject_coefficients()
        full, null = replace(conditions, text=texts.positive), net.config.null_branches
        branches = [branch_conditions(branch, full, texts.negative, null) for branch in coefficients]
        return GuidedDenoiser(net.unet, branches, coefficients, rescale, maps)

    def _interpolate(
        self,
        net: SubjectDiffusion,
        interpolation: Interpolation | float,
        rows: Sequence[Row],
        by_subject: Denoiser,
        guidance: Guidance,
        rescale: float,
    ) -> Denoiser:
        """Return the denoiser of Eq. 4, with the untrained base in the phase of the text."""
        if any(hasattr(part, "_hf_hook") for part in self.components.values()):
            raise ValueError(
                "interpolation shares weights between two networks, which offloading cannot move: load the pipeline "
                "without enable_model_cpu_offload or enable_sequential_cpu_offload"
            )
        if self._original is None:
            self._original = OriginalBase.from_model(net)
        original, coefficients = self._original.to(self.device, self.unet.dtype), guidance.text_coefficients()
        with self._autocast():
            texts = original.encode_text(tokenize(net, [Prompt(row.prompt) for row in rows]))
            negative = original.encode_text(tokenize(net, [Prompt(row.negative_prompt) for row in rows]))
        branches = [Conditions(texts if branch.has_text else negative) for branch in coefficients]
        by_text = GuidedDenoiser(original.unet, branches, coefficients, rescale)
        chosen = interpolation if isinstance(interpolation, Interpolation) else Interpolation(alpha=interpolation)
        return interpolate_denoisers(chosen, net.noise.steps, by_subject, by_text)

    def _initial_latents(
        self, latents: Tensor | None, generator: Generators, shape: tuple[int, int, int, int]
    ) -> Float[Tensor, "B C H W"]:
        """Return the initial noise z_T in float32."""
        if latents is None:
            generators = generator if generator is None or isinstance(generator, torch.Generator) else list(generator)
            noise: Tensor = randn_tensor(shape, generator=generators, device=self._execution_device)
            return noise
        if latents.shape != shape:
            raise ValueError(f"latents has the shape {list(latents.shape)}, but this call needs {list(shape)}")
        return latents.to(self._execution_device, torch.float32)

    def _sample(
        self,
        denoise: Denoiser,
        scheduler: Scheduler,
        noise: Float[Tensor, "B C H W"],
        generator: Generators,
        steps: int,
        canvas: Canvas | None,
        callback: OnStepEnd | None,
    ) -> Float[Tensor, "B C H W"]:
        """Denoise; after each step, restore the photo around the region, and let the caller change the latents."""
        self._interrupt = False
        keep = None if canvas is None else keep_photo(canvas, self.vae, self.vae_scale_factor, noise, scheduler)
        with self.progress_bar(total=None if steps < 1 else _evaluations(scheduler, steps)) as bar:

            def after(progress: SamplingProgress) -> Tensor:
                latents = progress.latents if keep is None else keep(progress)
                bar.update()
                if callback is None:
                    return latents
                changed = callback(self, progress.done - 1, progress.timestep, {"latents": latents})
                return changed.get("latents", latents)

            return sample(denoise, scheduler, noise, generator, steps, after, lambda: self._interrupt)

    def _decode(
        self,
        net: SubjectDiffusion,
        z_0: Float[Tensor, "B C H W"],
        output_type: OutputType,
        canvas: Canvas | None,
        feather_px: int,
    ) -> Images:
        """Return the images of latents; decoding them one by one bounds the VAE's working memory."""
        if output_type == "latent":
            return z_0
        images = torch.cat([net.decode(latent[None]) for latent in z_0])
        if canvas is not None:
            arrays = [canvas.paste(_eight_bits(image), feather_px) for image in images]
            images = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 255
        if output_type == "pt":
            return images
        if output_type == "np":
            return np.asarray(images.permute(0, 2, 3, 1).cpu().numpy())
        return [Image.fromarray(_eight_bits(image)) for image in images]


@dataclass(frozen=True)
class _Embeddings:
    """Text conditions that the caller gives in place of prompts."""

    positive: Float[Tensor, "_prompts T D"] | None
    negative: Float[Tensor, "_prompts T D"] | None
    images_per_prompt: int

    def spread(self, given: Tensor | None, own: Tensor) -> Tensor:
        """Return `given` for each image, or `own` if there is none."""
        if given is None:
            return own
        spread = given.repeat_interleave(self.images_per_prompt, dim=0).to(own.device)
        if spread.shape[1:] != own.shape[1:]:
            raise ValueError(f"prompt_embeds has the shape {list(given.shape)}: give what `encode_prompt` returns")
        return spread


def _check_device_map(device_map: str | torch.device | None) -> None:
    if isinstance(device_map, str) and device_map in ("auto", "balanced", "balanced_low_0", "sequential"):
        raise ValueError(
            f"device_map={device_map!r}: the model fits on one device, so give one, such as 'cuda'; for less memory "
            f"call enable_model_cpu_offload() after loading"
        )


def _download(name: str, variant: str | None, **hub: Any) -> Path:
    """Download a model from the hub, with the weights of `variant` where it has them, and return its folder."""
    try:
        return Path(snapshot_download(name, allow_patterns=[*_HUB_FILES, "*.safetensors"], **hub))
    except Exception as error:  # the hub raises many kinds
        raise ModelWeightsError(
            f"{name!r} is no folder, and loading it from the hub failed ({type(error).__name__}: "
            f"{' '.join(str(error).split())[:200]}): give the folder of a model, or check the id and the connection"
        ) from error


def _check_choice(argument: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ValueError(f"{argument}={value!r}: choose one of {', '.join(map(repr, choices))}")


def _unchanged(box: RelativeBox) -> RelativeBox:
    return box


def _rows_of(prompt_embeds: Tensor | None) -> int:
    if prompt_embeds is None:
        raise ValueError("give prompt or prompt_embeds")
    return len(prompt_embeds)


def _same(a: Networks, b: Networks) -> bool:
    return all(getattr(a, each.name) is getattr(b, each.name) for each in fields(Networks))


def _evaluations(scheduler: Scheduler, steps: int) -> int:
    """Return the number of evaluations of the network for a number of steps."""
    scheduler.set_timesteps(steps)
    return len(scheduler.timesteps)


def _eight_bits(image: Float[Tensor, "3 _height _width"]) -> NDArray[np.uint8]:
    return np.asarray((image * 255).round().byte().permute(1, 2, 0).cpu().numpy())
