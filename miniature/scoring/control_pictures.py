"""Pictures of the controls' scores: two plots, and images between a subject and another text (Fig. 8 of the paper)."""

from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image

from miniature.scoring.cases import Case, cases
from miniature.scoring.figures import Figure
from miniature.scoring.score_options import Control, SubjectSet
from model.inputs.reference import Subject
from model.pipeline import SubjectDiffusionOutput, SubjectDiffusionPipeline
from model.sampling.denoising import seeded_generators
from training.monitoring.grid import Line, draw_grid

matplotlib.use("Agg")
from matplotlib import pyplot  # after the choice of its backend

ALPHAS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
"""Shares of the schedule that use the text alone, from the subject alone to the text alone."""
_TEXT = "a dish on the grass"
"""Prompt of the images between subject and text; it names neither the subject nor its class."""
_SUBJECTS = 4
"""Number of subjects in the picture of images between subject and text."""
_PLOTS: Mapping[str, tuple[str, Mapping[str, str]]] = {
    Control.STRENGTH: ("strength", {"similarity": "similarity to the subject", "R@1": "R@1"}),
    Control.INTERPOLATION: (
        "alpha of Eq. 4",
        {"similarity": "similarity to the subject", "background": "background right", "class word": "class word right"},
    ),
}
"""Axis title and curves of each plot."""
_CELL_PX = 128
_INCHES = (5.0, 3.2)


def draw(pipeline: SubjectDiffusionPipeline, figures: Sequence[Figure], asked: SubjectSet, folder: Path) -> None:
    """Write the plots of the controls that were scored, and the images between subject and text."""
    scored = {one.of["control"] for one in figures}
    for control, (axis, curves) in _PLOTS.items():
        if control in scored:
            plot_control(figures, control, curves, axis, folder / f"{control}.png")
    if Control.INTERPOLATION in scored:
        draw_interpolations(pipeline, list(islice(cases(1, asked), _SUBJECTS)), folder / "between.png")


def plot_control(figures: Sequence[Figure], control: str, curves: Mapping[str, str], axis: str, file: Path) -> None:
    """Plot figures of a control over its settings, with their intervals.

    Args:
        figures: figures of the score.
        control: the control.
        curves: legend of each figure by its name.
        axis: title of the horizontal axis.
        file: file to write; its suffix is the format.
    """
    plot, axes = pyplot.subplots(figsize=_INCHES, layout="constrained")
    for name, legend in curves.items():
        own = [one for one in figures if one.of["control"] == control and one.name == name]
        settings = [float(one.of["setting"]) for one in own]
        (line,) = axes.plot(settings, [one.value for one in own], marker="o", label=legend)
        axes.fill_between(
            settings, [one.low for one in own], [one.high for one in own], alpha=0.15, color=line.get_color()
        )
    axes.set(xlabel=axis, ylim=(0, 1.02))
    plot.legend(loc="outside upper center", ncols=len(curves), frameon=False)
    axes.grid(alpha=0.3)
    plot.savefig(file, dpi=110)
    pyplot.close(plot)


def draw_interpolations(pipeline: SubjectDiffusionPipeline, shown: Sequence[Case], file: Path) -> None:
    """Draw images between each subject and a text that does not name it, a row per subject, a column per alpha."""
    lines = []
    for seed, case in enumerate(shown):
        (subject,) = case.subjects
        images = [_draw(pipeline, Subject(subject.image, subject.label, subject.mask), alpha, seed) for alpha in ALPHAS]
        reference = np.where(subject.mask[..., None], subject.image, np.uint8(255))
        lines.append(Line(reference[None], [subject.label], "", images))
    draw_grid([f"alpha {alpha:g}" for alpha in ALPHAS], lines).save(file)


def _draw(pipeline: SubjectDiffusionPipeline, subject: Subject, alpha: float, seed: int) -> Image.Image:
    result = pipeline(_TEXT, [subject], interpolation=alpha, generator=seeded_generators([seed]))
    assert isinstance(result, SubjectDiffusionOutput)
    image = result.images[0]
    assert isinstance(image, Image.Image)
    return image.resize((_CELL_PX, _CELL_PX), Image.Resampling.BICUBIC)
