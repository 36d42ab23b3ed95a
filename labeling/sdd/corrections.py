"""Corrections of entities by people: `corrections/NAME.parquet`, beside the layers of a dataset.

A correction refers to an entity of `sdd/` by the key of its image and its index there. An entity that was moved and
relabelled has two corrections. Files hold the corrections of one review each, in the order of keys.
"""

from dataclasses import dataclass
from enum import StrEnum

from labeling.sdd.arrow import Int32, Key, Label
from labeling.sdd.schema import Box, Mask

CORRECTIONS = "corrections"
"""Folder of the files in a dataset."""


class Action(StrEnum):
    """What a correction does to an entity."""

    MOVED = "moved"
    """It has another box."""
    RELABELLED = "relabelled"
    """It has another label."""
    REMOVED = "removed"
    """It is none."""
    ADDED = "added"
    """It is a new one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    """A correction of one entity."""

    key: Key
    """Key of the image."""
    entity: Int32 | None
    """Index of the entity in the row of `sdd/`; None for an added one."""
    action: Label
    """An `Action`."""
    label: Label | None
    """Label after the correction of a relabelled or added entity; else None."""
    box: Box | None
    """Box after the correction of a moved or added entity, in pixels of the upright image; else None."""
    mask: Mask | None
    """Mask of a moved or added entity, if the person drew one; else None, and the segmenter masks the box."""
    author: str | None
    """Name, address or number of the person, as the program of the review gives it."""
    made_at: str | None
    """Time of the correction in ISO 8601, as the program of the review gives it."""
