"""Counts the scans of a JPEG without decoding it.

A decoder visits every pixel in every scan, and a scan may be a few bytes long: a progressive JPEG of less than a
megabyte can cost minutes. Ordinary ones have about ten scans.
"""

import re

_START_OF_SCAN = b"\xff\xda"
_MARKER = re.compile(rb"\xff[^\x00\xff]")
_SOF0, _RST0, _SOI, _EOI, _SOS = 0xC0, 0xD0, 0xD8, 0xD9, 0xDA


def jpeg_scans(encoded: bytes, limit: int) -> int:
    """The number of scans, or a number over `limit` where there are more; never fewer than a decoder finds."""
    upper_bound = encoded.count(_START_OF_SCAN)  # thumbnails and what stands after the image are in it
    if upper_bound <= limit:
        return upper_bound
    scans, place = 0, 2
    while scans <= limit and (marker := _MARKER.search(encoded, place)):
        code, place = encoded[marker.end() - 1], marker.end()
        if code == _EOI:
            break
        scans += code == _SOS
        if code >= _SOF0 and not _RST0 <= code <= _SOI:  # a segment; other markers have no length
            place += int.from_bytes(encoded[place : place + 2], "big")
    return scans
