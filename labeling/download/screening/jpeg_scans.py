"""Counts the scans of a JPEG without decoding it.

A decoder visits every pixel in every scan, and a scan may be a few bytes long, so a progressive JPEG of less than a
megabyte can take minutes. Ordinary JPEGs have about ten scans.
"""

import re

_START_OF_SCAN = b"\xff\xda"
_MARKER = re.compile(rb"\xff[\xc0-\xcf\xd9-\xfe]")
"""Marker of a segment, whose length follows, or of the end of the image; other markers have no length."""
_END_OF_IMAGE = 0xD9


def jpeg_scans(encoded: bytes, limit: int) -> int:
    """Count the scans, or return a number over `limit` where there are more; never fewer than a decoder finds."""
    upper_bound = encoded.count(_START_OF_SCAN)  # includes thumbnails and bytes after the image
    if upper_bound <= limit:
        return upper_bound
    scans, position = 0, 2
    while scans <= limit and (marker := _MARKER.search(encoded, position)):
        position = marker.end()
        if encoded[position - 1] == _END_OF_IMAGE:
            break
        scans += marker[0] == _START_OF_SCAN
        position += int.from_bytes(encoded[position : position + 2], "big")
    return scans
