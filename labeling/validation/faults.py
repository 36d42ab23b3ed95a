"""Faults that the validation of a dataset finds."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A place of a dataset that breaks an invariant of the format."""

    message: str
    layer: str = ""
    """Layer or other folder of the file; empty for a fault of several layers."""
    shard: str = ""
    """Shard of the file, or name of the review or audit; empty for a fault of several files."""
    row: int | None = None
    """Row in the file, from 0; None for a fault of the whole file."""
    column: str = ""
    """Column, with the index in lists: "entities[2].box"; empty for a fault of the whole row."""
    key: str = ""
    """Key of the row in hexadecimal digits."""
    check: str = ""
    """Name of the check; a check leaves it to `labeling.validation.validate`."""

    def __str__(self) -> str:
        file = f"{self.layer}/{self.shard}" if self.shard else self.layer
        row = "" if self.row is None else f"row {self.row}"
        place = ", ".join(filter(None, (file, row, self.column)))
        key = f" (key {self.key})" if self.key else ""
        return f"{self.check}: {place}: {self.message}{key}" if place else f"{self.check}: {self.message}"
