"""Audits: `audits/NAME.parquet`, the sample of an audit with the mark that a person gave each image.

The marks are the classes of Table 6, and one for images that the rules dropped wrongly.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import pyarrow as pa
import pyarrow.parquet as pq

from infra.storage import open_binary, publish
from labeling.errors import QualityError
from labeling.sdd.arrow import Int64, Key, Label, record_of, row_of, schema_of
from labeling.sdd.schema import State
from labeling.sdd.shards import ShardStore

AUDITS = "audits"
"""Folder of the files in a dataset."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class Mark(StrEnum):
    """Judgement of a person on an image."""

    HIGH_QUALITY = "high_quality"
    """A kept image whose subjects are found, named and masked well."""
    LOW_RECALL = "low_recall"
    """A kept image in which subjects were not found."""
    OTHER = "other"
    """A kept image with other faults, such as wrong labels."""
    RIGHTLY_DROPPED = "rightly_dropped"
    """An image that the rules dropped, as they should."""
    WRONGLY_DROPPED = "wrongly_dropped"
    """An image that the rules dropped, and that would have been of use."""


MARKS = {
    State.KEPT: (Mark.HIGH_QUALITY, Mark.LOW_RECALL, Mark.OTHER),
    State.DROPPED: (Mark.RIGHTLY_DROPPED, Mark.WRONGLY_DROPPED),
}
"""Marks that an image can get, by its state."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditedImage:
    """An image of a sample."""

    key: Key
    shard: Label
    state: Label
    """State of the image when the sample was drawn: kept or dropped."""
    stratum: Label
    """Stratum from which the image was drawn: see `labeling.quality.sample`."""
    stratum_images: Int64
    """Images of the dataset in the stratum."""
    mark: Label | None
    """A `Mark`; None until a person has marked the image."""
    author: str | None
    """Name of the person."""
    made_at: str | None
    """Time of the mark in ISO 8601."""


class Audit:
    """The sample of an audit and its marks, which are saved one by one.

    Args:
        store: the dataset.
        name: name of the audit.
        images: images of the sample, in the order in which they are marked.
    """

    def __init__(self, store: ShardStore, name: str, images: Sequence[AuditedImage]) -> None:
        self.name = name
        self._store = store
        self._images = {image.key: image for image in images}

    @property
    def images(self) -> tuple[AuditedImage, ...]:
        """Images of the sample, in the order in which they are marked."""
        return tuple(self._images.values())

    def mark(self, key: bytes, mark: Mark | None, author: str, made_at: str) -> None:
        """Set the mark of an image, or remove it, and save the audit.

        Raises:
            QualityError: the sample lacks the image, or its state cannot get the mark.
        """
        image = self._images.get(key)
        if image is None:
            raise QualityError(f"the audit {self.name} lacks the image {key.hex()}")
        if mark is not None and mark not in MARKS[State(image.state)]:
            raise QualityError(f"the image {key.hex()} is {image.state}, so it cannot be marked {mark}")
        author_and_time = (None, None) if mark is None else (author, made_at)
        self._images[key] = replace(image, mark=mark, author=author_and_time[0], made_at=author_and_time[1])
        self.save()

    def save(self) -> None:
        """Write the file of the audit."""
        table = pa.Table.from_pylist([record_of(each) for each in self.images], schema=schema_of(AuditedImage))
        publish(self._store.path(AUDITS, self.name), lambda file: pq.write_table(table, file), replace=True)


def audit_names(store: ShardStore) -> list[str]:
    """Return the names of the audits of a dataset, in order."""
    return store.names(AUDITS)


def refuse_bad_name(name: str) -> None:
    """Check that an audit can have this name.

    Raises:
        QualityError: it cannot.
    """
    if not _NAME.fullmatch(name):
        raise QualityError(f"{name!r} cannot name an audit: give letters, digits, dots, dashes and underscores")


def read_audit(store: ShardStore, name: str) -> Audit:
    """Read an audit.

    Raises:
        QualityError: there is none of this name, or its file is damaged.
    """
    return Audit(store, name, read_audited_images(store, name))


def read_audited_images(store: ShardStore, name: str) -> list[AuditedImage]:
    """Read the rows of an audit.

    Raises:
        QualityError: there is none of this name, or its file is damaged.
    """
    refuse_bad_name(name)
    path = store.path(AUDITS, name)
    schema = schema_of(AuditedImage)
    try:
        with open_binary(path) as file:
            records = pq.read_table(file).select(schema.names).cast(schema).to_pylist()
    except FileNotFoundError:
        known = ", ".join(audit_names(store)) or "none"
        raise QualityError(f"the dataset has no audit {name}: it has {known}") from None
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        raise QualityError(f"{path} is no audit ({' '.join(str(error).split())}): move it away") from error
    return [row_of(AuditedImage, record) for record in records]
