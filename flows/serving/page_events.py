"""What happens on the page: which handler answers to which event."""

from typing import Any

import gradio as gr

from flows.serving.page_components import PageComponents
from flows.serving.page_runs import RunEvents
from flows.serving.page_session import QUICK
from flows.serving.page_subjects import SubjectEvents
from flows.serving.service import ImageService

_PRIVATE: dict[str, Any] = {"api_visibility": "private", "concurrency_limit": None}
"""Options of all events: the page's events are no API, and the service's own queue bounds them."""
_QUIET = {**_PRIVATE, "show_progress": "hidden"}


class PageEvents:
    """Handlers of the page's events.

    Args:
        service: what makes the images.
        components: components of the page.
    """

    def __init__(self, service: ImageService, components: PageComponents) -> None:
        self.components = components
        self.subjects = SubjectEvents(service, components)
        self.runs = RunEvents(service, components, self.subjects.settings_of)

    def connect(self, page: gr.Blocks) -> None:
        """Connect the components with their handlers."""
        self._connect_subjects()
        self._connect_runs()
        page.unload(self.runs.leave)

    def _connect_subjects(self) -> None:
        page, subjects = self.components, self.subjects
        of_subjects = list(page.of_subjects)
        page.upload.upload(subjects.add, [page.upload, page.subjects, *page.labels], of_subjects, **_PRIVATE)
        for number, slot in enumerate(page.slots):
            slot.cut.click(
                subjects.cutter_of(number),
                [page.subjects, slot.editor, slot.label],
                [page.subjects, slot.cutout, page.result.status],
                **_PRIVATE,
            )
            slot.remove.click(subjects.remover_of(number), [page.subjects, *page.labels], of_subjects, **_PRIVATE)
            slot.label.blur(subjects.relabel, [page.subjects, page.canvas, *page.labels], [page.canvas], **_QUIET)

    def _connect_runs(self) -> None:
        page, runs, fields, result = self.components, self.runs, self.components.settings.fields, self.components.result
        shown = [fields["seed"], result.status, result.preview, result.gallery, result.download, result.again]
        shown += [result.look, page.made, page.chosen]
        inputs = {page.subjects, page.made, page.canvas, page.use_boxes, page.settings.random, *page.labels}
        inputs |= {*(slot.strength for slot in page.slots), *fields.values()}
        chosen = {page.made, page.chosen}
        page.generate.click(runs.generate, inputs, shown, **_QUIET)
        page.cancel.click(runs.cancel, None, [result.status], **_QUIET)
        result.again.click(runs.make_again, chosen, shown, **_QUIET)
        result.look.click(runs.show_attention, chosen, [result.status, result.preview, result.attention], **_QUIET)
        result.gallery.select(runs.choose, [page.made], [page.chosen, result.download], **_QUIET)
        page.settings.quick.click(
            lambda: (QUICK["steps"], QUICK["scheduler"]), None, [fields["steps"], fields["scheduler"]], **_PRIVATE
        )
