"""The rows of Table 3, with the paper's figures and their counterparts in the miniature world."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from infra.config import Config, load
from model.config import ModelConfig


class RowName(StrEnum):
    """Letter of a row of Table 3, in the order in which the rows are run: the most telling ones first."""

    FULL = "a"
    NO_ADAPTER = "e"
    NO_ATTENTION_CONTROL = "f"
    NO_IMAGE_CLS = "g"
    NO_LOCATION_CONTROL = "c"
    NO_BOX_COORDINATES = "d"
    FEW_CLASSES = "b"


@dataclass(frozen=True, slots=True)
class PaperScores:
    """Scores of a row in Table 3."""

    dino: float
    """Similarity to the subject by DINO."""
    clip_i: float
    """Similarity to the subject by CLIP."""
    clip_t: float
    """Similarity to the prompt by CLIP."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of Table 3."""

    title: str
    """Name in tables, as in the paper."""
    paper: Mapping[int, PaperScores]
    """Scores in the paper by number of subjects."""
    config: str | None = None
    """Settings file whose model settings make the row, by its name in infra/configs; None for the full model."""
    few_classes: bool = False
    """Whether the row trains on the dataset of few classes."""


ROWS: Mapping[RowName, Row] = {
    RowName.FULL: Row("Subject-Diffusion", {1: PaperScores(0.711, 0.787, 0.293), 2: PaperScores(0.506, 0.696, 0.310)}),
    RowName.FEW_CLASSES: Row(
        "a dataset of few classes (OpenImages)",
        {1: PaperScores(0.664, 0.777, 0.294), 2: PaperScores(0.491, 0.693, 0.302)},
        few_classes=True,
    ),
    RowName.NO_LOCATION_CONTROL: Row(
        "w/o location control",
        {1: PaperScores(0.694, 0.778, 0.275), 2: PaperScores(0.477, 0.666, 0.281)},
        "ablations/c_no_location_control",
    ),
    RowName.NO_BOX_COORDINATES: Row(
        "w/o box coordinates",
        {1: PaperScores(0.732, 0.810, 0.282), 2: PaperScores(0.464, 0.687, 0.305)},
        "ablations/d_no_box_coordinates",
    ),
    RowName.NO_ADAPTER: Row(
        "w/o adapter layer",
        {1: PaperScores(0.534, 0.731, 0.291), 2: PaperScores(0.411, 0.649, 0.307)},
        "ablations/e_no_adapter",
    ),
    RowName.NO_ATTENTION_CONTROL: Row(
        "w/o attention map control",
        {1: PaperScores(0.692, 0.789, 0.288), 2: PaperScores(0.500, 0.688, 0.302)},
        "ablations/f_no_attention_control",
    ),
    RowName.NO_IMAGE_CLS: Row(
        "w/o image cls feature",
        {1: PaperScores(0.637, 0.719, 0.299), 2: PaperScores(0.457, 0.627, 0.309)},
        "ablations/g_no_image_cls",
    ),
}
"""All rows in the order of the table. Figures: Table 3 of the paper."""


class _ModelTable(Config):
    model: ModelConfig


def model_changes(row: Row) -> dict[str, object]:
    """Return the model settings that the row's settings file changes, by name."""
    if row.config is None:
        return {}
    return load(_ModelTable, row.config).model.model_dump(exclude_unset=True)
