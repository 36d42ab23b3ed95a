"""Index of the images of a source with captions and labels, in a SQLite file: memory does not grow with the source."""

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple, Self

import pyarrow as pa
import pyarrow.parquet as pq
from upath import UPath

from labeling.sdd.removed import UrlSet

_TABLES = """
CREATE TABLE IF NOT EXISTS images (url TEXT PRIMARY KEY, caption TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS identifiers (
    identifier TEXT PRIMARY KEY, url TEXT NOT NULL, width INTEGER, height INTEGER
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS labels (url TEXT NOT NULL, label TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS labels_of_url ON labels (url);
"""
_LIST = pa.schema([("URL", pa.string()), ("TEXT", pa.string())])
_ROWS_AT_ONCE = 1 << 16


def index_path(root: UPath) -> Path:
    """Return the path of the index in the folder of an imported dataset, which is local."""
    return Path((root / "work" / "import" / "index.sqlite").path)


class ListedImage(NamedTuple):
    """An image of a source."""

    url: str
    """URL of its file: see `labeling.download.fetching.local_file`."""
    caption: str | None


class IdentifiedImage(NamedTuple):
    """An image that the labels of a source name by an identifier."""

    url: str
    size: tuple[int, int] | None
    """Width and height in pixels; None if the source does not give them."""


class SourceIndex:
    """Images of a source by URL, each with a caption or none, and any number of labels as JSON.

    Args:
        file: open SQLite database.
    """

    def __init__(self, file: sqlite3.Connection) -> None:
        self._file = file

    @classmethod
    @contextmanager
    def open(cls, path: Path) -> Iterator[Self]:
        """Open the index in a file, which is created if it does not exist."""
        file = sqlite3.connect(path)
        try:
            # A killed import builds the index again, so nothing is lost without a journal.
            file.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;" + _TABLES)
            yield cls(file)
            file.commit()
        finally:
            file.close()

    @classmethod
    @contextmanager
    def open_to_remove(cls, path: Path) -> Iterator[Self]:
        """Open an existing index to remove images from it: all of them, or none if the process is killed."""
        file = sqlite3.connect(path)
        try:
            yield cls(file)
            file.commit()
        finally:
            file.close()

    @classmethod
    def open_to_read(cls, path: Path) -> Self:
        """Open an existing index to read it, by one thread at a time, until the process ends."""
        return cls(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, check_same_thread=False))

    def add_identifier(self, identifier: str, image: IdentifiedImage) -> None:
        """Add the identifier by which labels name an image."""
        width, height = image.size or (None, None)
        self._file.execute(
            "INSERT OR REPLACE INTO identifiers VALUES (?, ?, ?, ?)", [identifier, image.url, width, height]
        )

    def identified(self, identifier: str) -> IdentifiedImage | None:
        """Return the image with this identifier; None if there is none."""
        row = self._file.execute(
            "SELECT url, width, height FROM identifiers WHERE identifier = ?", [identifier]
        ).fetchone()
        return row and IdentifiedImage(row[0], None if row[1] is None else (row[1], row[2]))

    def add_images(self, images: Iterable[ListedImage]) -> None:
        """Add images; one that is there already keeps its caption, unless it has none."""
        self._file.executemany(
            "INSERT INTO images VALUES (?, ?) "
            "ON CONFLICT (url) DO UPDATE SET caption = coalesce(caption, excluded.caption)",
            images,
        )

    def add_labels(self, labels: Iterable[tuple[str, str]]) -> None:
        """Add labels: pairs of a URL and a label as JSON."""
        self._file.executemany("INSERT INTO labels VALUES (?, ?)", labels)

    def labels(self, url: str) -> list[str]:
        """Return the labels of an image, in the order in which they were added."""
        return [row[0] for row in self._file.execute("SELECT label FROM labels WHERE url = ? ORDER BY rowid", [url])]

    def numbered_labels(self, url: str) -> list[tuple[int, str]]:
        """Return the labels of an image, each with its number for `replace_label`."""
        return self._file.execute("SELECT rowid, label FROM labels WHERE url = ? ORDER BY rowid", [url]).fetchall()

    def replace_label(self, number: int, label: str) -> None:
        """Replace a label by another."""
        self._file.execute("UPDATE labels SET label = ? WHERE rowid = ?", [label, number])

    def remove(self, urls: UrlSet) -> None:
        """Remove captions, identifiers and labels of these images; the images themselves stay in the list."""
        named = [(url,) for (url,) in self._file.execute("SELECT url FROM images") if url in urls]
        self._file.execute("PRAGMA secure_delete = ON")  # not every SQLite clears free pages by default
        self._file.executemany("UPDATE images SET caption = NULL WHERE url = ?", named)
        for table in ("identifiers", "labels"):
            self._file.executemany(f"DELETE FROM {table} WHERE url = ?", named)

    def count_images(self) -> int:
        """Return the number of images."""
        return int(self._file.execute("SELECT count(*) FROM images").fetchone()[0])

    def write_list(self, file: IO[bytes]) -> None:
        """Write the images in the order of their URLs as a list that `labeling.urls` takes."""
        rows = self._file.execute("SELECT url, caption FROM images ORDER BY url")
        with pq.ParquetWriter(file, _LIST) as writer:
            while batch := rows.fetchmany(_ROWS_AT_ONCE):
                writer.write_table(pa.table(list(zip(*batch, strict=True)), schema=_LIST))
