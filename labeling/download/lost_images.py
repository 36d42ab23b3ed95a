"""Restores a lost file of `images/` with the same images that later files were made from, or refuses to.

Images that passed all rules are in `sdd/`, and `ledger/` has the verdicts on URLs that gave no image. So only images
that a later stage or rule dropped are fetched again.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from upath import UPath

from labeling.download.spool import Spool
from labeling.errors import ImagesLost
from labeling.sdd.footer import Stamp
from labeling.sdd.schema import Layer, State, Verdict
from labeling.sdd.shards import ShardStore


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedImage:
    """Columns of sdd/ that restore an image."""

    key: bytes
    image: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class FormerOutcome:
    """Columns of ledger/ that restore a verdict."""

    key: bytes
    state: str
    stage: str
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class LostImages:
    """Facts about the lost file of a shard that later files preserve."""

    path: UPath
    store: ShardStore
    shard: str
    stamp: str | None
    """Stamp of the file; None where an earlier version of this program wrote captions/ without it."""
    kept: frozenset[bytes]
    """Keys of its images."""
    is_finished: bool
    """Whether sdd/ and ledger/ were made from it."""
    is_reduced: bool = False
    """Whether images were removed from it after it was made, so that its stamp is not that of its last images."""

    @classmethod
    def find(cls, store: ShardStore, shard: str, stamp_prefix: str) -> Self | None:
        """Return the lost file of a shard.

        Return None if the file exists, if no later file exists, or if later files were made under other settings.

        Args:
            store: dataset.
            shard: name of the shard.
            stamp_prefix: `images_stamp` of the shard.
        """
        later = None if store.stamp(Layer.IMAGES, shard) else store.stamp(Layer.CAPTIONS, shard)
        if later is None or not (later.parent or stamp_prefix).startswith(stamp_prefix):
            return None
        kept = frozenset(store.keys(Layer.CAPTIONS, shard))
        product, ledger = store.stamp(Layer.SDD, shard), store.stamp(Layer.LEDGER, shard)
        is_finished, is_reduced = _have_same_stamp(product, ledger), later.removed is not None
        return cls(store.path(Layer.IMAGES, shard), store, shard, later.parent, kept, is_finished, is_reduced)

    def fill_spool(self, spool: Spool) -> None:
        """Put the images of sdd/ into the spool, so they are not fetched."""
        if self.is_finished:
            for row in self.store.read(SavedImage, (Layer.SDD,), self.shard):
                spool.put(row.key, row.image)

    def former_verdicts(self) -> dict[bytes, Verdict]:
        """Return the verdicts of the URLs that had no image in the file."""
        if not self.is_finished:
            return {}
        rows = self.store.read(FormerOutcome, (Layer.LEDGER,), self.shard)
        return {
            row.key: Verdict(state=row.state, reason=row.reason, detail=row.detail)
            for row in rows
            if row.stage == Layer.IMAGES and row.state != State.KEPT
        }

    def refuse_other_images(self, stamp: str, outcomes: Mapping[bytes, object]) -> None:
        """Compare the downloaded images with those of the lost file.

        Args:
            stamp: stamp of a file with the downloaded images.
            outcomes: outcome of each URL.

        Raises:
            ImagesLost: they differ, so later files would have no source.
        """
        lost = [verdict for key in self.kept if isinstance(verdict := outcomes.get(key), Verdict)]
        if not lost and stamp == (self.stamp or stamp):
            return
        reasons = ", ".join(f"{n} {reason}" for reason, n in Counter(v.reason for v in lost).most_common())
        what = f"downloading it again lost {len(lost)} of {len(self.kept)} images ({reasons})"
        if not lost:
            what = "its URLs have other images now"
            if self.is_reduced:
                what = "the images of today cannot be compared with it, as images were removed from it"
        kept = "; the rows of sdd/ stay, as their images are taken from there" if self.is_finished else ""
        raise ImagesLost(
            f"{self.path} was deleted, and {what}. Nothing was changed: put the file back from a copy, or run again "
            "when the servers respond. With --set labeling.stale=rebuild the later files of the shard are rebuilt "
            f"from the remaining images{kept}"
        )


def _have_same_stamp(product: Stamp | None, ledger: Stamp | None) -> bool:
    return product is not None and ledger is not None and product.stamp == ledger.stamp
