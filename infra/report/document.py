"""A report as data: sections of paragraphs, tables, charts and galleries, for both ways of writing it."""

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Paragraph:
    """A paragraph of plain text."""

    text: str


@dataclass(frozen=True, slots=True)
class Table:
    """A table; the first column names the rows."""

    caption: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    """Remarks below the table."""


@dataclass(frozen=True, slots=True)
class Chart:
    """A drawing with the table of its numbers."""

    svg: str
    """Drawing whose colours follow the page's."""
    table: Table
    """The same numbers, for Markdown and for readers who cannot see the drawing."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A small image."""

    name: str
    """Name of the image, such as `cat2/03/0`."""
    webp: bytes
    """Content of the file; empty for an image that cannot be shown."""
    caption: str
    """Text below it, such as a score."""
    alt: str
    """What it shows, for readers who cannot see it."""


@dataclass(frozen=True, slots=True)
class Gallery:
    """Rows of small images."""

    caption: str
    rows: tuple[tuple[str, tuple[Picture, ...]], ...]
    """Label and images of each row."""


Block = Paragraph | Table | Chart | Gallery


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a report under a heading."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True, slots=True)
class Document:
    """A whole report."""

    title: str
    sections: Sequence[Section] = field(default_factory=tuple)
