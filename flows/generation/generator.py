"""Makes the images of jobs with one loaded model.

    generator = Generator()                                   # the small model of this repository
    images = generator.generate(job, Path("jobs"))            # paths of the job start from the folder "jobs"
    images[0].image.save("cat.png")

An image does not depend on the other images of its batch, beyond rounding.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from diffusers.image_processor import VaeImageProcessor
from numpy.typing import NDArray
from PIL import Image
from transformers.utils import logging as transformers_logging

from flows.generation.errors import GenerationCanceled, InvalidJob
from flows.generation.images import decode_image, decode_region, decode_subject, read_job
from flows.generation.job import GenerationJob
from flows.generation.provenance import Batch, Provenance, identify_model, library_versions
from labeling.sdd.pixels import MAX_PIXELS
from model.errors import ModelWeightsError
from model.inputs.layout import RelativeBox
from model.inputs.pictures import Array
from model.inputs.reference import Subject
from model.pipeline import SubjectDiffusionOutput, SubjectDiffusionPipeline
from model.sampling.denoising import seeded_generators
from model.sampling.schedulers import make_scheduler, name_of, suits

DEFAULT_MODEL = Path(__file__).parents[2] / "miniature" / "weights" / "subject_diffusion"
"""Folder of the small model of this repository."""
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
"""Precisions of the weights by name."""

SCHEDULERS = (
    "DDIM",
    "DDPM",
    "DEISMultistep",
    "DPMSolverMultistep",
    "DPMSolverSinglestep",
    "EulerAncestralDiscrete",
    "EulerDiscrete",
    "HeunDiscrete",
    "KDPM2AncestralDiscrete",
    "KDPM2Discrete",
    "LCM",
    "LMSDiscrete",
    "PNDM",
    "TCD",
    "UniPCMultistep",
)
"""Schedulers of diffusers that suit a Stable Diffusion. Others run as well, many of them with noise as a result."""


@dataclass(frozen=True, eq=False)
class Progress:
    """Progress of a call, after a step of a batch."""

    images_done: int
    """Images of finished batches."""
    images: int
    """Images of the call."""
    step: int
    """Evaluations of the network in this batch so far."""
    steps: int
    """Evaluations of the network for a batch."""
    latents: torch.Tensor
    """Latents of the batch [B, C, H, W], with the noise that is left; `Generator.preview` decodes them."""

    @property
    def done(self) -> float:
        """Images that are done; those of the batch count with the share of its steps."""
        return self.images_done + len(self.latents) * self.step / self.steps


@dataclass(frozen=True, eq=False)
class GeneratedImage:
    """An image with its origin."""

    image: Image.Image
    """The image, RGB."""
    provenance: Provenance
    """What determines the image; it holds no bytes of the subjects' images."""
    boxes: tuple[RelativeBox, ...]
    """Boxes of the subjects, as requested or as the layout chose them."""
    remarks: tuple[str, ...]
    """Remarks for the user, such as the end of the prompt that did not fit."""
    attention: NDArray[np.float32] | None = None
    """Mean attention of each latent position to each subject [subjects, h, w], 0 to 1, if it was asked for."""


@dataclass(frozen=True, eq=False)
class PreparedJob:
    """A job whose images are decoded and whose settings are complete."""

    job: GenerationJob
    """The job with hashes and bytes of its images, and with the model's defaults in place of None."""
    seeds: tuple[int, ...]
    """Seeds of the images: those of the job, or some of them."""
    subjects: tuple[Subject, ...]
    """The decoded subjects."""
    photo: Array | None
    """Photo to generate into, RGB [h, w, 3]."""
    region: Array | None
    """Part of the photo to generate [h, w]."""
    existing: frozenset[int] = frozenset()
    """Seeds of images that exist. They are computed only for others of their batch, which thereby stay the same."""

    @property
    def exists(self) -> bool:
        """Whether all images exist."""
        return self.existing.issuperset(self.seeds)

    @property
    def batch_key(self) -> object:
        """Key of jobs whose images can be in one batch."""
        settings = self.job.model_dump(exclude={"prompt", "negative_prompt", "subjects", "n", "seed", "photo"})
        return (tuple(map(str, settings.values())), len(self.subjects), self.photo is not None and id(self))


OnProgress = Callable[[Progress], None]
"""Function that is called after each step."""


class Generator:
    """Makes images with one model. Serves any number of threads, one of which computes at a time.

    Args:
        model: folder of the model.
        device: device that computes, such as `cuda:1`; by default a GPU, if there is one.
        dtype: precision of the weights: float32, float16 or bfloat16.
        max_batch: images that are computed at once.
        max_pixels: limit on the size of users' images.

    Raises:
        ModelWeightsError: the folder is not that of a whole model.
        InvalidJob: there is no such device or precision.
    """

    def __init__(
        self,
        model: Path = DEFAULT_MODEL,
        device: str | None = None,
        dtype: str = "float32",
        max_batch: int = 4,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        if not model.is_dir():
            raise ModelWeightsError(f"{model} is no folder: give the folder of a trained model")
        if dtype not in DTYPES:
            raise InvalidJob(f"dtype={dtype!r}: choose one of {', '.join(DTYPES)}")
        if max_batch < 1:
            raise InvalidJob(f"max_batch={max_batch}: give 1 or more")
        self.device = _check_device(device)
        self.dtype = dtype
        self.model = identify_model(model)
        self.pipeline = _load(model, self.device, DTYPES[dtype])
        self._max_batch = max_batch
        self._max_pixels = max_pixels
        self._lock = Lock()

    @property
    def max_subjects(self) -> int:
        """Number of subjects that the model takes."""
        return int(self.pipeline.unet.settings.max_subjects)

    @property
    def schedulers(self) -> tuple[str, ...]:
        """Names of the schedulers that suit the model."""
        return tuple(name for name in SCHEDULERS if suits(name, self.pipeline.scheduler.config))

    def generate(
        self,
        job: GenerationJob,
        folder: Path | None = None,
        on_progress: OnProgress | None = None,
        canceled: Callable[[], bool] = lambda: False,
    ) -> list[GeneratedImage]:
        """Make the images of one job, as `prepare` and `run` do."""
        (images,) = self.run([self.prepare(job, folder)], on_progress, canceled)
        return images

    def prepare(self, job: GenerationJob, folder: Path | None = None) -> PreparedJob:
        """Check a job, read and decode its images, and fill in the model's defaults. Needs no lock.

        Args:
            job: the job.
            folder: folder that relative paths start from; None if the job must hold its images' bytes.

        Raises:
            InvalidJob: a part of the job cannot be used.
        """
        if len(job.subjects) > self.max_subjects:
            raise InvalidJob(f"{len(job.subjects)} subjects, but this model takes {self.max_subjects}: give fewer")
        job = self._complete(read_job(job, folder))
        photo, region = job.photo, None
        if photo is not None and photo.region is not None:
            region = decode_region(photo.region, self._max_pixels)
        return PreparedJob(
            job,
            tuple(job.seeds),
            tuple(decode_subject(subject, self._max_pixels) for subject in job.subjects),
            None if photo is None else decode_image(photo.image, self._max_pixels).pixels,
            region,
        )

    def run(
        self,
        jobs: Sequence[PreparedJob],
        on_progress: OnProgress | None = None,
        canceled: Callable[[], bool] = lambda: False,
        attention: bool = False,
    ) -> list[list[GeneratedImage]]:
        """Make the images of jobs; images with equal settings are computed together.

        Args:
            jobs: what `prepare` returned.
            on_progress: called after each step, from this thread.
            canceled: whether to stop, asked after each step.
            attention: whether the images come with attention maps. Slower.

        Returns:
            The images of each job that did not exist, in the order of `seeds`.

        Raises:
            InvalidJob: settings, sizes or places of a job do not fit the model, or the images do not fit into memory.
            PromptError: a prompt or label does not fit the template.
            GenerationCanceled: `canceled` returned true.
        """
        batches = [batch for batch in _batches(jobs, self._max_batch) if not all(row.exists for row in batch)]
        done: dict[tuple[int, int], GeneratedImage] = {}
        images = sum(len(batch) for batch in batches)
        for batch in batches:
            steps = self._evaluations(batch[0].prepared.job)
            made = self._run_batch(batch, _Watch(len(done), images, steps, on_progress, canceled), attention)
            done.update({(row.job, row.seed): image for row, image in zip(batch, made, strict=True)})
        return [
            [done[number, seed] for seed in prepared.seeds if seed not in prepared.existing]
            for number, prepared in enumerate(jobs)
        ]

    @torch.no_grad()
    def preview(self, progress: Progress) -> list[Image.Image]:
        """Return the noisy images of a batch so far. Only `on_progress` may call it, which has the networks."""
        vae = self.pipeline.vae
        decoded = vae.decode(progress.latents.to(vae.dtype) / vae.config.scaling_factor).sample
        return list(VaeImageProcessor().postprocess(decoded.float()))

    def repeat(self, provenance: Provenance, prepared: PreparedJob) -> GeneratedImage:
        """Make one image again, in a batch like its own, so that the rounding is the same too.

        Args:
            provenance: origin of the image.
            prepared: its job.

        Raises:
            InvalidJob: as `run`.
        """
        batch = provenance.batch
        rows = [_Row(0, prepared, provenance.seed)] * batch.size
        return self._run_batch(rows, _Watch(0, 1, self._evaluations(prepared.job)))[batch.position]

    def provenance(self, prepared: PreparedJob, seed: int, batch: Batch) -> Provenance:
        """Return the provenance of the image with this seed.

        Args:
            prepared: the image's job.
            seed: one of the job's seeds.
            batch: place of the image in its batch.
        """
        return Provenance(
            job=prepared.job.map_sources(lambda source: source.without_data()),
            seed=seed,
            model=self.model,
            batch=batch,
            device=self.device.type,
            dtype=self.dtype,
            versions=library_versions(),
        )

    def _complete(self, job: GenerationJob) -> GenerationJob:
        """Return the job with the model's defaults in place of None."""
        defaults = self.pipeline.config
        own = name_of(self.pipeline.scheduler)
        if job.scheduler not in (None, own, *self.schedulers):
            raise InvalidJob(f"scheduler={job.scheduler!r}: choose one of {', '.join(self.schedulers)}")
        given = {
            "steps": job.steps or int(defaults.num_inference_steps),
            "text_guidance": _or_default(job.text_guidance, defaults.text_guidance),
            "image_guidance": _or_default(job.image_guidance, defaults.image_guidance),
            "scheduler": job.scheduler or own,
        }
        complete = job.model_copy(update=given)
        self._evaluations(complete)
        return complete

    def _evaluations(self, job: GenerationJob) -> int:
        """Return the number of evaluations of the network for the job's steps."""
        with _as_invalid_job(job):
            scheduler = make_scheduler(job.scheduler or "", self.pipeline.scheduler.config)
            scheduler.set_timesteps(job.steps or 1)
        return len(scheduler.timesteps)

    def _run_batch(self, batch: Sequence["_Row"], watch: "_Watch", attention: bool = False) -> list[GeneratedImage]:
        with self._lock, _as_invalid_job(batch[0].prepared.job), _caught_remarks(batch) as remarks:
            watch.stop_if_canceled()
            result = self.pipeline(
                [row.prepared.job.prompt for row in batch],
                [row.prepared.subjects for row in batch],
                negative_prompt=[row.prepared.job.negative_prompt for row in batch],
                generator=seeded_generators([row.seed for row in batch]),
                callback_on_step_end=watch.on_step_end,
                attention=attention,
                **_call_settings(batch[0].prepared),
            )
        watch.stop_if_canceled()
        assert isinstance(result, SubjectDiffusionOutput)
        return [
            GeneratedImage(
                image,
                self.provenance(row.prepared, row.seed, Batch(size=len(batch), position=position)),
                tuple(boxes),
                (*(one for one in remarks if _is_about(row.prepared.job, one)), *_cut_remark(cut)),
                None if result.attention is None else result.attention[position, : len(row.prepared.subjects)].numpy(),
            )
            for position, (row, image, boxes, cut) in enumerate(
                zip(batch, result.images, result.boxes, result.cut, strict=True)
            )
        ]


@dataclass(frozen=True, eq=False)
class _Row:
    """One image to make."""

    job: int
    """Number of its job in the call."""
    prepared: PreparedJob
    seed: int

    @property
    def exists(self) -> bool:
        """Whether the image exists."""
        return self.seed in self.prepared.existing


@dataclass(frozen=True, eq=False)
class _Watch:
    """Reports the progress of one batch, and stops it."""

    images_done: int
    images: int
    steps: int
    on_progress: OnProgress | None = None
    canceled: Callable[[], bool] = lambda: False

    def on_step_end(
        self, pipeline: SubjectDiffusionPipeline, step: int, timestep: float, tensors: dict[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """Report a step; the form is that of diffusers' callbacks."""
        if self.on_progress is not None:
            self.on_progress(Progress(self.images_done, self.images, step + 1, self.steps, tensors["latents"]))
        if self.canceled():
            pipeline._interrupt = True
        return {}

    def stop_if_canceled(self) -> None:
        """Raise `GenerationCanceled` if the caller stopped the call."""
        if self.canceled():
            raise GenerationCanceled("canceled before all images were done")


def _load(model: Path, device: torch.device, dtype: torch.dtype) -> SubjectDiffusionPipeline:
    transformers_logging.disable_progress_bar()
    pipeline = SubjectDiffusionPipeline.from_pretrained(model, dtype=dtype).to(device)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _check_device(name: str | None) -> torch.device:
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # of the kinds that a missing device causes
        raise InvalidJob(f"device={name!r} cannot be used ({str(error).splitlines()[0]}): give cpu, or cuda") from error
    return device


def _batches(jobs: Sequence[PreparedJob], size: int) -> Iterator[list[_Row]]:
    """Yield the images of all jobs in batches of equal settings."""
    groups: dict[object, list[_Row]] = {}
    for number, prepared in enumerate(jobs):
        rows = (_Row(number, prepared, seed) for seed in prepared.seeds)
        groups.setdefault(prepared.batch_key, []).extend(rows)
    for group in groups.values():
        yield from (group[start : start + size] for start in range(0, len(group), size))


def _call_settings(prepared: PreparedJob) -> dict[str, Any]:
    """Return the pipeline's arguments that all images of a batch share."""
    job = prepared.job
    return {
        "height": job.height,
        "width": job.width,
        "num_inference_steps": job.steps,
        "text_guidance": job.text_guidance,
        "image_guidance": job.image_guidance,
        "guidance_rescale": job.guidance_rescale,
        "scheduler": job.scheduler,
        "layout": job.layout,
        "interpolation": job.interpolation,
        "image": prepared.photo,
        "mask_image": prepared.region,
        "feather_px": 0 if job.photo is None else job.photo.feather_px,
    }


@contextmanager
def _caught_remarks(batch: Sequence[_Row]) -> Iterator[list[str]]:
    """Collect the warnings about subjects of the batch inside the context, each once; pass others on at its end."""
    remarks: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        yield remarks
    for one in caught:
        text = str(one.message)
        if not any(_is_about(row.prepared.job, text) for row in batch):
            warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
        elif text not in remarks:
            remarks.append(text)


def _is_about(job: GenerationJob, remark: str) -> bool:
    """Return whether a warning of the model names a subject of the job."""
    return any(remark.startswith(f"{subject.label!r} ") for subject in job.subjects)


def _cut_remark(cut: str) -> tuple[str, ...]:
    if not cut:
        return ()
    shown = cut if len(cut) <= 60 else f"{cut[:57]}…"
    return (f"the prompt is too long: its last {len(cut):,} characters were cut, from {shown!r}",)


def _or_default(value: float | None, default: float) -> float:
    return float(default) if value is None else value


@contextmanager
def _as_invalid_job(job: GenerationJob) -> Iterator[None]:
    """Turn what the pipeline raises for a value that it does not take into an `InvalidJob`."""
    try:
        yield
    except ValueError as error:
        raise InvalidJob(str(error)) from error
    except (torch.OutOfMemoryError, MemoryError) as error:
        size = "the default size" if job.height is job.width is None else f"{job.width}x{job.height}"
        raise InvalidJob(f"images of {size} do not fit into memory: give a smaller size, or fewer at once") from error
