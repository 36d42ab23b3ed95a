"""A report as data: sections of paragraphs, tables, charts and galleries, for both ways of writing it."""

from collections.abc import Mapping, Sequence
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


@dataclass(frozen=True, slots=True)
class AnnotatedImage:
    """An image with drawings over it, and the values by which a reader finds it."""

    picture: Picture
    width_px: int
    """Width of the coordinates of the drawings."""
    height_px: int
    overlay: str
    """SVG elements over the image; they may be hidden."""
    facets: Mapping[str, tuple[str, ...]]
    """Values of each facet, such as the labels of the image."""
    notes: tuple[str, ...] = ()
    """Lines below the caption."""


@dataclass(frozen=True, slots=True)
class AnnotatedGallery:
    """Images with drawings, which a reader filters by facets and by words of their captions."""

    caption: str
    images: tuple[AnnotatedImage, ...]


Block = Paragraph | Table | Chart | Gallery | AnnotatedGallery


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
