"""Components of the page that its events read and change."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import gradio as gr
from gradio_image_annotation import image_annotator

Updates: TypeAlias = dict[gr.Component, Any]
"""New values of components."""


@dataclass(frozen=True)
class SlotComponents:
    """Components of one subject."""

    group: gr.Group
    editor: image_annotator
    cutout: gr.Image
    label: gr.Textbox
    strength: gr.Slider
    cut: gr.Button
    remove: gr.Button

    @property
    def shown(self) -> tuple[gr.Component, ...]:
        """Components that an upload or a removal changes."""
        return (self.group, self.editor, self.cutout, self.label)


@dataclass(frozen=True)
class SettingsComponents:
    """Components of the sampler's settings, by the names of the job's fields."""

    fields: dict[str, gr.Component]
    random: gr.Checkbox
    quick: gr.Button


@dataclass(frozen=True)
class ResultComponents:
    """Components of the images."""

    status: gr.Markdown
    preview: gr.Image
    gallery: gr.Gallery
    download: gr.DownloadButton
    again: gr.Button
    look: gr.Button
    attention: gr.Gallery


@dataclass(frozen=True)
class PageComponents:
    """Components of the page."""

    upload: gr.UploadButton
    slots: tuple[SlotComponents, ...]
    places: gr.Group
    use_boxes: gr.Checkbox
    canvas: image_annotator
    settings: SettingsComponents
    generate: gr.Button
    cancel: gr.Button
    result: ResultComponents
    subjects: gr.State
    """The user's `Slots`."""
    made: gr.State
    """The user's images, a tuple of `MadeImage`."""
    chosen: gr.State
    """Number of the chosen image."""

    @property
    def labels(self) -> list[gr.Textbox]:
        """Label of each slot."""
        return [slot.label for slot in self.slots]

    @property
    def of_subjects(self) -> Iterator[gr.Component]:
        """Components that show the subjects and their places."""
        yield from (self.subjects, self.canvas, self.places, self.result.status)
        for slot in self.slots:
            yield from slot.shown
