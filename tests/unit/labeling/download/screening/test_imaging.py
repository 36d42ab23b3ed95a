"""Encoded images become upright RGB, or say why not."""

import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from labeling.download.screening.imaging import difference_hash, probe
from labeling.sdd import pixels
from labeling.sdd.pixels import UndecodableImage, decode

RGB = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
RGB[0] = 0
SMOOTH = np.asarray(Image.fromarray(RGB).resize((90, 60)))


def encoded(pixels, form, mode=None, **options) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    file = io.BytesIO()
    (image.convert(mode) if mode else image).save(file, form, **options)
    return file.getvalue()


def turned(pixels, orientation):
    """How a picture with this EXIF orientation is to be seen, by the standard: where row 0 and column 0 belong."""
    upright = {
        1: pixels,
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.swapaxes(0, 1),
        6: pixels[::-1].swapaxes(0, 1),
        7: pixels[::-1, ::-1].swapaxes(0, 1),
        8: pixels[:, ::-1].swapaxes(0, 1),
    }
    return upright[orientation]


def exif(orientation, **others):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def png(width, height, depth, colour, rows=b"", *more: tuple[bytes, bytes]) -> bytes:
    """A PNG chunk by chunk, for what Pillow does not write."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = [(b"IHDR", header), *more, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*c) for c in chunks)


def agree(image):
    """The header's size is that of the pixels."""
    found, pixels = probe(image), decode(image)
    assert (found.height_px, found.width_px, 3) == pixels.shape
    assert pixels.dtype == np.uint8
    return found, pixels


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["PNG", "TIFF", "WEBP"])
def test_every_orientation_is_made_upright_to_the_pixel(form, orientation):
    options = {"lossless": True, "exact": True} if form == "WEBP" else {}
    _, pixels = agree(encoded(RGB, form, exif=exif(orientation), **options))
    np.testing.assert_array_equal(pixels, turned(RGB, orientation))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_jpeg_is_turned_after_it_is_decoded(orientation):
    plain = decode(encoded(RGB, "JPEG"))
    _, pixels = agree(encoded(RGB, "JPEG", exif=exif(orientation)))
    np.testing.assert_array_equal(pixels, turned(plain, orientation))


@pytest.mark.parametrize("orientation", [3, 6])
def test_a_turned_picture_has_the_hash_of_the_upright_one(orientation):
    back = {3: 3, 6: 8}[orientation]
    sideways = turned(SMOOTH, back)
    assert difference_hash(encoded(sideways, "PNG", exif=exif(orientation))) == difference_hash(encoded(SMOOTH, "PNG"))


@pytest.mark.parametrize(
    ("form", "media_type"),
    [
        ("JPEG", "image/jpeg"),
        ("PNG", "image/png"),
        ("WEBP", "image/webp"),
        ("GIF", "image/gif"),
        ("BMP", "image/bmp"),
        ("TIFF", "image/tiff"),
        ("AVIF", "image/avif"),
    ],
)
@pytest.mark.parametrize("size", [(90, 60), (1, 1)])
def test_the_formats_of_the_web_are_read(form, media_type, size):
    picture = Image.fromarray(SMOOTH).resize(size)
    found, pixels = agree(encoded(picture, form))
    assert found.media_type == media_type
    assert np.abs(pixels.astype(int) - np.asarray(picture)).mean() < 12


def test_cmyk_is_seen_in_its_colours():
    _, pixels = agree(encoded(SMOOTH, "JPEG", "CMYK", quality=95))
    assert np.abs(pixels.astype(int) - SMOOTH).mean() < 6


def test_grey_is_three_equal_channels():
    _, pixels = agree(encoded(SMOOTH, "PNG", "L"))
    np.testing.assert_array_equal(pixels, np.asarray(Image.fromarray(SMOOTH).convert("L"))[..., None].repeat(3, 2))


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_the_upper_8_of_16_bits_are_kept(form):
    wide = np.array([[0, 200, 255, 256], [1000, 32768, 65280, 65535]], np.uint16)
    _, pixels = agree(encoded(wide, form))
    np.testing.assert_array_equal(pixels, (wide >> 8).astype(np.uint8)[..., None].repeat(3, 2))


def test_a_dark_picture_of_16_bits_stays_dark():
    _, pixels = agree(encoded(np.full((4, 4), 250, np.uint16), "PNG"))
    assert pixels.max() == 0


def test_the_upper_8_of_16_bits_per_channel_are_kept():
    wide = np.random.default_rng(1).integers(0, 65536, (4, 5, 3), dtype=np.uint16)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in wide)
    _, pixels = agree(png(5, 4, 16, 2, rows))
    np.testing.assert_array_equal(pixels, (wide >> 8).astype(np.uint8))


@pytest.mark.parametrize("samples", [np.float32(0.5), np.float32("nan"), np.int32(70_000)])
def test_samples_of_32_bits_are_refused_as_their_white_is_unknown(samples):
    with pytest.raises(UndecodableImage, match="32-bit"):
        decode(encoded(np.full((4, 4), samples), "TIFF"))


def over_white(colour, alpha):
    return np.round(np.asarray(colour) * (alpha / 255) + 255 * (1 - alpha / 255)).astype(np.uint8)


def test_transparency_lies_over_white():
    clear = np.zeros((2, 3, 4), np.uint8)
    clear[0] = (200, 100, 0, 255)
    clear[1] = (200, 100, 0, 51)
    _, pixels = agree(encoded(clear, "PNG"))
    assert pixels[0, 0].tolist() == [200, 100, 0]
    np.testing.assert_allclose(pixels[1, 0], over_white([200, 100, 0], 51), atol=1)


def test_grey_with_transparency_lies_over_white():
    grey = Image.fromarray(np.full((2, 2), 100, np.uint8))
    grey.putalpha(51)
    assert grey.mode == "LA"
    _, pixels = agree(encoded(grey, "PNG"))
    np.testing.assert_allclose(pixels[0, 0], over_white([100] * 3, 51), atol=1)


def test_a_palette_with_transparency_lies_over_white():
    palette = Image.fromarray(np.array([[0, 1], [1, 2]], np.uint8), "P")
    palette.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    _, opaque = agree(encoded(palette, "PNG"))
    assert opaque[0].tolist() == [[10, 20, 30], [40, 50, 60]]
    _, one_colour = agree(encoded(palette, "PNG", transparency=1))
    assert one_colour.tolist() == [[[10, 20, 30], [255] * 3], [[255] * 3, [70, 80, 90]]]
    _, by_colour = agree(encoded(palette, "PNG", transparency=b"\xff\x00\x80"))
    assert by_colour[0].tolist() == [[10, 20, 30], [255] * 3]
    np.testing.assert_allclose(by_colour[1, 1], over_white([70, 80, 90], 128), atol=1)


def test_a_colour_that_is_declared_transparent_lies_over_white():
    _, pixels = agree(encoded(RGB, "PNG", transparency=(0, 0, 0)))
    assert (pixels[0] == 255).all()
    np.testing.assert_array_equal(pixels[1:], RGB[1:])


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG"])
def test_the_first_frame_of_an_animation_is_read(form):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if form == "WEBP" else {}
    _, pixels = agree(encoded(frames[0], form, save_all=True, append_images=frames[1:], **options))
    assert (pixels == (255, 0, 0)).all()


def calls(function, *args):
    """How many Python functions the call enters."""
    entered = []
    sys.setprofile(lambda frame, event, argument: entered.append(event) if event == "call" else None)
    try:
        function(*args)
    finally:
        sys.setprofile(None)
    return len(entered)


@pytest.mark.parametrize("read", [probe, decode, difference_hash])
def test_only_the_first_frame_of_an_animation_is_decoded(read):
    short, long = (
        encoded(first, "GIF", save_all=True, append_images=more)
        for first, *more in ([Image.new("L", (8, 8), 9 * shade) for shade in range(n)] for n in (2, 20))
    )
    read(short)  # what is loaded or remembered at the first call
    assert calls(read, long) == calls(read, short)


@pytest.mark.parametrize("read", [probe, decode, difference_hash])
@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "not_an_image"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "not_an_image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not_an_image"),
        (b"\xff\xd8\xff\xe0", "undecodable"),
        (png(50_000, 50_000, 8, 2), "too_many_pixels"),
        (png(15_000, 15_000, 8, 2), "too_many_pixels"),
    ],
    ids=["nothing", "HTML", "EPS", "JPEG magic", "bomb", "small bomb"],
)
def test_bodies_that_are_not_images_have_a_reason(read, body, reason):
    with pytest.raises(UndecodableImage) as error:
        read(body)
    assert error.value.reason == reason
    assert "\n" not in str(error.value)


def test_the_limit_on_pixels_is_inclusive():
    picture = encoded(RGB, "PNG")
    assert decode(picture, max_pixels=54).shape == (6, 9, 3)
    for read in (probe, decode, difference_hash):
        with pytest.raises(UndecodableImage, match="9x6 RGB is more than 53 pixels of RGB"):
            read(picture, max_pixels=53)


@pytest.mark.parametrize(
    ("mode", "form", "options"),
    [("RGBA", "PNG", {}), ("LA", "PNG", {}), ("CMYK", "JPEG", {}), ("RGB", "PNG", {"transparency": (0, 0, 0)})],
)
def test_a_pixel_of_four_channels_counts_as_four_thirds(mode, form, options):
    picture = encoded(RGB, form, mode, **options)
    assert decode(picture, max_pixels=72).shape == (6, 9, 3)
    for read in (probe, decode, difference_hash):
        with pytest.raises(UndecodableImage, match=r"9x6 .* is more than 71 pixels of RGB") as error:
            read(picture, max_pixels=71)
        assert error.value.reason == "too_many_pixels"


def transparent(mode, size=(60, 90)):
    """A smooth picture whose every pixel has another opacity."""
    picture = Image.fromarray(SMOOTH).resize(size).convert(mode[:-1])
    picture.putalpha(Image.fromarray(np.arange(size[0] * size[1], dtype=np.uint8).reshape(size[::-1])))
    return picture


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("mode", ["RGBA", "LA", "CMYK", "L", "P", "I;16"])
def test_conversion_in_strips_equals_conversion_of_the_whole(mode, orientation, monkeypatch):
    if mode == "I;16":
        picture = Image.fromarray(SMOOTH[..., 0].astype(np.uint16) * 257)
    else:
        picture = transparent(mode) if mode.endswith("A") else Image.fromarray(SMOOTH).convert(mode)
    form = "JPEG" if mode == "CMYK" else "PNG"
    body = encoded(picture, form, exif=exif(orientation))
    whole, whole_hash = decode(body), difference_hash(body)
    monkeypatch.setattr(pixels, "_STRIP_PIXELS", 200)
    np.testing.assert_array_equal(decode(body), whole)
    assert difference_hash(body) == whole_hash
    grey = Image.fromarray(whole).convert("L").resize((9, 8), Image.Resampling.BOX)
    darker = np.diff(np.asarray(grey).astype(int)) < 0
    assert whole_hash & (2**64 - 1) == int("".join("01"[int(bit)] for bit in darker.ravel()), 2)


PEAK = """
import re, sys
from pathlib import Path
from labeling.download.screening.imaging import difference_hash

def peak_bytes():
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])

body = sys.stdin.buffer.read()
difference_hash(Path(sys.argv[1]).read_bytes())  # loads what Pillow loads on first use
before = peak_bytes()
difference_hash(body)
print(peak_bytes() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells a process its peak")
def test_peak_memory_of_a_transparent_image(tmp_path):
    """Its own four bytes a pixel and the grey one, turned; every conversion of the whole would add four more."""
    small, side = tmp_path / "small.png", 3000
    small.write_bytes(encoded(transparent("RGBA"), "PNG"))
    body = encoded(Image.new("RGBA", (side, side)), "PNG", exif=exif(6), compress_level=1)
    measured = subprocess.run(
        [sys.executable, "-c", PEAK, small], input=body, capture_output=True, check=True, cwd=Path(__file__).parents[5]
    )
    assert int(measured.stdout) < 9 * side * side


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "BMP"])
def test_a_truncated_picture_is_undecodable_but_for_its_header(form):
    whole = encoded(SMOOTH, form)
    with pytest.raises(UndecodableImage) as error:
        decode(whole[: len(whole) * 3 // 4])
    assert error.value.reason == "truncated"
    if form == "JPEG":
        assert probe(whole[: len(whole) * 3 // 4]) == probe(whole)


@given(st.data())
def test_damaged_bytes_are_a_picture_or_a_reason_and_never_a_crash(data):
    form = data.draw(st.sampled_from(["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"]))
    damaged = bytearray(encoded(RGB, form, exif=exif(6)) if form in ("JPEG", "PNG", "WEBP") else encoded(RGB, form))
    for _ in range(data.draw(st.integers(1, 5))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    del damaged[data.draw(st.integers(1, len(damaged))) :]
    reasons = set()
    for read in (probe, decode, difference_hash):
        try:
            read(bytes(damaged), max_pixels=10_000)
        except UndecodableImage as error:
            reasons.add(error.reason)
    assert reasons <= {"not_an_image", "undecodable", "truncated", "too_many_pixels"}


@example([(17, 41)])
@example([(41, 69)])
@given(st.lists(st.tuples(st.integers(6, 59), st.integers(0, 255)), min_size=1, max_size=6))
def test_malformed_exif_is_ignored(changes):
    tags = exif(6)
    tags[0x010F] = "maker"
    tags[0x011A] = 72.0
    garbled = bytearray(tags.tobytes())
    for place, value in changes:
        garbled[place % len(garbled)] = value
    agree(encoded(RGB, "JPEG", exif=bytes(garbled)))


@given(st.integers(0, 2**32))
def test_a_hash_is_a_signed_64_bit_integer_and_survives_recompression(seed):
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    picture = Image.fromarray(coarse).resize((160, 120), Image.Resampling.BICUBIC)
    original, again = difference_hash(encoded(picture, "PNG")), difference_hash(encoded(picture, "JPEG", quality=90))
    assert -(2**63) <= original < 2**63
    assert ((original ^ again) & (2**64 - 1)).bit_count() <= 6


def test_a_hash_says_where_it_gets_darker_to_the_right():
    ramp = np.arange(250, 0, -25, dtype=np.uint8)[None].repeat(8, 0)
    assert difference_hash(encoded(ramp, "PNG")) == -1
    assert difference_hash(encoded(ramp[:, ::-1], "PNG")) == 0
