"""Masks in corrections/: those that people drew, and those that the segmenter made of their boxes."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache

from labeling.correction.mask_job import MASKS
from labeling.errors import CorrectionError
from labeling.sdd.arrow import row_of
from labeling.sdd.corrections import CORRECTIONS, read_review
from labeling.sdd.schema import Candidate
from labeling.sdd.shards import ShardStore
from labeling.validation.contents import StoredMask
from labeling.validation.faults import Fault


@dataclass(frozen=True, slots=True)
class CorrectionRow:
    """A row of a file in corrections/."""

    folder: str
    name: str
    """Name of the file without its suffix."""
    row: int
    """Row in the file, from 0."""
    key: bytes
    """Key of the image."""
    prefix: str = ""
    """Column with the mask's own columns: "candidates[2].", for example."""

    def fault(self, column: str, message: str) -> Fault:
        """Return a fault of a column of the row."""
        column = f"{self.prefix}{column}"
        return Fault(
            message=message, layer=self.folder, shard=self.name, row=self.row, column=column, key=self.key.hex()
        )


def drawn_masks(store: ShardStore, shard: str) -> Sequence[StoredMask]:
    """Return the masks that people drew for images of a shard. Unreadable files are left to `usable_corrections`."""
    return _drawn_masks(str(store.root), tuple(store.names(CORRECTIONS))).get(shard, ())


@lru_cache(maxsize=1)
def _drawn_masks(root: str, reviews: tuple[str, ...]) -> Mapping[str, Sequence[StoredMask]]:
    """Return the masks of these reviews by shard, which are read once for all shards."""
    store, found = ShardStore(root), defaultdict[str, list[StoredMask]](list)
    for review in reviews:
        with suppress(CorrectionError):
            for row, each in enumerate(read_review(store, review)):
                if (mask := each.correction.mask) is not None:
                    place = CorrectionRow(CORRECTIONS, review, row, each.correction.key)
                    found[each.correction.shard].append(StoredMask(place, mask, "mask", None, ""))
    return found


def segmented_masks(store: ShardStore, shard: str) -> Iterator[StoredMask]:
    """Yield the masks that the segmenter made for the corrections of a shard.

    Raises:
        ShardCorrupt: the file is damaged.
    """
    if not store.path(MASKS, shard).exists():
        return
    with store.open_file(MASKS, shard) as file:
        records = file.read(columns=["key", "candidates"]).to_pylist()
    for row, record in enumerate(records):
        for index, item in enumerate(record["candidates"] or ()):
            if (segment := row_of(Candidate, item).segment) is not None:
                place = CorrectionRow(MASKS, shard, row, record["key"], f"candidates[{index}].")
                yield StoredMask(place, segment.mask, "segment.mask", segment.area_px, "segment.area_px")
