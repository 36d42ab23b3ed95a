"""Photos and masks are read from files of any kind, or refused with name, cause and cure."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from labeling.errors import CutoutError
from labeling.photo import MAX_BYTES, decode_mask, decode_photo, read_photo

RGB = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
INSIDE = np.zeros((6, 9), bool)
INSIDE[2:5, 3:7] = True


def encoded(picture: Image.Image, form: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, form, **options)
    return file.getvalue()


def with_alpha(alpha: np.ndarray) -> Image.Image:
    return Image.fromarray(np.dstack([RGB, alpha.astype(np.uint8)]))


def test_a_photo_keeps_the_colours_under_its_transparency():
    photo = decode_photo(encoded(with_alpha(INSIDE * 255)), "a.png")
    np.testing.assert_array_equal(photo.pixels, RGB)
    np.testing.assert_array_equal(photo.opaque, INSIDE)


def test_half_of_the_opacity_is_inside():
    alpha = np.full((6, 9), 127)
    alpha[0, 0] = 128
    photo = decode_photo(encoded(with_alpha(alpha)), "a.png")
    assert np.argwhere(photo.opaque).tolist() == [[0, 0]]


def test_a_photo_without_or_with_full_alpha_is_opaque():
    assert decode_photo(encoded(Image.fromarray(RGB)), "a.png").opaque is None
    assert decode_photo(encoded(with_alpha(np.full((6, 9), 255))), "a.png").opaque is None


def test_photo_and_alpha_are_turned_upright_together():
    tags = Image.Exif()
    tags[0x0112] = 6  # the camera lay on its left side
    photo = decode_photo(encoded(with_alpha(INSIDE * 255), exif=tags), "a.png")
    np.testing.assert_array_equal(photo.pixels, np.rot90(RGB, -1))
    np.testing.assert_array_equal(photo.opaque, np.rot90(INSIDE, -1))


def test_the_first_frame_of_an_animation_is_read_with_its_transparency():
    frames = [Image.new("P", (4, 4), index) for index in (0, 1)]
    for frame in frames:
        frame.putpalette([255, 0, 0, 0, 0, 255, 0, 255, 0])
    frames[0].putpixel((1, 1), 2)
    photo = decode_photo(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:], transparency=2), "a.gif")
    assert photo.pixels[0, 0].tolist() == [255, 0, 0]
    assert np.argwhere(~photo.opaque).tolist() == [[1, 1]]


@pytest.mark.parametrize(
    "body",
    [
        encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"),
        encoded(Image.fromarray(np.full((8, 8), 60_000, np.uint16))),
        encoded(Image.new("1", (8, 8), 1)),
        encoded(Image.new("RGB", (1, 1), "red"), "WEBP"),
    ],
    ids=["CMYK", "16 bits", "1 bit", "1x1"],
)
def test_unusual_photos_become_rgb(body):
    pixels = decode_photo(body, "a").pixels
    assert pixels.dtype == np.uint8
    assert pixels.shape[2] == 3
    assert pixels[..., 0].min() > 200


def png_of(width: int, height: int) -> bytes:
    """A PNG with the header of this size and no pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


BAD = {
    "text": (b"GIF? no, a letter", "cannot identify", "give a JPEG, PNG"),
    "nothing": (b"", "cannot identify", "give a JPEG, PNG"),
    "200 megapixels": (
        png_of(20_000, 10_000),
        "200000000 pixels) exceeds limit of 178956970 pixels)",
        "scale it down",
    ),
    "half a JPEG": (encoded(Image.new("RGB", (64, 64)), "JPEG")[:-60], "truncated", "download it again"),
    "32 bits": (encoded(Image.fromarray(np.full((4, 4), 0.5, np.float32)), "TIFF"), "32-bit", "save it as PNG"),
    "many scans": (b"\xff\xd8" + b"\xff\xda\0\x02" * 200, "more than 100 scans", "not progressive"),
}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("decode", [decode_photo, decode_mask])
def test_a_body_that_is_no_image_is_refused_with_name_cause_and_cure(decode, kind):
    body, cause, cure = BAD[kind]
    with pytest.raises(CutoutError) as refused:
        decode(body, "dog.jpg")
    message = str(refused.value)
    assert message.startswith("dog.jpg cannot be used as an image (")
    assert cause in message
    assert cure in message
    assert "\n" not in message


def test_the_limit_on_pixels_is_the_callers():
    with pytest.raises(CutoutError, match="9x6 RGB is more than 53 pixels"):
        decode_photo(encoded(Image.fromarray(RGB)), "a.png", max_pixels=53)


MASKS = {
    "white": Image.fromarray(INSIDE.astype(np.uint8) * 255),
    "half": Image.fromarray(np.where(INSIDE, 128, 127).astype(np.uint8)),
    "ones": Image.fromarray(INSIDE.astype(np.uint8)),
    "1 bit": Image.fromarray(INSIDE),
    "red": Image.fromarray(np.dstack([INSIDE * 255, INSIDE * 0, INSIDE * 0]).astype(np.uint8)),
    "transparent": with_alpha(INSIDE * 255),
    "opaque white": Image.fromarray(np.dstack([INSIDE * 255] * 3 + [INSIDE * 0 + 255]).astype(np.uint8)),
    "16 bits": Image.fromarray(INSIDE.astype(np.uint16) * 65_535),
}


@pytest.mark.parametrize("kind", MASKS)
def test_a_mask_is_white_inside_or_transparent_outside(kind):
    np.testing.assert_array_equal(decode_mask(encoded(MASKS[kind]), "mask.png"), INSIDE)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(CutoutError, match=f"^{tmp_path}/none.jpg is missing: give"):
        read_photo(tmp_path / "none.jpg")
    with pytest.raises(CutoutError, match=f"^{tmp_path} is not a file: give"):
        read_photo(tmp_path)
    with pytest.raises(CutoutError, match=r"cannot be read .*too long"):
        read_photo(tmp_path / ("a" * 300))


def test_a_file_larger_than_any_image_is_not_read(tmp_path):
    with (tmp_path / "huge.bmp").open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(CutoutError, match=r"huge\.bmp has 536,870,913 bytes, more than 536,870,912: save it as JPEG"):
        read_photo(tmp_path / "huge.bmp")
