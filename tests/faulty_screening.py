"""A screening stage with faults: a body that ends in "segfault" crashes its process, one in "hang" stops it.

The module is importable by worker processes.
"""

import ctypes
from pathlib import Path

from labeling.download.screening.stage import ScreenedImage, ScreenStage, SpooledBody
from labeling.sdd.schema import Verdict


class FaultyScreenStage(ScreenStage):
    """Screening stage that behaves like one with a faulty image decoder."""

    def screen_file(self, body: SpooledBody) -> ScreenedImage | Verdict | None:
        encoded = Path(body.path).read_bytes()
        if encoded.endswith(b"segfault"):
            ctypes.string_at(0)
        if encoded.endswith(b"hang"):
            ctypes.PyDLL(None).sleep(1000)  # holds the interpreter lock, as native code can
        return super().screen_file(body)
