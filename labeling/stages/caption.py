"""Step 1 of Fig. 2: a better caption for each image."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Generic

from labeling.config import CaptionConfig
from labeling.sdd.pixels import decode, decode_reduced
from labeling.sdd.schema import Caption, Layer
from labeling.stages.base import Drop, Failure
from labeling.stages.networks import Captioner, Prepared

_OVERSAMPLING = 2
"""Smallest ratio of the sides of an image decoded at reduced size to those of the network's input."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionInput:
    """Columns that the stage reads."""

    key: bytes
    alt_text: str | None = None
    image: bytes


@dataclass(frozen=True, slots=True)
class CaptionQuery(Generic[Prepared]):
    """An image with its given caption, or prepared for the captioner."""

    key: bytes
    given: str
    """Caption that was given; empty if there is none."""
    image: Prepared | None
    """None if a caption was given."""


class CaptionStage(Generic[Prepared]):
    """Stage that captions images, with BLIP-2 by default (Sec. 3.1).

    With `config.given` it keeps captions that images have.
    """

    name: ClassVar[str] = Layer.CAPTIONS
    reads: ClassVar[type] = CaptionInput
    writes: ClassVar[type] = Caption

    def __init__(self, config: CaptionConfig, load: Callable[[CaptionConfig], Captioner[Prepared]]) -> None:
        self.config = config
        self.captioner: Captioner[Prepared] | None = None
        self._load = load
        self._lock: threading.Lock | None = None

    def setup(self) -> None:
        """Load the captioner; with given captions, when the first image without one comes."""
        self._lock = threading.Lock()
        if not self.config.given:
            self._network()

    def prepare(self, row: CaptionInput) -> CaptionQuery[Prepared]:
        """Decode and prepare an image that has no caption."""
        given = (row.alt_text or "").strip() if self.config.given else ""
        return CaptionQuery(row.key, given, None if given else self._prepare(row.image))

    def process(self, batch: Sequence[CaptionQuery[Prepared]]) -> list[Caption | Drop | Failure]:
        """Caption the images; an empty caption drops its image."""
        images = [row.image for row in batch if row.image is not None]
        written = iter(self._network().caption(images) if images else [])
        return [_outcome(row.key, row.given or next(written)) for row in batch]

    def _prepare(self, encoded: bytes) -> Prepared:
        captioner = self._network()
        if self.config.reduced_decoding and captioner.input_px is not None:
            return captioner.prepare(decode_reduced(encoded, _OVERSAMPLING * captioner.input_px))
        return captioner.prepare(decode(encoded))

    def _network(self) -> Captioner[Prepared]:
        """Return the captioner, which the first call loads."""
        assert self._lock is not None, "setup() was not called"
        with self._lock:
            if self.captioner is None:
                self.captioner = self._load(self.config)
            return self.captioner


def _outcome(key: bytes, written: str | Failure) -> Caption | Drop | Failure:
    if isinstance(written, Failure):
        return written
    text = written.strip()
    return Caption(key=key, caption=text) if text else Drop("empty_caption")
