"""Step 1 of Fig. 2: a better caption for each image."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from labeling.config import CaptionConfig
from labeling.sdd.pixels import decode
from labeling.sdd.schema import Caption
from labeling.stages.base import Drop


class Captioner(Protocol):
    """A network that says what is in a picture."""

    def prepare(self, image: NDArray[np.uint8]) -> Any:
        """Upright RGB [H, W, 3] as the network wants it; CPU, thread-safe."""

    def caption(self, prepared: Sequence[Any]) -> list[str]:
        """One caption per prepared image."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pixels:
    """What the stage reads."""

    key: bytes
    image: bytes


class CaptionStage:
    """Captions images with BLIP-2 (Sec. 3.1)."""

    name: ClassVar[str] = "captions"
    reads: ClassVar[type] = Pixels
    writes: ClassVar[type] = Caption

    def __init__(self, config: CaptionConfig, captioner: Captioner | None = None) -> None:
        self.config = config
        self.captioner = captioner

    def setup(self) -> None:
        if self.captioner is None:
            from labeling.backends.blip2 import Blip2Captioner  # torch: in the worker only

            self.captioner = Blip2Captioner(self.config)

    def prepare(self, row: Pixels) -> tuple[bytes, Any]:
        assert self.captioner is not None, "setup() was not called"
        return row.key, self.captioner.prepare(decode(row.image))

    def process(self, batch: Sequence[tuple[bytes, Any]]) -> list[Caption | Drop]:
        assert self.captioner is not None, "setup() was not called"
        captions = self.captioner.caption([prepared for _, prepared in batch])
        return [
            Caption(key=key, caption=text.strip()) if text.strip() else Drop("empty_caption")
            for (key, _), text in zip(batch, captions, strict=True)
        ]
