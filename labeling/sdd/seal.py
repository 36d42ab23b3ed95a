"""The size and the SHA-256 of a whole Parquet file, kept in that file's own footer.

A file is written with a blank in their place, and the blank is filled in before the file gets its name. The hash is of
all bytes with its own 64 digits taken as zeros, so it covers the footer too, and the file needs no companion.
"""

import hashlib
import os
from typing import IO

KEY = "seal"
_SIZE_DIGITS, _HASH_DIGITS = 16, 64
BLANK = "0" * _SIZE_DIGITS + " " + "0" * _HASH_DIGITS
"""What the writer of a file puts in its metadata under `KEY`."""
_MARK = KEY.encode() + bytes([0x18, len(BLANK)])
"""How the footer's encoding, Thrift's compact protocol, introduces the value of `KEY`."""
_TAIL = 8
"""Bytes after the footer: its length and the magic number."""
_PIECE = 8 << 20


def seal(file: IO[bytes]) -> None:
    """Fill in the blank of a file that is open for reading and writing."""
    at = _place(file)
    assert at is not None, "the writer of the file left a blank"
    size = file.seek(0, os.SEEK_END)
    file.seek(at)
    file.write(f"{size:0{_SIZE_DIGITS}d}".encode())
    sha256 = _sha256(file, at)
    file.seek(at + _SIZE_DIGITS + 1)
    file.write(sha256)


def sealed_size(value: str) -> int:
    """The size of the file in bytes, of the value that its metadata has under `KEY`.

    Raises:
        ValueError: it says none.
    """
    return int(value[:_SIZE_DIGITS])


def is_intact(file: IO[bytes]) -> bool:
    """Whether a sealed file is what it was, to the bit. Reads all of it."""
    at = _place(file)
    if at is None:
        return False
    file.seek(at)
    size, _, sha256 = file.read(len(BLANK)).partition(b" ")
    return size.isdigit() and int(size) == file.seek(0, os.SEEK_END) and sha256 == _sha256(file, at)


def _place(file: IO[bytes]) -> int | None:
    """Where the value of `KEY` begins; None where the file has none."""
    end = max(0, file.seek(0, os.SEEK_END) - _TAIL)
    file.seek(end)
    begin = max(0, end - int.from_bytes(file.read(4), "little"))
    file.seek(begin)
    found = file.read(max(0, end - begin - len(BLANK))).rfind(_MARK)
    return None if found < 0 else begin + found + len(_MARK)


def _sha256(file: IO[bytes], at: int) -> bytes:
    """64 hexadecimal digits."""
    hashed, digits = hashlib.sha256(), at + _SIZE_DIGITS + 1
    file.seek(0)
    while left := digits - file.tell():
        hashed.update(file.read(min(left, _PIECE)))
    hashed.update(b"0" * _HASH_DIGITS)
    file.seek(digits + _HASH_DIGITS)
    while piece := file.read(_PIECE):
        hashed.update(piece)
    return hashed.hexdigest().encode()
