"""Events of the page's images: runs with previews, the gallery, and attention maps."""

import asyncio
import re
import secrets
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import gradio as gr
from PIL import Image

from flows.generation.errors import GenerationCanceled
from flows.generation.generator import GeneratedImage, Progress
from flows.generation.job import GenerationJob
from flows.generation.png import encode_png
from flows.serving.errors import as_api_error
from flows.serving.page_components import PageComponents, Updates
from flows.serving.page_pictures import SHOWN_PX, draw_attention
from flows.serving.page_session import MadeImage, page_job, problem
from flows.serving.queue import AnyTask
from flows.serving.requests import Settings
from flows.serving.service import ImageService

_GALLERY_IMAGES = 40
"""Images that the gallery keeps for one user."""
_PREVIEWS = 8
"""Previews of a run."""
_SECONDS_BETWEEN_LOOKS = 0.15
_SEEDS = 1 << 31
OnValues = Callable[[Updates], list[Settings]]
"""Function that returns the subjects of a job from the values of the page."""


class _Run:
    """Progress of one run, written by the network thread and read by the page."""

    def __init__(self, service: ImageService) -> None:
        self.progress: Progress | None = None
        self.images: list[Image.Image] = []
        self._service = service

    def note(self, progress: Progress) -> None:
        """Note a step, and decode some of them."""
        if progress.step % max(1, progress.steps // _PREVIEWS) == 0:
            self.images = self._service.generator.preview(progress)
        self.progress = progress


class RunEvents:
    """Handlers of the events of images.

    Args:
        service: what makes the images.
        components: components of the page.
        subjects: returns the subjects of a job from the values of the page.
    """

    def __init__(self, service: ImageService, components: PageComponents, subjects: OnValues) -> None:
        self._service = service
        self._components = components
        self._subjects = subjects
        self._folder = tempfile.TemporaryDirectory(prefix="subject-diffusion-")
        self._running: dict[str, set[AnyTask]] = {}

    async def generate(self, values: Updates, request: gr.Request) -> AsyncIterator[Updates]:
        """Make images from the fields of the page."""
        settings = self._components.settings
        fields = {name: values[component] for name, component in settings.fields.items()}
        if values[settings.random]:
            fields["seed"] = secrets.randbelow(_SEEDS)
            yield {settings.fields["seed"]: fields["seed"]}
        try:
            job = page_job(self._subjects(values), fields)
        except Exception as error:
            yield {self._components.result.status: problem(as_api_error(error).details.message)}
            return
        async for update in self._run(job, values[self._components.made], request):
            yield update

    async def make_again(self, values: Updates, request: gr.Request) -> AsyncIterator[Updates]:
        """Make the chosen image again, from its job."""
        made = values[self._components.made]
        if made:
            async for update in self._run(made[values[self._components.chosen]].job, made, request):
                yield update

    async def show_attention(self, values: Updates, request: gr.Request) -> AsyncIterator[Updates]:
        """Make the chosen image again with attention maps, and show them."""
        result, images = self._components.result, list[GeneratedImage]()
        made = values[self._components.made]
        if not made:
            return
        job = made[values[self._components.chosen]].job
        async for update in self._watch(job, request, images, attention=True):
            yield update
        for image in images:
            maps = () if image.attention is None else image.attention
            shown = [
                (draw_attention(image.image, of_subject), subject.label)
                for of_subject, subject in zip(maps, job.subjects, strict=True)
            ]
            yield {
                result.attention: gr.update(value=shown, visible=bool(shown)),
                result.preview: gr.update(visible=False),
                result.status: "" if shown else "This image has no subjects",
            }

    def choose(self, made: tuple[MadeImage, ...], event: gr.SelectData) -> tuple[int, str]:
        """Choose an image of the gallery."""
        chosen = min(int(event.index), len(made) - 1)
        return chosen, str(made[chosen].file)

    def cancel(self, request: gr.Request) -> str:
        """Cancel the runs of the user."""
        return gr.skip() if self._stop(request) else "Nothing is running"

    def leave(self, request: gr.Request) -> None:
        """Cancel the runs of a user who closes the page."""
        self._stop(request)

    async def _run(
        self, job: GenerationJob, made: tuple[MadeImage, ...], request: gr.Request
    ) -> AsyncIterator[Updates]:
        """Make the images of a job, and show them while they appear."""
        images = list[GeneratedImage]()
        async for update in self._watch(job, request, images):
            yield update
        if images:
            new = await asyncio.to_thread(lambda: [self._save(job, image) for image in images])
            remarks = list(dict.fromkeys(remark for image in images for remark in image.remarks))
            yield self._with_images((*new, *made), [f"{len(images)} image{'s' * (len(images) > 1)} done", *remarks])

    def _with_images(self, made: tuple[MadeImage, ...], remarks: list[str]) -> Updates:
        """Return the updates that show the gallery with new images, and remove the files of the oldest."""
        kept, result = made[:_GALLERY_IMAGES], self._components.result
        for old in made[_GALLERY_IMAGES:]:
            old.file.unlink(missing_ok=True)
        enabled = gr.update(interactive=True)
        return {
            result.status: "; ".join(remarks),
            result.preview: gr.update(visible=False),
            result.gallery: gr.update(value=[(str(one.file), one.caption) for one in kept], selected_index=None),
            result.download: gr.update(value=str(kept[0].file), interactive=True),
            result.again: enabled,
            result.look: enabled,
            self._components.made: kept,
            self._components.chosen: 0,
        }

    async def _watch(
        self, job: GenerationJob, request: gr.Request, images: list[GeneratedImage], attention: bool = False
    ) -> AsyncIterator[Updates]:
        """Run a job: show its progress, and append its images to `images`; nothing is appended if it fails."""
        result, session = self._components.result, request.session_hash or ""
        run, task = _Run(self._service), None
        try:
            task = self._service.submit(job, f"page {session}", run.note, attention, masks_of_server=True)
            self._running.setdefault(session, set()).add(task)
            done = asyncio.wrap_future(task.future)
            shown: Progress | None = None
            yield {result.status: "Waiting", result.preview: gr.update(visible=True, value=None)}
            while not done.done():
                await asyncio.wait([done], timeout=_SECONDS_BETWEEN_LOOKS)
                if run.progress is not shown:
                    shown = run.progress
                    yield {result.status: _progress_text(shown), result.preview: _first(run.images)}
                elif (before := self._service.queue.tasks_before(task)) is not None:
                    yield {result.status: f"Waiting: {before} before you"}
            images += done.result()
        except GenerationCanceled:
            yield {result.status: "Canceled", result.preview: gr.update(visible=False)}
        except Exception as error:
            message = as_api_error(self._service.explain(error, job)).details.message
            yield {result.status: problem(message), result.preview: gr.update(visible=False)}
        finally:
            if task is not None:
                task.cancel()  # if the page was closed
                self._running.get(session, set()).discard(task)

    def _save(self, job: GenerationJob, image: GeneratedImage) -> MadeImage:
        seed = image.provenance.seed
        words = "-".join(re.findall(r"[a-z0-9]+", job.prompt.lower())[:8]) or "image"
        file = Path(self._folder.name) / f"{words}-{seed}-{secrets.token_hex(4)}.png"
        file.write_bytes(encode_png(image.image, image.provenance))
        return MadeImage(file, job.model_copy(update={"seed": seed, "n": 1}), f"seed {seed}")

    def _stop(self, request: gr.Request) -> int:
        """Cancel the runs of a user, and return their number."""
        tasks = self._running.pop(request.session_hash or "", set())
        for task in tasks:
            task.cancel()
        return len(tasks)


def _progress_text(progress: Progress | None) -> str:
    if progress is None:
        return ""
    images = f", image {progress.images_done + 1} of {progress.images}" if progress.images > 1 else ""
    return f"Step {progress.step} of {progress.steps}{images}"


def _first(images: list[Image.Image]) -> object:
    """Return the first preview, enlarged so that its pixels are visible."""
    if not images:
        return gr.skip()
    scale = max(1, SHOWN_PX // 2 // max(images[0].size))
    size = (images[0].width * scale, images[0].height * scale)
    return gr.update(value=images[0].resize(size, Image.Resampling.NEAREST), visible=True)
