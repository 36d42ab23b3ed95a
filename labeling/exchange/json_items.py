"""Items of the lists in a large JSON object, one at a time: COCO's files have hundreds of megabytes."""

import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import IO

from labeling.errors import ExchangeError
from labeling.sdd.arrow import Record

_PIECE = 1 << 20
_SPACE = " \t\r\n"
_AFTER_NUMBER = frozenset(",]}" + _SPACE)
"""Characters that end a number; before another one, or at the end of the window, it may go on."""


class _Text:
    """Text of a file, of which a window is in memory."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self._window, self._at, self._ended = "", 0, False
        self._decoder = json.JSONDecoder()

    def next(self) -> str:
        """Return the next character that is no white space, without passing it; empty at the end."""
        while True:
            while self._at < len(self._window) and self._window[self._at] in _SPACE:
                self._at += 1
            if self._at < len(self._window) or not self._read():
                return self._window[self._at : self._at + 1]

    def expect(self, characters: str) -> str:
        """Pass one of these characters and return it."""
        found = self.next()
        if not found or found not in characters:
            raise ValueError(f"{found or 'the end'} stands where one of {characters} should")
        self._at += 1
        return found

    def value(self) -> object:
        """Pass a value and return it."""
        self.next()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._window, self._at)
            except json.JSONDecodeError:
                if not self._read():
                    raise
                continue
            if self._window[end : end + 1] in _AFTER_NUMBER or not isinstance(value, int | float) or not self._read():
                self._at = end
                return value

    def _read(self) -> bool:
        """Read another piece, as long as the window so far, and return whether there was one."""
        piece = "" if self._ended else self._file.read(max(_PIECE, len(self._window) - self._at))
        self._ended = not piece
        self._window, self._at = self._window[self._at :] + piece, 0
        return bool(piece)


def json_items(path: Path, lists: Collection[str]) -> Iterator[tuple[str, Record]]:
    """Yield the objects in some lists of a JSON object, each with the name of its list; other entries are passed over.

    Raises:
        ExchangeError: the file is missing or no such JSON; names list and item.
    """
    place = "its beginning"
    try:
        with path.open(encoding="utf-8") as file:
            text = _Text(file)
            for name in _names(text):
                place = name
                if name not in lists:
                    text.value()
                    continue
                for number, item in enumerate(_items(text)):
                    place = f"{name}[{number}]"
                    if not isinstance(item, dict):
                        raise ValueError(f"{str(item)[:60]!r} is not an object")
                    yield name, item
    except (ValueError, OSError) as error:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        raise ExchangeError(f"{path}, after {place}: {error}: give a JSON file in the format of COCO") from error


def json_lines(path: Path) -> Iterator[tuple[int, Mapping[str, object]]]:
    """Yield the objects of a file with one JSON object per line, with their line numbers from 1.

    Raises:
        ExchangeError: the file is missing, or a line is no object.
    """
    number = 0
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    row = json.loads(line)
                    if not isinstance(row, dict):
                        raise ValueError(f"{line.strip()[:60]!r} is not an object")
                    yield number, row
    except (ValueError, OSError) as error:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        raise ExchangeError(f"{path}, row {number}: {error}: give one JSON object per line, in UTF-8") from error


def _names(text: _Text) -> Iterator[str]:
    """Yield the names of an object's entries; the caller passes each value."""
    text.expect("{")
    if text.next() == "}":
        return
    while True:
        name = text.value()
        text.expect(":")
        yield str(name)
        if text.expect(",}") == "}":
            return


def _items(text: _Text) -> Iterator[object]:
    text.expect("[")
    if text.next() == "]":
        text.expect("]")
        return
    while True:
        yield text.value()
        if text.expect(",]") == "]":
            return
