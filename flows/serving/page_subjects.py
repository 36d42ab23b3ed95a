"""Events of the page's subjects: uploads, cut-outs, labels, and the boxes that place them."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path

import gradio as gr
from PIL import Image

from flows.serving.errors import as_api_error
from flows.serving.page_components import PageComponents, Updates
from flows.serving.page_pictures import draw_canvas, draw_cutout, on_white, shrink
from flows.serving.page_session import Slot, Slots, box_of, default_boxes, problem, relative_box, subject_settings
from flows.serving.requests import Settings
from flows.serving.service import ImageService, encode_mask
from labeling.cutout import Cutout
from labeling.photo import decode_photo


class SubjectEvents:
    """Handlers of the events of subjects.

    Args:
        service: what cuts them out.
        components: components of the page.
    """

    def __init__(self, service: ImageService, components: PageComponents) -> None:
        self._service = service
        self._components = components
        self._decoding = asyncio.Lock()
        self._canvas = draw_canvas(1, 1)

    async def add(self, files: list[str], slots: Slots, *labels: str) -> Updates:
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
            cutout, message = await self._try_cut(slot, texts[number], None)
            new[number] = slot if cutout is None else replace(slot, mask=encode_mask(cutout.mask))
            errors += [message] if message else []
            own = self._components.slots[number]
            updates |= {
                own.group: gr.update(visible=True),
                own.editor: {"image": shown, "boxes": []},
                own.cutout: None if cutout is None else draw_cutout(cutout),
                own.label: texts[number],
            }
        return updates | self._with_places(tuple(new), texts) | self._status("; ".join(errors))

    def cutter_of(self, number: int) -> Callable[..., Awaitable[Updates]]:
        """Return the handler that cuts a slot's subject out, by the box that the user drew or by its label."""

        async def cut(slots: Slots, edited: Settings | None, label: str) -> Updates:
            slot, own = slots[number], self._components.slots[number]
            if slot is None:
                return self._status(None)
            drawn = (edited or {}).get("boxes") or []
            box = relative_box(drawn[-1], slot.size) if drawn else None
            cutout, message = await self._try_cut(slot, label, box)
            if cutout is None:
                return self._status(message)
            changed = tuple(
                replace(slot, mask=encode_mask(cutout.mask)) if turn == number else one
                for turn, one in enumerate(slots)
            )
            return {self._components.subjects: changed, own.cutout: draw_cutout(cutout)} | self._status(None)

        return cut

    def remover_of(self, number: int) -> Callable[..., Updates]:
        """Return the handler that empties a slot."""

        def remove(slots: Slots, *labels: str) -> Updates:
            left = tuple(None if turn == number else slot for turn, slot in enumerate(slots))
            own = self._components.slots[number]
            cleared: Updates = {own.group: gr.update(visible=False), own.cutout: None, own.label: ""}
            return cleared | self._with_places(left, labels) | self._status(None)

        return remove

    def relabel(self, slots: Slots, edited: Settings | None, *labels: str) -> object:
        """Write new labels onto the boxes, which stay where they are."""
        boxes = []
        for box in (edited or {}).get("boxes") or []:
            number = str(box.get("label", "")).partition(" ")[0]
            known = number.isdecimal() and 0 < int(number) <= len(labels)
            boxes.append({**box, "label": f"{number} {labels[int(number) - 1]}"} if known else box)
        return {"image": self._canvas, "boxes": boxes} if edited else gr.skip()

    def settings_of(self, values: Updates) -> list[Settings]:
        """Return the subjects of a job.

        Raises:
            ApiError: as `subject_settings`.
        """
        components = self._components
        edited = values[components.canvas] or {}
        drawn = (edited.get("boxes") or []) if values[components.use_boxes] else []
        boxes = [box_of(number, drawn, self._canvas.size) for number in range(len(components.slots))]
        labels = [values[label] or "" for label in components.labels]
        strengths = [values[slot.strength] for slot in components.slots]
        return subject_settings(values[components.subjects], labels, strengths, boxes)

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
            self._components.subjects: slots,
            self._components.places: gr.update(visible=filled),
            self._components.canvas: {"image": self._canvas, "boxes": boxes},
        }

    def _status(self, message: str | None) -> Updates:
        return {self._components.result.status: problem(message)}
