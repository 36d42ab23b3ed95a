"""Images of a plain folder, with captions from files beside them.

    photos/dog.jpg  photos/dog.txt                  the text of dog.jpg
    photos/metadata.jsonl, captions.jsonl           a JSON object a line: file_name, and text or caption
    photos/metadata.csv                             the same columns

The forms with `metadata` are those of the image folders of Hugging Face `datasets`. Names are relative to the file that
contains them. A caption of such a file has precedence over a text beside the image.
"""

import csv
import os
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from labeling.download.fetching.local_file import file_url
from labeling.errors import ExchangeError
from labeling.exchange.json_items import json_lines
from labeling.source_index import ListedImage, SourceIndex

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".avif", ".bmp", ".tif", ".tiff"})
_CAPTION_FILES = ("metadata.jsonl", "captions.jsonl", "metadata.csv")
_NAME_COLUMN = "file_name"
_TEXT_COLUMNS = ("text", "caption")


def index_folder(source: Path, index: SourceIndex) -> None:
    """Add the images of a folder and of the folders in it to the index. Hidden files are left out.

    An image that a caption file names and that does not exist is added too, so that it gets its verdict.

    Raises:
        ExchangeError: the folder has no image, or a file of captions is unusable; names file and row.
    """
    if not source.is_dir():
        raise ExchangeError(f"{source} is not a folder: give the folder of the images")
    for folder, folders, files in os.walk(source):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        here = Path(folder)
        for name in _CAPTION_FILES:
            if name in files:
                index.add_images(_captioned_images(here / name, source))
        texts = {name for name in files if name.lower().endswith(".txt")}
        images = (here / n for n in files if not n.startswith(".") and Path(n).suffix.lower() in IMAGE_SUFFIXES)
        index.add_images(ListedImage(_url(image, source), _text_beside(image, texts)) for image in images)
    if not index.count_images():
        suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
        raise ExchangeError(f"{source} has no image, no file that ends in {suffixes}: give the folder of the images")


def _text_beside(image: Path, texts: set[str]) -> str | None:
    """Return the text of the file with the image's name and the suffix .txt, on one line; None if there is none."""
    path = image.with_suffix(".txt")
    if path.name not in texts:
        return None
    try:
        return " ".join(path.read_text(encoding="utf-8").split()) or None
    except (UnicodeDecodeError, OSError) as error:
        raise ExchangeError(f"{path} cannot be read ({error}): save it as UTF-8") from error


def _captioned_images(path: Path, source: Path) -> Iterator[ListedImage]:
    rows = _csv_rows(path) if path.suffix == ".csv" else json_lines(path)
    for number, row in rows:
        name = row.get(_NAME_COLUMN)
        texts = [row[column] for column in _TEXT_COLUMNS if row.get(column) is not None]
        if not isinstance(name, str) or not name:
            raise ExchangeError(f"{path}, row {number}: {_NAME_COLUMN} is {name!r}: give the name of an image file")
        if not all(isinstance(text, str) for text in texts):
            raise ExchangeError(f"{path}, row {number}: the caption is {texts[0]!r}: give a string")
        image = Path(os.path.normpath(path.parent / name))
        if not image.is_relative_to(source):
            raise ExchangeError(f"{path}, row {number}: {name!r} is outside {source}: import the folder above both")
        yield ListedImage(_url(image, source), " ".join(str(texts[0]).split()) or None if texts else None)


def _csv_rows(path: Path) -> Iterator[tuple[int, Mapping[str, object]]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield from enumerate(csv.DictReader(file), 2)
    except (csv.Error, UnicodeDecodeError, OSError) as error:
        raise ExchangeError(f"{path} is not a CSV in UTF-8 ({error}): save it as one") from error


def _url(image: Path, source: Path) -> str:
    return file_url(PurePosixPath(image.relative_to(source).as_posix()))
