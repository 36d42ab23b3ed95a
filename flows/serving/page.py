"""The page for people: subjects, their places, the sampler's settings, and a gallery. Gradio draws it."""

import gradio as gr
from gradio_image_annotation import image_annotator

from flows.serving.page_components import PageComponents, ResultComponents, SettingsComponents, SlotComponents
from flows.serving.page_events import PageEvents
from flows.serving.page_pictures import colour_of
from flows.serving.service import ImageService
from model.inputs.layout import Layout
from model.sampling.schedulers import name_of

SCHEDULERS = ("DDIM", "DPMSolverMultistep", "UniPCMultistep", "EulerDiscrete", "EulerAncestralDiscrete", "PNDM", "DDPM")
"""Schedulers that the page offers, besides that of the model; the API takes all that suit the model."""
_FONTS = ["ui-sans-serif", "system-ui", "sans-serif"]
"""Fonts of the visitor's machine: Gradio's own themes load theirs from the internet."""
THEME = gr.themes.Default(primary_hue="indigo", font=_FONTS, font_mono=["ui-monospace", "monospace"])
CSS = """
.gradio-container { max-width: 1320px !important; margin: auto; }
.pixels img { image-rendering: pixelated; }
.subject[id] { border-left: 5px solid var(--subject-colour) !important; }
.subject .styler { background: var(--block-background-fill) !important; padding: 8px; }
footer { display: none !important; }
"""
_KEPT_S = 3600
"""Time that the server keeps the subjects and images of a user who has left, in seconds."""
_INTRODUCTION = """# Subject-Diffusion
Upload one or more subjects, say what the image shows, and generate it. A picture without transparency is cut out for
you; draw a box around the subject to correct it.
"""


def make_page(service: ImageService) -> gr.Blocks:
    """Return the page of a service."""
    with gr.Blocks(title="Subject-Diffusion", analytics_enabled=False, delete_cache=(3600, 24 * 3600)) as page:
        PageEvents(service, make_components(service)).connect(page)
    return page


def make_components(service: ImageService) -> PageComponents:
    """Draw the page of a service inside Gradio's current context."""
    gr.Markdown(_INTRODUCTION)
    with gr.Row():
        with gr.Column(scale=5):
            upload = gr.UploadButton(
                "Add subjects", file_count="multiple", file_types=["image"], variant="primary", elem_id="upload"
            )
            slots = tuple(_make_slot(number) for number in range(service.generator.max_subjects))
            with gr.Group(visible=False, elem_id="places") as places:
                use_boxes = gr.Checkbox(True, label="Place the subjects in these boxes: drag boxes or corners")
                canvas = image_annotator(
                    label="Layout",
                    elem_id="canvas",
                    sources=[],
                    disable_edit_boxes=True,
                    boxes_alpha=0.25,
                    height=320,
                    show_clear_button=False,
                    show_download_button=False,
                )
        with gr.Column(scale=4):
            prompt = gr.Textbox(label="Prompt", placeholder="a vehicle in the snow", lines=2, elem_id="prompt")
            settings = _make_settings(service, prompt)
            with gr.Row():
                generate = gr.Button("Generate", variant="primary", elem_id="generate")
                cancel = gr.Button("Cancel", variant="stop", elem_id="cancel")
            result = _make_result()
    return PageComponents(
        upload=upload,
        slots=slots,
        places=places,
        use_boxes=use_boxes,
        canvas=canvas,
        settings=settings,
        generate=generate,
        cancel=cancel,
        result=result,
        subjects=gr.State((None,) * len(slots), time_to_live=_KEPT_S),
        made=gr.State((), time_to_live=_KEPT_S),
        chosen=gr.State(0),
    )


def _make_slot(number: int) -> SlotComponents:
    red, green, blue = colour_of(number)
    gr.HTML(f"<style>#subject-{number + 1} {{ --subject-colour: rgb({red} {green} {blue}) }}</style>", padding=False)
    with gr.Group(visible=False, elem_id=f"subject-{number + 1}", elem_classes="subject") as group, gr.Row():
        with gr.Column(min_width=200):
            editor = image_annotator(
                label=f"Subject {number + 1}",
                elem_id=f"editor-{number + 1}",
                sources=[],
                single_box=True,
                disable_edit_boxes=True,
                boxes_alpha=0.1,
                height=200,
                show_clear_button=False,
                show_download_button=False,
            )
        with gr.Column(min_width=160):
            cutout = gr.Image(
                label="Cut-out",
                height=200,
                interactive=False,
                buttons=[],
                elem_id=f"cutout-{number + 1}",
                format="png",
            )
        with gr.Column(min_width=160):
            label = gr.Textbox(label="Label", max_lines=1, max_length=200, elem_id=f"label-{number + 1}")
            strength = gr.Slider(0, 2, 1, step=0.05, label="Strength")
            with gr.Row():
                cut = gr.Button("Cut out", size="sm", min_width=60, elem_id=f"cut-{number + 1}")
                remove = gr.Button("Remove", size="sm", min_width=60, elem_id=f"remove-{number + 1}")
    return SlotComponents(group, editor, cutout, label, strength, cut, remove)


def _make_settings(service: ImageService, prompt: gr.Textbox) -> SettingsComponents:
    defaults, limits = service.generator.pipeline.config, service.limits
    own = name_of(service.generator.pipeline.scheduler)
    with gr.Accordion("Settings", open=True):
        with gr.Row():
            text = gr.Slider(0, 15, defaults.text_guidance, step=0.1, label="Text guidance", min_width=200)
            image = gr.Slider(0, 15, defaults.image_guidance, step=0.1, label="Subject guidance", min_width=200)
        with gr.Row(equal_height=True):
            steps = gr.Slider(
                1, limits.max_steps, defaults.num_inference_steps, step=1, label="Steps", elem_id="steps", scale=2
            )
            names = list(dict.fromkeys([own, *SCHEDULERS]))
            scheduler = gr.Dropdown(names, value=own, label="Scheduler", elem_id="scheduler", scale=2)
            quick = gr.Button("Quick", size="sm", min_width=60, scale=1, elem_id="quick")
        with gr.Row(equal_height=True):
            seed = gr.Number(0, label="Seed", precision=0, minimum=0, elem_id="seed")
            random = gr.Checkbox(True, label="New seed each time", elem_id="random")
            count = gr.Slider(1, limits.max_images, 1, step=1, label="Images")
        with gr.Accordion("More", open=False):
            negative = gr.Textbox(label="Negative prompt", max_lines=2)
            interpolation = gr.Slider(
                0, 1, 0, step=0.05, label="Interpolation: share of the schedule, from its end, by the text alone"
            )
            layout = gr.Dropdown(
                [one.value for one in service.generator.pipeline.layouts if one is not Layout.GIVEN],
                value=Layout.AUTO.value,
                label="Layout of subjects without boxes",
            )
    fields = {
        "prompt": prompt,
        "negative_prompt": negative,
        "text_guidance": text,
        "image_guidance": image,
        "steps": steps,
        "scheduler": scheduler,
        "seed": seed,
        "n": count,
        "interpolation": interpolation,
        "layout": layout,
    }
    return SettingsComponents(fields, random, quick)


def _make_result() -> ResultComponents:
    status = gr.Markdown("", elem_id="status", min_height=26)
    preview = gr.Image(
        label="Preview",
        visible=False,
        interactive=False,
        height=260,
        buttons=[],
        elem_classes="pixels",
        elem_id="preview",
        format="png",
    )
    gallery = gr.Gallery(
        label="Images",
        columns=3,
        fit_columns=False,
        height=320,
        format="png",
        interactive=False,
        object_fit="contain",
        elem_classes="pixels",
        elem_id="gallery",
        buttons=["fullscreen"],
        preview=False,
    )
    with gr.Row():
        download = gr.DownloadButton("Download", size="sm", elem_id="download", interactive=False)
        again = gr.Button("Make again", size="sm", elem_id="again", interactive=False)
        look = gr.Button("Show attention", size="sm", elem_id="look", interactive=False)
    attention = gr.Gallery(
        label="Where the model looked for each subject",
        columns=3,
        fit_columns=False,
        height=220,
        format="png",
        interactive=False,
        object_fit="contain",
        visible=False,
        elem_classes="pixels",
        elem_id="attention",
        buttons=[],
    )
    return ResultComponents(status, preview, gallery, download, again, look, attention)
