"""Unusual pictures."""

import struct
import zlib

from PIL import Image


def huge_png(side: int) -> bytes:
    """A PNG of a few bytes that claims side x side pixels."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def picture(mode: str = "RGBA", size: tuple[int, int] = (40, 40)) -> Image.Image:
    """A red square on transparent ground."""
    image = Image.new("RGBA", size)
    image.paste((200, 20, 20, 255), (size[0] // 4, size[1] // 4, size[0], size[1]))
    return image.convert(mode)
