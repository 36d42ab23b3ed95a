"""The detector of the labelling pipeline, as an evaluation's detector of subjects."""

from collections.abc import Sequence
from pathlib import Path

from evaluation.benchmarks.benchmark import RelativeBox
from evaluation.encoders.encoder import Image
from labeling.cutout import Cutter
from labeling.photo import DecodedPhoto


class CutterDetector:
    """Finds subjects by the network that `--cutout` names.

    Args:
        cutter: holds the network.
    """

    def __init__(self, cutter: Cutter) -> None:
        self._cutter = cutter
        self.name = f"{Path(cutter.detect.checkpoint).name} ({cutter.detect.backend})"

    def detect(self, image: Image, labels: Sequence[str]) -> list[RelativeBox | None]:
        """Return the best box of each label; equal labels get different boxes, best first."""
        photo = DecodedPhoto("the image", image, None)
        left = {label: iter(self._cutter.find(photo, label)) for label in dict.fromkeys(labels)}
        found = [next(left[label], None) for label in labels]
        return [None if one is None else (one.box[0], one.box[1], one.box[2], one.box[3]) for one in found]
