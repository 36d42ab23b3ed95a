"""Generate images from a prompt and pictures of subjects.

    pipeline = SubjectDiffusionPipeline.from_pretrained("out/model", device="cuda")
    dog = Subject.from_cutout(Image.open("dog.png"), "dog")          # transparent around the dog
    images = pipeline([Request("a photo on the beach", [dog], seed=7)])
    images[0].image.save("beach.png")

Axes: B images, R reference subjects, H W rows and columns of the latent.
"""

import math
import operator
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor, nn

from infra.precision import Precision
from model.config import LocationMask
from model.inputs.batch import ABSENT, PromptTokens, SubjectBatch
from model.inputs.layout import Layout, LayoutInput, Place, RelativeBox, choose_places, parse_box, parse_choice
from model.inputs.pictures import Picture, cutout_layers, mask_pixels, rgb_pixels
from model.inputs.prompt import Prompt
from model.inputs.subject import SubjectPictures
from model.networks.unet import Conditions
from model.sampling.config import SamplingConfig
from model.sampling.denoising import Denoiser, GuidedDenoiser, OnStep, interpolate_denoisers
from model.sampling.generation import encode_conditions, generate_images, subject_denoiser
from model.sampling.guidance import Guidance
from model.sampling.original import OriginalBase
from model.subject_diffusion import SubjectDiffusion

_SEEDS = 1 << 64
"""Number of distinct seeds of PyTorch's generators."""


@dataclass(frozen=True)
class Subject:
    """One subject of a request.

    Pictures and masks are Pillow images, which are turned upright by their EXIF orientation, or NumPy arrays. A picture
    is grey, RGB or RGBA (transparency is ignored) in uint8, uint16 or floats from 0 to 1. A mask holds bool, 0 and 1,
    0 to 255, or floats from 0 to 1; values of at least half the maximum are inside.

    Raises:
        ValueError: a picture or mask is of another kind, a mask is empty or differs in size from its picture, the label
            is missing, the box does not lie in the image, or the strength is negative.
    """

    image: Picture
    """Picture that shows the subject."""
    mask: Picture
    """Mask of the subject in the picture, of the picture's size."""
    label: str
    """Name of the subject in one or a few words."""
    box: Sequence[float] | None = None
    """Box in the new image: left, top, right, bottom, each 0 to 1. The subject's outline is fitted into it."""
    place: Picture | None = None
    """Mask of the subject in the new image, at any resolution."""
    strength: float = 1.0
    """Factor on the adapters' attention to the subject. With 0 it is absent for the adapters, but stays in the prompt
    (with its CLS embedding) and in the location mask."""
    pixels: UInt8[np.ndarray, "h w 3"] = field(init=False, repr=False)
    """`image` as an RGB array."""
    layout_input: LayoutInput = field(init=False, repr=False)
    """Outline, box and place as the layout takes them."""

    def __post_init__(self) -> None:
        if not isinstance(self.label, str) or not self.label.strip():
            raise ValueError(f"label={self.label!r}: name the subject in one or a few words, such as 'dog'")
        if not 0 <= self.strength < math.inf:
            raise ValueError(f"strength={self.strength} of {self.label!r}: give 0 or more; training uses 1")
        pixels = rgb_pixels(self.image, f"the picture of {self.label!r}")
        outline = mask_pixels(self.mask, f"the mask of {self.label!r}")
        if outline.shape != pixels.shape[:2]:
            sizes = ["x".join(map(str, array.shape[1::-1])) for array in (outline, pixels)]
            raise ValueError(f"the mask of {self.label!r} is {sizes[0]}, its picture {sizes[1]}: give both in one size")
        box = None if self.box is None else parse_box(self.box, self.label)
        place = None if self.place is None else mask_pixels(self.place, f"the mask that places {self.label!r}")
        object.__setattr__(self, "pixels", pixels)
        object.__setattr__(self, "layout_input", LayoutInput(self.label, outline, box, place))

    @classmethod
    def from_cutout(
        cls,
        cutout: Picture,
        label: str,
        box: Sequence[float] | None = None,
        place: Picture | None = None,
        strength: float = 1.0,
    ) -> "Subject":
        """Return a subject from a picture that is transparent around it.

        Raises:
            ValueError: the picture has no transparency or no opaque pixel, or as for any subject.
        """
        image, mask = cutout_layers(cutout, f"the picture of {label!r}")
        return cls(image, mask, label, box, place, strength)


@dataclass(frozen=True)
class Request:
    """One image to generate.

    Raises:
        ValueError: the prompt is not a string, or the seed is not a whole number from 0 to 2**64 - 1.
    """

    prompt: str
    """Text of the prompt. The clauses "the [label] is [PH]" are added to it."""
    subjects: Sequence[Subject] = ()
    """Subjects of the image, at most `ModelConfig.max_subjects`."""
    seed: int = 0
    """Seed of noise and layout, 0 to 2**64 - 1."""

    def __post_init__(self) -> None:
        if not isinstance(self.prompt, str):
            raise ValueError(f"prompt={self.prompt!r}: give a string; it may be empty")
        try:
            seed = operator.index(self.seed)
        except TypeError:
            seed = -1
        if not 0 <= seed < _SEEDS:
            raise ValueError(f"seed={self.seed!r}: give a whole number from 0 to 2**64 - 1")
        object.__setattr__(self, "seed", seed)


@dataclass(frozen=True)
class GeneratedImage:
    """A generated image with its layout."""

    image: Image.Image
    """The image."""
    boxes: tuple[RelativeBox, ...]
    """Box of each subject, as requested or as the layout chose it."""
    bounds: tuple[RelativeBox, ...]
    """Box of each subject for the adapters: the bounds of the outline that was fitted into its box."""
    cut: str
    """End of the prompt that did not fit; empty if all of it did."""
    request: Request = field(repr=False)
    """The request."""


class SubjectDiffusionPipeline:
    """Generates images with a trained model.

    Args:
        net: the model. Its large parts are cast to `precision`, then it is moved to `device`.
        device: device of the networks.
        precision: precision of the large parts, by default bfloat16 on a GPU and float32 on a CPU.
        original: the base before training, for interpolation (Eq. 4); by default loaded when it is first needed.
    """

    def __init__(
        self,
        net: SubjectDiffusion,
        device: str | torch.device = "cpu",
        precision: Precision | None = None,
        original: OriginalBase | None = None,
    ) -> None:
        self.device = torch.device(device)
        on_gpu = self.device.type == "cuda"
        self.precision = precision or (Precision.BFLOAT16 if on_gpu else Precision.FLOAT32)
        self.dtype = {Precision.FLOAT32: torch.float32, Precision.BFLOAT16: torch.bfloat16}[self.precision]
        self.pictures = SubjectPictures(
            net.config.subject, net.image_encoder.side_px, net.image_encoder.mean.flatten().tolist(), training=False
        )
        for part in (net.vae, net.image_encoder.visual, net.text_encoder.clip, net.unet):
            # Cast before the move, so that the device never holds them in float32. The perceptrons stay in float32:
            # they are small, and Fourier codes need the precision.
            nn.Module.to(part, self.dtype)  # diffusers' own `to` warns about an empty list
        self.net = net.to(self.device).eval().requires_grad_(False)
        if on_gpu:
            self.net.unet.to(memory_format=torch.channels_last)
        self._original = original

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, device: str | torch.device = "cpu", precision: Precision | None = None
    ) -> "SubjectDiffusionPipeline":
        """Load a model that `SubjectDiffusion.save_pretrained` wrote.

        Args:
            folder: folder of the model.
            device: device of the networks.
            precision: precision of the large parts, by default bfloat16 on a GPU and float32 on a CPU.

        Raises:
            ModelWeightsError: `folder` holds no model, or a part of the model is missing.
        """
        return cls(SubjectDiffusion.from_pretrained(folder), device, precision)

    @torch.no_grad()
    def __call__(
        self,
        requests: Sequence[Request],
        sampling: SamplingConfig | None = None,
        layout: Layout | str = Layout.AUTO,
        on_step: OnStep | None = None,
        marks: LocationMask | str | None = None,
    ) -> list[GeneratedImage]:
        """Generate one image per request, all in one batch; fastest if all have the same number of subjects.

        An image depends on its request alone, not on the batch: its seed determines the noise and the layout.

        Args:
            requests: the images to generate.
            sampling: settings of the sampler.
            layout: a `Layout` or its name: given, detected, random or auto.
            on_step: called after each evaluation of the network.
            marks: how a box is marked: `mask` by the subject's outline fitted into it, `box` as a whole; by default as
                in training. A model that was trained with masks paints a filled box as a tile of the subject's colours,
                so `box` causes a warning with such a model.

        Raises:
            PromptError: a prompt contains the placeholder, or its clauses alone are too long.
            ValueError: a request has more than `max_subjects` subjects; a scheduler, layout or mark is unknown; `given`
                and a subject has no place; or the model cannot take these marks.
            ModelWeightsError: interpolation (Eq. 4) is set and the base cannot be read.
        """
        if not requests:
            return []
        sampling = sampling or SamplingConfig()
        marks = self._resolve_marks(marks)
        layouts = [self._choose_places(request, layout, marks) for request in requests]
        denoise = self._denoiser(requests, layouts, sampling)
        images = generate_images(
            self.net, denoise, sampling, [request.seed for request in requests], self._side, on_step
        )
        return [
            GeneratedImage(
                image=image,
                boxes=tuple(place.box for place in places),
                bounds=tuple(place.bounds for place in places),
                cut=self._cut(request),
                request=request,
            )
            for request, places, image in zip(requests, layouts, images, strict=True)
        ]

    def compile(self) -> None:
        """Compile the UNet; the first image of each batch size and number of subjects then takes a minute longer."""
        self.net.unet.compile()

    @property
    def _side(self) -> int:
        return int(self.net.unet.base.config.sample_size)

    def _resolve_marks(self, marks: LocationMask | str | None) -> LocationMask:
        trained = self.net.config.location_mask
        chosen = trained if marks is None else parse_choice(LocationMask, marks, "marks")
        if chosen is LocationMask.MASK and trained is LocationMask.BOX:
            raise ValueError("marks='mask', but this model takes whole boxes (model.location_mask='box'): leave it out")
        if chosen is not trained:
            warnings.warn(
                "marks='box', but this model was trained with outlines (model.location_mask='mask'): it paints a "
                "filled box as a tile of the subject's colours",
                stacklevel=4,  # the caller of the pipeline, beyond no_grad
            )
        return chosen

    def _choose_places(self, request: Request, layout: Layout | str, marks: LocationMask) -> list[Place]:
        if len(request.subjects) > self.net.config.max_subjects:
            raise ValueError(
                f"{len(request.subjects)} subjects for {request.prompt!r}, but model.max_subjects="
                f"{self.net.config.max_subjects}: give fewer"
            )
        inputs = [subject.layout_input for subject in request.subjects]
        return choose_places(inputs, layout, self._side, np.random.default_rng(request.seed), marks)

    def _denoiser(
        self, requests: Sequence[Request], layouts: Sequence[Sequence[Place]], sampling: SamplingConfig
    ) -> Denoiser:
        by_subject = self._subject_denoiser(requests, layouts, sampling.guidance)
        if sampling.interpolation is None:
            return by_subject
        by_text = self._text_denoiser(requests, sampling.guidance)
        return interpolate_denoisers(sampling.interpolation, self.net.noise.steps, by_subject, by_text)

    def _subject_denoiser(
        self, requests: Sequence[Request], layouts: Sequence[Sequence[Place]], guidance: Guidance
    ) -> GuidedDenoiser:
        batch = self._batch(requests, layouts)
        with self._autocast():
            conditions, empty = encode_conditions(self.net, batch, self._strengths(requests, batch.boxes.shape[1]))
        return subject_denoiser(self.net, conditions, empty, guidance.subject_coefficients())

    def _text_denoiser(self, requests: Sequence[Request], guidance: Guidance) -> GuidedDenoiser:
        if self._original is None:
            self._original = OriginalBase.from_model(self.net)
        original, coefficients = self._original.to(self.device, self.dtype), guidance.text_coefficients()
        with self._autocast():
            texts = original.encode_text(self._tokens([Prompt(request.prompt) for request in requests]))
            empty = original.encode_text(self._tokens([Prompt("")])).expand_as(texts)
        branches = [Conditions(texts if branch.has_text else empty) for branch in coefficients]
        return GuidedDenoiser(original.unet, branches, coefficients)

    def _batch(self, requests: Sequence[Request], layouts: Sequence[Sequence[Place]]) -> SubjectBatch:
        slots = max(1, *(len(request.subjects) for request in requests))
        prompts = self._tokens([_prompt(request, slots) for request in requests])
        boxes, masks = self._boxes_and_masks(layouts, slots)
        return SubjectBatch(
            prompts=prompts,
            boxes=boxes,
            masks=masks,
            present=prompts.placeholder_positions != ABSENT,
            subject_images=self._subject_images(requests, slots),
            full=all(len(request.subjects) == slots for request in requests),
        )

    def _tokens(self, prompts: Sequence[Prompt]) -> PromptTokens:
        tokens = self.net.prompts(prompts)
        return PromptTokens(
            token_ids=tokens.token_ids.to(self.device),
            placeholder_positions=tokens.placeholder_positions.to(self.device),
            entity_tokens=tokens.entity_tokens.to(self.device),
        )

    def _subject_images(self, requests: Sequence[Request], slots: int) -> UInt8[Tensor, "B R 3 _s _s"]:
        side = self.net.image_encoder.side_px
        pictures = np.zeros((len(requests), slots, side, side, 3), dtype=np.uint8)
        for row, request in enumerate(requests):
            for slot, subject in enumerate(request.subjects):
                rng = np.random.default_rng(request.seed)
                pictures[row, slot] = self.pictures(subject.pixels, subject.layout_input.outline, rng)
        return torch.from_numpy(pictures).permute(0, 1, 4, 2, 3).to(self.device)

    def _boxes_and_masks(
        self, layouts: Sequence[Sequence[Place]], slots: int
    ) -> tuple[Float[Tensor, "B R 4"], Float[Tensor, "B R H W"]]:
        boxes = torch.zeros(len(layouts), slots, 4)
        masks = torch.zeros(len(layouts), slots, self._side, self._side)
        for row, places in enumerate(layouts):
            for slot, place in enumerate(places):
                boxes[row, slot] = torch.tensor(place.bounds)
                masks[row, slot] = torch.from_numpy(place.mask)
        return boxes.to(self.device), masks.to(self.device)

    def _strengths(self, requests: Sequence[Request], slots: int) -> Float[Tensor, "B R"] | None:
        strengths = [[subject.strength for subject in request.subjects] for request in requests]
        if all(strength == 1.0 for row in strengths for strength in row):
            return None
        return torch.tensor([row + [1.0] * (slots - len(row)) for row in strengths], device=self.device)

    def _autocast(self) -> AbstractContextManager[object]:
        """Return autocast for the encoders, parts of which are in float32; the UNet is faster without it."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not torch.float32)

    def _cut(self, request: Request) -> str:
        return self.net.prompts.tokenize(_prompt(request, len(request.subjects))).cut


def _prompt(request: Request, slots: int) -> Prompt:
    labels = [subject.label for subject in request.subjects]
    return Prompt(request.prompt, [*labels, *[None] * (slots - len(labels))])
