"""Batches of rows that a network computes together.

Some networks compute images of one size together, and other images one after the other. For these, rows wait in a
window until enough of one size have come. The order of the rows is restored afterwards: see `OutcomeOrder`.
"""

from collections.abc import Callable, Hashable, Iterator
from typing import Any

from labeling.execution.messages import KeyedRow

WINDOW_BYTES = 512 * 2**20
"""Largest size of the images that wait in a window, in bytes as downloaded: about 1,700 images of LAION."""


class Batcher:
    """Rows that wait until they fill a batch. Rows of one batch have equal keys, except in the last batches."""

    def __init__(self, key: Callable[[Any], Hashable] | None, limit: Callable[[], int]) -> None:
        """Start without rows.

        Args:
            key: function of a row; None if any rows form a batch.
            limit: function that returns the most rows in a batch, which may change.
        """
        self._key = key or (lambda _: None)
        self._limit = limit
        self._groups: dict[Hashable, list[KeyedRow]] = {}
        self._bytes = 0

    def add(self, row: KeyedRow) -> Iterator[list[KeyedRow]]:
        """Add a row; yield a batch if one is full, or if the window is."""
        key = self._key(row)
        group = self._groups.setdefault(key, [])
        group.append(row)
        self._bytes += _image_bytes(row)
        if len(group) >= self._limit():
            yield self._take(key)
        while self._bytes > WINDOW_BYTES and self._groups:
            yield self._take(max(self._groups, key=lambda each: len(self._groups[each])))

    def rest(self) -> Iterator[list[KeyedRow]]:
        """Yield the rows that are left. Small groups share a batch, each of them whole."""
        batch: list[KeyedRow] = []
        for key in list(self._groups):
            group = self._take(key)
            if batch and len(batch) + len(group) > self._limit():
                yield batch
                batch = []
            batch = batch + group
        if batch:
            yield batch

    def _take(self, key: Hashable) -> list[KeyedRow]:
        group = self._groups.pop(key)
        self._bytes -= sum(map(_image_bytes, group))
        return group


class OutcomeOrder:
    """Outcomes that wait until those of all earlier rows are there."""

    def __init__(self) -> None:
        self._keys: dict[bytes, None] = {}
        """Keys of the rows without an outcome or with one that waits, in their order."""
        self._outcomes: dict[bytes, KeyedRow] = {}

    def expect(self, row: KeyedRow) -> None:
        """Add a row after all others."""
        self._keys[row.key] = None

    def add(self, outcome: KeyedRow) -> Iterator[KeyedRow]:
        """Add an outcome; yield those whose turn it is."""
        self._outcomes[outcome.key] = outcome
        while self._keys and (key := next(iter(self._keys))) in self._outcomes:
            del self._keys[key]
            yield self._outcomes.pop(key)


def _image_bytes(row: KeyedRow) -> int:
    """Return the size of the row's image; 0 for a row without one."""
    return len(getattr(row, "image", b""))
