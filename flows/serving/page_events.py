"""What happens on the page: uploads, cut-outs, runs with previews, and the gallery."""

import asyncio
import re
import secrets
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
from PIL import Image

from flows.generation.errors import GenerationCanceled
from flows.generation.generator import GeneratedImage, Progress
from flows.generation.job import GenerationJob
from flows.generation.png import encode_png
from flows.serving.errors import as_api_error
from flows.serving.page_pictures import SHOWN_PX, draw_attention, draw_canvas, draw_cutout, on_white, shrink
from flows.serving.page_session import (
    QUICK,
    MadeImage,
    Slot,
    Slots,
    box_of,
    default_boxes,
    page_job,
    relative_box,
    subject_settings,
)
from flows.serving.queue import AnyTask
from flows.serving.requests import Settings
from flows.serving.service import ImageService, encode_mask
from labeling.cutout import Cutout
from labeling.photo import decode_photo

if TYPE_CHECKING:
    from flows.serving.page import ResultComponents, SettingsComponents, SlotComponents

_GALLERY_IMAGES = 40
"""Images that the gallery keeps for one user."""
_PREVIEWS = 8
"""Previews of a run."""
_SECONDS_BETWEEN_LOOKS = 0.15
_SEEDS = 1 << 31
Updates = dict[gr.Component, Any]
"""New values of components."""


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


class PageEvents:
    """Handlers of the page's events.

    Args:
        service: what makes the images.
    """

    def __init__(self, service: ImageService) -> None:
        self._service = service
        self._folder = tempfile.TemporaryDirectory(prefix="subject-diffusion-")
        self._running: dict[str, set[AnyTask]] = {}
        self._decoding = asyncio.Lock()
        self._canvas = draw_canvas(1, 1)

    def connect(
        self,
        page: gr.Blocks,
        upload: gr.UploadButton,
        slots: Sequence["SlotComponents"],
        places: gr.Group,
        use_boxes: gr.Checkbox,
        canvas: gr.Component,
        settings: "SettingsComponents",
        generate: gr.Button,
        cancel: gr.Button,
        result: "ResultComponents",
    ) -> None:
        """Connect the components with their handlers."""
        self._slots, self._places, self._canvas_box, self._result = slots, places, canvas, result
        self._settings, self._use_boxes, self._upload = settings, use_boxes, upload
        self._state = gr.State((None,) * len(slots), time_to_live=3600)
        self._made = gr.State((), time_to_live=3600)
        self._chosen = gr.State(0)
        labels = [slot.label for slot in slots]
        of_slots = [self._state, canvas, *(part for slot in slots for part in _slot_parts(slot))]
        private = {"api_visibility": "private", "concurrency_limit": None}
        upload.upload(self._add, [upload, self._state, *labels], [*of_slots, places, result.status], **private)
        for number, slot in enumerate(slots):
            slot.cut.click(
                self._cutter_of(number),
                [self._state, slot.editor, slot.label],
                [self._state, slot.cutout, result.status],
                **private,
            )
            slot.remove.click(
                self._remover_of(number), [self._state, *labels], [*of_slots, places, result.status], **private
            )
            slot.label.blur(self._relabel, [self._state, canvas, *labels], [canvas], **private, show_progress="hidden")
        settings.quick.click(
            lambda: (QUICK["steps"], QUICK["scheduler"]),
            None,
            [settings.fields["steps"], settings.fields["scheduler"]],
            **private,
        )
        shown = [
            settings.fields["seed"],
            result.status,
            result.preview,
            result.gallery,
            result.download,
            result.again,
            result.look,
            self._made,
            self._chosen,
        ]
        inputs = {
            self._state,
            self._made,
            canvas,
            use_boxes,
            settings.random,
            *labels,
            *(slot.strength for slot in slots),
            *settings.fields.values(),
        }
        options = {**private, "show_progress": "hidden"}
        generate.click(self._generate, inputs, shown, **options)
        result.again.click(self._make_again, {self._made, self._chosen}, shown, **options)
        result.look.click(
            self._show_attention,
            {self._made, self._chosen},
            [result.status, result.preview, result.attention],
            **options,
        )
        result.gallery.select(self._choose, [self._made], [self._chosen, result.download], **options)
        cancel.click(self._cancel, None, [result.status], **options)
        page.unload(self._leave)

    async def _add(self, files: list[str], slots: Slots, *labels: str) -> Updates:
        """Fill empty slots with uploaded pictures, and cut the subjects out."""
        new, texts, errors = list(slots), list(labels), []
        updates: Updates = {}
        for file in files or []:
            if None not in new:
                errors.append(f"this model takes {len(new)} subjects: remove one first")
                break
            number = new.index(None)
            path = Path(file)
            try:
                shown = await self._decode(path)
            except Exception as error:
                errors.append(as_api_error(error).details.message)
                continue
            slot = Slot(path, shown.size)
            texts[number] = slot.suggested_label
            cutout, problem = await self._try_cut(slot, texts[number], None)
            new[number] = slot if cutout is None else replace(slot, mask=encode_mask(cutout.mask))
            errors += [problem] if problem else []
            own = self._slots[number]
            updates |= {
                own.group: gr.update(visible=True),
                own.editor: {"image": shown, "boxes": []},
                own.cutout: None if cutout is None else draw_cutout(cutout),
                own.label: texts[number],
            }
        return updates | self._with_places(tuple(new), texts) | {self._result.status: _problem("; ".join(errors))}

    async def _decode(self, path: Path) -> Image.Image:
        """Return the picture as the box editor shows it."""
        async with self._decoding:
            photo = await asyncio.to_thread(
                lambda: decode_photo(path.read_bytes(), path.name, self._service.limits.max_pixels)
            )
        return shrink(Image.fromarray(on_white(photo)))

    async def _try_cut(self, slot: Slot, label: str, box: tuple[float, ...] | None) -> tuple[Cutout | None, str | None]:
        """Return the cut-out, or the message that says why there is none."""
        try:
            task = self._service.submit_cutout(slot.picture.read_bytes(), slot.picture.name, label, box, "page")
            return await asyncio.wrap_future(task.future), None
        except Exception as error:
            return None, as_api_error(error).details.message

    def _with_places(self, slots: Slots, labels: Sequence[str]) -> Updates:
        """Return the updates of state and canvas after the subjects have changed."""
        boxes = default_boxes(slots, labels, self._canvas.size)
        filled = any(slot is not None for slot in slots)
        return {
            self._state: slots,
            self._places: gr.update(visible=filled),
            self._canvas_box: {"image": self._canvas, "boxes": boxes},
        }

    def _cutter_of(self, number: int) -> Callable[..., Awaitable[Updates]]:
        async def cut(slots: Slots, edited: Settings | None, label: str) -> Updates:
            slot, own = slots[number], self._slots[number]
            if slot is None:
                return {self._result.status: ""}
            drawn = (edited or {}).get("boxes") or []
            box = relative_box(drawn[-1], slot.size) if drawn else None
            cutout, problem = await self._try_cut(slot, label, box)
            if cutout is None:
                return {self._result.status: _problem(problem)}
            changed = tuple(
                replace(slot, mask=encode_mask(cutout.mask)) if turn == number else one
                for turn, one in enumerate(slots)
            )
            return {self._state: changed, own.cutout: draw_cutout(cutout), self._result.status: ""}

        return cut

    def _remover_of(self, number: int) -> Callable[..., Updates]:
        def remove(slots: Slots, *labels: str) -> Updates:
            left = tuple(None if turn == number else slot for turn, slot in enumerate(slots))
            own = self._slots[number]
            cleared = {own.group: gr.update(visible=False), own.cutout: None, own.label: ""}
            return cleared | self._with_places(left, labels) | {self._result.status: ""}

        return remove

    def _relabel(self, slots: Slots, edited: Settings | None, *labels: str) -> object:
        """Write new labels onto the boxes, which stay where they are."""
        boxes = []
        for box in (edited or {}).get("boxes") or []:
            number = str(box.get("label", "")).partition(" ")[0]
            known = number.isdecimal() and 0 < int(number) <= len(labels)
            boxes.append({**box, "label": f"{number} {labels[int(number) - 1]}"} if known else box)
        return {"image": self._canvas, "boxes": boxes} if edited else gr.skip()

    async def _generate(self, values: Updates, request: gr.Request) -> AsyncIterator[Updates]:
        """Make images from the fields of the page."""
        fields = {name: values[component] for name, component in self._settings.fields.items()}
        if values[self._settings.random]:
            fields["seed"] = secrets.randbelow(_SEEDS)
            yield {self._settings.fields["seed"]: fields["seed"]}
        try:
            job = page_job(self._subjects(values), fields)
        except Exception as error:
            yield {self._result.status: _problem(as_api_error(error).details.message)}
            return
        async for update in self._run(job, values[self._made], request):
            yield update

    def _subjects(self, values: Updates) -> list[Settings]:
        edited = values[self._canvas_box] or {}
        drawn = (edited.get("boxes") or []) if values[self._use_boxes] else []
        boxes = [box_of(number, drawn, self._canvas.size) for number in range(len(self._slots))]
        labels = [values[slot.label] or "" for slot in self._slots]
        strengths = [values[slot.strength] for slot in self._slots]
        return subject_settings(values[self._state], labels, strengths, boxes)

    async def _run(
        self, job: GenerationJob, made: tuple[MadeImage, ...], request: gr.Request
    ) -> AsyncIterator[Updates]:
        """Make the images of a job, and show them while they appear."""
        result, images = self._result, list[GeneratedImage]()
        async for update in self._watch(job, request, images):
            yield update
        if not images:
            return
        new = await asyncio.to_thread(lambda: [self._save(job, image) for image in images])
        kept = (*new, *made)
        for old in kept[_GALLERY_IMAGES:]:
            old.file.unlink(missing_ok=True)
        kept = kept[:_GALLERY_IMAGES]
        remarks = list(dict.fromkeys(remark for image in images for remark in image.remarks))
        enabled = gr.update(interactive=True)
        yield {
            result.status: "; ".join([f"{len(images)} image{'s' * (len(images) > 1)} done", *remarks]),
            result.preview: gr.update(visible=False),
            result.gallery: gr.update(value=[(str(one.file), one.caption) for one in kept], selected_index=None),
            result.download: gr.update(value=str(kept[0].file), interactive=True),
            result.again: enabled,
            result.look: enabled,
            self._made: kept,
            self._chosen: 0,
        }

    async def _watch(
        self, job: GenerationJob, request: gr.Request, images: list[GeneratedImage], attention: bool = False
    ) -> AsyncIterator[Updates]:
        """Run a job: show its progress, and append its images to `images`; nothing is appended if it fails."""
        result, session = self._result, request.session_hash or ""
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
            yield {result.status: _problem(message), result.preview: gr.update(visible=False)}
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

    async def _make_again(self, values: Updates, request: gr.Request) -> AsyncIterator[Updates]:
        """Make the chosen image again, from its job."""
        made = values[self._made]
        if made:
            async for update in self._run(made[values[self._chosen]].job, made, request):
                yield update

    async def _show_attention(self, values: Updates, request: gr.Request) -> AsyncIterator[Updates]:
        """Make the chosen image again with attention maps, and show them."""
        made, images = values[self._made], list[GeneratedImage]()
        if not made:
            return
        job = made[values[self._chosen]].job
        async for update in self._watch(job, request, images, attention=True):
            yield update
        for image in images:
            maps = () if image.attention is None else image.attention
            shown = [
                (draw_attention(image.image, of_subject), subject.label)
                for of_subject, subject in zip(maps, job.subjects, strict=True)
            ]
            yield {
                self._result.attention: gr.update(value=shown, visible=bool(shown)),
                self._result.preview: gr.update(visible=False),
                self._result.status: "" if shown else "This image has no subjects",
            }

    def _choose(self, made: tuple[MadeImage, ...], event: gr.SelectData) -> tuple[int, str]:
        chosen = min(int(event.index), len(made) - 1)
        return chosen, str(made[chosen].file)

    def _cancel(self, request: gr.Request) -> str:
        return gr.skip() if self._stop(request) else "Nothing is running"

    def _leave(self, request: gr.Request) -> None:
        """Cancel the run of a user who closes the page."""
        self._stop(request)

    def _stop(self, request: gr.Request) -> int:
        """Cancel the runs of a user, and return their number."""
        tasks = self._running.pop(request.session_hash or "", set())
        for task in tasks:
            task.cancel()
        return len(tasks)


def _slot_parts(slot: "SlotComponents") -> tuple[gr.Component, ...]:
    return (slot.group, slot.editor, slot.cutout, slot.label)


def _problem(message: str | None) -> str:
    return f"⚠️ {message}" if message else ""


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
