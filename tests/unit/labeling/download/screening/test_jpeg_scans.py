"""Scans of a JPEG are counted as its decoder finds them, or more."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from labeling.download.screening.jpeg_scans import jpeg_scans

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


def jpeg(**options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, "JPEG", **options)
    return file.getvalue()


BASELINE, PROGRESSIVE = jpeg(), jpeg(progressive=True)
SCAN = PROGRESSIVE[PROGRESSIVE.rfind(b"\xff\xda") : -2]
EOI = b"\xff\xd9"


def segment(code: int, content: bytes) -> bytes:
    return bytes([0xFF, code]) + (len(content) + 2).to_bytes(2, "big") + content


@pytest.mark.parametrize(
    ("body", "scans"),
    [
        (BASELINE, 1),
        (PROGRESSIVE, 10),
        (jpeg(progressive=True, restart_marker_blocks=2), 10),
        (PROGRESSIVE[:-2] + SCAN * 5 + EOI, 15),
        (PROGRESSIVE[:-2] + (b"\xff" * 3 + SCAN) * 5 + EOI, 15),
        (PROGRESSIVE[:-2] + (segment(0xFE, b"a comment") + SCAN) * 5, 15),
        (PROGRESSIVE[:-2] + (b"\xff\x02\xff\xff" + SCAN) * 5 + EOI, 15),
        (PROGRESSIVE[:2] + segment(0xE1, b"thumbnail" + b"\xff\xda" * 200) + PROGRESSIVE[2:], 10),
        (PROGRESSIVE + b"\xff\xda" * 200, 10),
        (PROGRESSIVE + PROGRESSIVE, 10),
        (PROGRESSIVE[: len(PROGRESSIVE) // 2], 6),
    ],
    ids=[
        "baseline",
        "progressive",
        "with restart markers",
        "more scans",
        "fill bytes",
        "segments between",
        "markers that a decoder skips without a length",
        "a thumbnail",
        "something after the image",
        "two images",
        "cut off",
    ],
)
def test_scans_are_counted(body: bytes, scans: int) -> None:
    within = [limit for limit in range(20) if jpeg_scans(body, limit) <= limit]
    assert within == list(range(scans, 20))


@given(st.binary(max_size=200), st.integers(0, 20))
def test_no_bytes_make_it_raise(tail: bytes, limit: int) -> None:
    assert jpeg_scans(b"\xff\xd8" + tail, limit) >= 0
