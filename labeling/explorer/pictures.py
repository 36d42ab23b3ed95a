"""Images of a dataset for a browser: whole and upright, or as thumbnails that are made when first asked for."""

import io
import os
import threading
from collections import OrderedDict
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from infra.storage import publish_bytes, storage_path
from labeling.errors import ExplorerError
from labeling.explorer.browse import Place
from labeling.sdd.pixels import MAX_PIXELS, UndecodableImage, decode, open_image
from labeling.sdd.schema import Layer
from labeling.sdd.shards import ShardStore
from labeling.sdd.upright import upright_file

THUMBNAIL_PX = 320
"""Longer side of a thumbnail, in pixels."""
_QUALITY = 80
_GROUPS = 4
"""Row groups whose images are kept in memory: a page mostly shows neighbours."""
_MEDIA_TYPES = {".png": "image/png"}


class Picture(NamedTuple):
    """An encoded image."""

    media_type: str
    encoded: bytes


class _GroupName(NamedTuple):
    layer: str
    shard: str
    stamp: str
    number: int


def default_cache() -> Path:
    """Return the folder for thumbnails and indexes of this user."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "subject-diffusion" / "explorer"


class Pictures:
    """Images of a dataset, from any number of threads.

    Args:
        store: the dataset.
        cache: folder of the thumbnails. It may be emptied at any time.
    """

    def __init__(self, store: ShardStore, cache: Path) -> None:
        self._store = store
        self._cache = cache / (store.dataset() or "unknown")
        self._groups: OrderedDict[_GroupName, dict[bytes, Picture]] = OrderedDict()
        self._reading = threading.Lock()

    def stored(self, place: Place) -> Picture:
        """Return an image as the dataset stores it.

        Raises:
            ExplorerError: the dataset has no such image, because it was not downloaded, for example.
            ShardCorrupt: a file is damaged.
        """
        with self._reading:
            for layer in (Layer.SDD, Layer.IMAGES):
                if (group := self._group_of(layer, place)) and (picture := self._read(group).get(place.key)):
                    return picture
        raise ExplorerError(f"{place.key.hex()} of {place.shard} has no image: it was not downloaded, or was refused")

    def upright(self, place: Place) -> Picture:
        """Return an image with its EXIF orientation applied.

        Raises:
            ExplorerError: as `stored`, or the image is damaged.
            ShardCorrupt: a file is damaged.
        """
        stored = self.stored(place)
        try:
            suffix, encoded = upright_file(stored.encoded, stored.media_type)
        except UndecodableImage as error:
            raise ExplorerError(f"the image {place.key.hex()} cannot be decoded: {error}") from error
        return Picture(_MEDIA_TYPES.get(suffix, stored.media_type), encoded)

    def thumbnail(self, place: Place) -> bytes:
        """Return a WebP of at most `THUMBNAIL_PX`, from the cache if it is there.

        Raises:
            ExplorerError: as `upright`.
            ShardCorrupt: a file is damaged.
        """
        path = self._cache / place.key.hex()[:2] / f"{place.key.hex()}.webp"
        try:
            return path.read_bytes()
        except FileNotFoundError:
            made = self._thumbnail(place)
        publish_bytes(storage_path(path), made)
        return made

    def _thumbnail(self, place: Place) -> bytes:
        encoded = self.stored(place).encoded
        try:
            image = Image.fromarray(decode(encoded, reduction=_reduction(encoded)))
        except UndecodableImage as error:
            raise ExplorerError(f"the image {place.key.hex()} cannot be decoded: {error}") from error
        image.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.LANCZOS)
        file = io.BytesIO()
        image.save(file, "WEBP", quality=_QUALITY)
        return file.getvalue()

    def _group_of(self, layer: str, place: Place) -> _GroupName | None:
        """Return the row group of an image; None if the layer lacks it."""
        try:
            with self._store.open_file(layer, place.shard) as file:
                stamp = self._store.stamp_of(file, layer, place.shard).stamp
                for number in range(file.num_row_groups):
                    if place.key in file.read_row_group(number, columns=["key"])["key"].to_pylist():
                        return _GroupName(layer, place.shard, stamp, number)
        except FileNotFoundError:
            pass
        return None

    def _read(self, name: _GroupName) -> dict[bytes, Picture]:
        """Return the images of a row group by key."""
        if name not in self._groups:
            with self._store.open_file(name.layer, name.shard) as file:
                rows = file.read_row_group(name.number, columns=["key", "media_type", "image"]).to_pylist()
            self._groups[name] = {row["key"]: Picture(row["media_type"], row["image"]) for row in rows if row["image"]}
            while len(self._groups) > _GROUPS:
                self._groups.popitem(last=False)
        self._groups.move_to_end(name)
        return self._groups[name]


def _reduction(encoded: bytes) -> int:
    """Return the largest factor by which an image may shrink while it is decoded, and still fill a thumbnail."""
    with open_image(encoded, MAX_PIXELS) as image:
        longer = max(image.size)
    return next((factor for factor in (8, 4, 2) if longer >= factor * THUMBNAIL_PX), 1)
