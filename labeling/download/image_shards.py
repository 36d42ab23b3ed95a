"""File of one shard in `images/`: made, restored after a loss, or extended by images that failed before.

The file is in the order of keys and fetches end in any order, so it is written once all outcomes are known.
"""

import hashlib
import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from labeling.config import DownloadConfig
from labeling.download.collector import ImageCollector, UrlOutcome
from labeling.download.fetching.fetch_result import is_retryable
from labeling.download.lost_images import LostImages
from labeling.download.screening.stage import ScreenedImage
from labeling.download.spool import Spool
from labeling.sdd.schema import Image, Layer, ListedUrl, State, Verdict
from labeling.sdd.shards import Refused, ShardStore
from labeling.steps import stamp_of


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageHash:
    """Columns of images/ that the stamp depends on."""

    key: bytes
    sha256: bytes


def images_stamp(config: DownloadConfig, store: ShardStore, shard: str) -> str:
    """Return the first part of the stamp of the shard's file, a hash of the settings and of its rows of the list.

    The second part is a hash of the images, as later files depend on them too (`full_stamp`).
    """
    urls = store.stamp(Layer.URLS, shard)
    return stamp_of(Layer.IMAGES, config.fingerprint(), urls.stamp if urls else "")


def full_stamp(prefix: str, kept: Mapping[bytes, bytes]) -> str:
    """Return the stamp of a file.

    Args:
        prefix: `images_stamp` of the shard.
        kept: SHA-256 of each image, by key.
    """
    content = b"".join(key + kept[key] for key in sorted(kept))
    return f"{prefix}-{hashlib.sha256(content).hexdigest()[:12]}"


def retryable_keys(store: ShardStore, shard: str) -> list[bytes]:
    """Return the keys of a finished shard that were not downloaded for a retryable reason."""
    verdicts = store.verdicts(Layer.IMAGES, shard).items()
    return [key for key, v in verdicts if v.state == State.NOT_DOWNLOADED and is_retryable(v.reason)]


@dataclass
class ImageShard:
    """File of one shard in `images/`."""

    store: ShardStore
    shard: str
    listed: Sequence[ListedUrl]
    """Rows of the list, in the order of their keys."""
    stamp_prefix: str
    """`images_stamp` of the shard."""

    def make(self, collector: ImageCollector, *, accept_loss: bool = False) -> dict[str, int]:
        """Collect the images and write the file; return the counts by state.

        Args:
            collector: collector of the shard.
            accept_loss: whether to write a file that was lost although its URLs have other images now.

        Raises:
            ImagesLost: later files were made from a file that is lost, and its URLs have other images now.
        """
        former = self.store.stamp(Layer.IMAGES, self.shard)
        if lost := LostImages.find(self.store, self.shard, self.stamp_prefix):
            lost.fill_spool(collector.spool)
            collector.outcomes |= lost.former_verdicts()
        outcomes = collector.collect(self.listed)
        kept = {key: image.sha256 for key, image in outcomes.items() if isinstance(image, ScreenedImage)}
        if lost and not accept_loss:
            lost.refuse_other_images(full_stamp(self.stamp_prefix, kept), outcomes)
        try:
            return self._write(self._rows(outcomes, collector.spool), kept, replace=former is not None)
        except FileExistsError:  # object stores have no locks: later files may be made from another process's file
            existing = self.store.stamp(Layer.IMAGES, self.shard)
            assert existing is not None, "the file exists"
            return existing.counts

    def retry(self, collector: ImageCollector) -> dict[str, int]:
        """Fetch retryable failures again, and write the file if there are new images; return the counts by state."""
        retried = set(retryable_keys(self.store, self.shard))
        outcomes = collector.collect([url for url in self.listed if url.key in retried])
        new = {key: image.sha256 for key, image in outcomes.items() if isinstance(image, ScreenedImage)}
        if not new:  # new reasons alone are not worth rebuilding all later files of the shard
            stamp = self.store.stamp(Layer.IMAGES, self.shard)
            assert stamp is not None, "only finished shards are retried"
            return stamp.counts
        before = {image.key: image.sha256 for image in self.store.read(ImageHash, (Layer.IMAGES,), self.shard)}
        rows = heapq.merge(self._former_rows(retried), self._rows(outcomes, collector.spool), key=lambda row: row.key)
        return self._write(rows, before | new, replace=True)

    def _rows(self, outcomes: Mapping[bytes, UrlOutcome], spool: Spool) -> Iterator[Image | Refused]:
        for url in self.listed:
            if outcome := outcomes.get(url.key):
                yield _row(url, outcome, spool)

    def _former_rows(self, without: set[bytes]) -> Iterator[Image | Refused]:
        verdicts = self.store.verdicts(Layer.IMAGES, self.shard).items()
        refused = (Refused(key=key, verdict=verdict) for key, verdict in sorted(verdicts, key=lambda v: v[0]))
        kept: Iterator[Image | Refused] = self.store.read(Image, (Layer.IMAGES,), self.shard)
        rows = heapq.merge(kept, refused, key=lambda row: row.key)
        return (row for row in rows if row.key not in without)

    def _write(self, rows: Iterator[Image | Refused], kept: Mapping[bytes, bytes], replace: bool) -> dict[str, int]:
        stamp = full_stamp(self.stamp_prefix, kept)
        return self.store.write_outcomes(Layer.IMAGES, self.shard, rows, Image, stamp, replace=replace)


def _row(url: ListedUrl, outcome: UrlOutcome, spool: Spool) -> Image | Refused:
    if isinstance(outcome, Verdict):
        return Refused(key=url.key, verdict=outcome)
    return Image(
        key=url.key,
        url=url.url,
        alt_text=url.alt_text,
        similarity=url.similarity,
        punsafe=url.punsafe,
        pwatermark=url.pwatermark,
        aesthetic_score=url.aesthetic_score,
        sha256=outcome.sha256,
        perceptual_hash=outcome.perceptual_hash,
        media_type=outcome.media_type,
        width_px=outcome.width_px,
        height_px=outcome.height_px,
        image=spool.get(url.key),
    )
