"""Step 1 of Fig. 2: a better caption for each image."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Generic

from labeling.config import CaptionConfig
from labeling.sdd.pixels import decode
from labeling.sdd.schema import Caption, Layer
from labeling.stages.base import Drop
from labeling.stages.networks import Captioner, Prepared


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionInput:
    """Columns that the stage reads."""

    key: bytes
    image: bytes


class CaptionStage(Generic[Prepared]):
    """Stage that captions images with BLIP-2 (Sec. 3.1)."""

    name: ClassVar[str] = Layer.CAPTIONS
    reads: ClassVar[type] = CaptionInput
    writes: ClassVar[type] = Caption

    def __init__(self, config: CaptionConfig, load: Callable[[CaptionConfig], Captioner[Prepared]]) -> None:
        self.config = config
        self.captioner: Captioner[Prepared] | None = None
        self._load = load

    def setup(self) -> None:
        """Load the captioner."""
        if self.captioner is None:
            self.captioner = self._load(self.config)

    def prepare(self, row: CaptionInput) -> tuple[bytes, Prepared]:
        """Decode and prepare an image; returns it with its key."""
        assert self.captioner is not None, "setup() was not called"
        return row.key, self.captioner.prepare(decode(row.image))

    def process(self, batch: Sequence[tuple[bytes, Prepared]]) -> list[Caption | Drop]:
        """Caption the images; an empty caption drops its image."""
        assert self.captioner is not None, "setup() was not called"
        captions = self.captioner.caption([prepared for _, prepared in batch])
        return [
            Caption(key=key, caption=text.strip()) if text.strip() else Drop("empty_caption")
            for (key, _), text in zip(batch, captions, strict=True)
        ]
