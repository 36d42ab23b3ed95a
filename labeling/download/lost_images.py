"""A lost file of `images/` is made again with the images that later files were made from, or not at all.

Pictures that were kept to the end are in `sdd/`, and `ledger/` says why others were refused when they came. So only
those are fetched again that a later stage or rule dropped.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from upath import UPath

from labeling.download.spool import Spool
from labeling.errors import ImagesLost
from labeling.sdd.footer import Stamp
from labeling.sdd.schema import Layer, State, Verdict
from labeling.sdd.shards import ShardStore


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedPicture:
    """What sdd/ has of a lost image."""

    key: bytes
    image: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class FormerOutcome:
    """What ledger/ says of a URL."""

    key: bytes
    state: str
    stage: str
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class LostImages:
    """What later files of a shard say of its lost file."""

    path: UPath
    store: ShardStore
    shard: str
    stamp: str | None
    """The file's; None where captions/ was written by a version of the program that did not record it."""
    kept: frozenset[bytes]
    """Keys of its images."""
    is_finished: bool
    """Whether sdd/ and ledger/ were made from it."""

    @classmethod
    def find(cls, store: ShardStore, shard: str, begin: str) -> Self | None:
        """None where the file is there, where no later file is, or where other settings would make another file.

        Args:
            begin: `images_stamp` of the shard.
        """
        later = None if store.stamp(Layer.IMAGES, shard) else store.stamp(Layer.CAPTIONS, shard)
        if later is None or not (later.parent or begin).startswith(begin):
            return None
        kept = frozenset(store.keys(Layer.CAPTIONS, shard))
        product, ledger = store.stamp(Layer.SDD, shard), store.stamp(Layer.LEDGER, shard)
        return cls(store.path(Layer.IMAGES, shard), store, shard, later.parent, kept, _are_of_one_run(product, ledger))

    def fill(self, spool: Spool) -> None:
        """Put the pictures of sdd/ into the spool, so that they are not fetched."""
        if self.is_finished:
            for row in self.store.read(SavedPicture, (Layer.SDD,), self.shard):
                spool.put(row.key, row.image)

    def refused(self) -> dict[bytes, Verdict]:
        """Why URLs had no image in the file."""
        if not self.is_finished:
            return {}
        rows = self.store.read(FormerOutcome, (Layer.LEDGER,), self.shard)
        return {
            row.key: Verdict(state=row.state, reason=row.reason, detail=row.detail)
            for row in rows
            if row.stage == Layer.IMAGES and row.state != State.KEPT
        }

    def refuse_other_images(self, stamp: str, found: Mapping[bytes, Any]) -> None:
        """Look whether what came is what the lost file held.

        Args:
            stamp: that the file of what came would have.
            found: what became of each URL.

        Raises:
            ImagesLost: it is not, so later files would be orphans.
        """
        lost = {key: found[key] for key in self.kept if isinstance(found.get(key), Verdict)}
        if not lost and stamp == (self.stamp or stamp):
            return
        reasons = ", ".join(f"{n} {reason}" for reason, n in Counter(v.reason for v in lost.values()).most_common())
        what = f"downloading it again lost {len(lost)} of {len(self.kept)} images ({reasons})"
        if not lost:
            what = "what its URLs give now are other images"
        kept = "; the rows of sdd/ stay, as their pictures are taken from there" if self.is_finished else ""
        raise ImagesLost(
            f"{self.path} was deleted, and {what}. Nothing was changed: put the file back from a copy, or run again "
            "when the servers answer. With --set labeling.stale=rebuild the later files of the shard are made again "
            f"from the images that there are{kept}"
        )


def _are_of_one_run(product: Stamp | None, ledger: Stamp | None) -> bool:
    return product is not None and ledger is not None and product.stamp == ledger.stamp
