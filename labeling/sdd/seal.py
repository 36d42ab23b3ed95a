"""The size and the SHA-256 of a whole Parquet file, stored in that file's own footer.

The writer reserves space for them in the footer, and fills it in before the file gets its final name. The hash covers
all bytes, including the footer, with its own 64 digits taken as zeros. So no separate checksum file is needed.
"""

import hashlib
import os
from typing import IO

KEY = "seal"
_SIZE_DIGITS, _HASH_DIGITS = 16, 64
PLACEHOLDER = "0" * _SIZE_DIGITS + " " + "0" * _HASH_DIGITS
"""Placeholder that the writer of a file puts in its metadata under `KEY`."""
_MARK = KEY.encode() + bytes([0x18, len(PLACEHOLDER)])
"""Bytes before the value of `KEY` in the footer, which is in Thrift's compact protocol."""
_TAIL = 8
"""Number of bytes after the footer: its length and the magic number."""
_PIECE = 8 << 20


def seal(file: IO[bytes]) -> None:
    """Replace the placeholder in a file that is open for reading and writing by its size and hash."""
    at = _seal_offset(file)
    assert at is not None, "the file has no placeholder"
    size = file.seek(0, os.SEEK_END)
    file.seek(at)
    file.write(f"{size:0{_SIZE_DIGITS}d}".encode())
    sha256 = _sha256(file, at)
    file.seek(at + _SIZE_DIGITS + 1)
    file.write(sha256)


def sealed_size(value: str) -> int:
    """Return the size of the file in bytes, from the value of `KEY` in its metadata.

    Raises:
        ValueError: the value has no size.
    """
    return int(value[:_SIZE_DIGITS])


def is_intact(file: IO[bytes]) -> bool:
    """Return whether a sealed file is unchanged, to the bit. Reads the whole file."""
    at = _seal_offset(file)
    if at is None:
        return False
    file.seek(at)
    size, _, sha256 = file.read(len(PLACEHOLDER)).partition(b" ")
    return size.isdigit() and int(size) == file.seek(0, os.SEEK_END) and sha256 == _sha256(file, at)


def _seal_offset(file: IO[bytes]) -> int | None:
    """Return the offset of the value of `KEY`; None if the file has none."""
    end = max(0, file.seek(0, os.SEEK_END) - _TAIL)
    file.seek(end)
    begin = max(0, end - int.from_bytes(file.read(4), "little"))
    file.seek(begin)
    offset = file.read(max(0, end - begin - len(PLACEHOLDER))).rfind(_MARK)
    return None if offset < 0 else begin + offset + len(_MARK)


def _sha256(file: IO[bytes], at: int) -> bytes:
    """Return 64 hexadecimal digits."""
    hashed, digits = hashlib.sha256(), at + _SIZE_DIGITS + 1
    file.seek(0)
    while left := digits - file.tell():
        hashed.update(file.read(min(left, _PIECE)))
    hashed.update(b"0" * _HASH_DIGITS)
    file.seek(digits + _HASH_DIGITS)
    while piece := file.read(_PIECE):
        hashed.update(piece)
    return hashed.hexdigest().encode()
