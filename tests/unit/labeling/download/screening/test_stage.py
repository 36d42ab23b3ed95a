"""Verdicts on rows of the list, and on bodies."""

import io
import struct
import zlib
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image as Pillow

from labeling.config import DownloadConfig
from labeling.download.lists.names import key_of
from labeling.download.screening.imaging import difference_hash
from labeling.download.screening.stage import ScreenedImage, screen, verdict_of_listing
from labeling.sdd.pixels import UndecodableImage, decode
from labeling.sdd.schema import ListedUrl, Verdict
from tests import factories

PAPER = DownloadConfig()
SMALL = DownloadConfig(min_side_px=32)


def picture(width: int = 96, height: int = 64, seed: int = 0) -> Pillow.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    return Pillow.fromarray(pixels).resize((width, height), Pillow.Resampling.BICUBIC)


def encoded(image: Pillow.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def kept(body: bytes, config: DownloadConfig = SMALL) -> ScreenedImage:
    found = screen(body, config)
    assert isinstance(found, ScreenedImage), found
    return found


def verdict(body: bytes, config: DownloadConfig = SMALL) -> str:
    found = screen(body, config)
    assert isinstance(found, Verdict), found
    assert found.detail
    return f"{found.state}/{found.reason}"


def listed(**values: object) -> ListedUrl:
    url = "http://a.example/1"
    return replace(factories.listed(0, url), **({"key": key_of(url, 0)} | values))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({}, None),
        ({"listed_width_px": 1025, "listed_height_px": 1025}, None),
        ({"listed_width_px": 1024, "listed_height_px": 4000}, "small_listed"),
        ({"listed_width_px": 4000, "listed_height_px": 1024}, "small_listed"),
        ({"listed_width_px": 10}, None),
        ({"aesthetic_score": 5.0}, None),
        ({"aesthetic_score": 4.99}, "low_aesthetic"),
        ({"punsafe": 0.5}, None),
        ({"punsafe": 0.51}, "unsafe"),
        ({"pwatermark": float(np.float32(0.8))}, None),
        ({"pwatermark": 0.81}, "watermark"),
        ({"key": key_of("http://a.example/1", 1)}, "duplicate_url"),
        ({"key": key_of("http://a.example/1", 1), "punsafe": 0.51}, "unsafe"),
        ({"url": "", "key": key_of("", 0)}, "invalid_url"),
        ({"url": "", "key": key_of("", 7)}, "invalid_url"),
    ],
)
def test_verdicts_on_rows_of_the_list(values: dict[str, object], reason: str | None) -> None:
    found = verdict_of_listing(listed(**values), PAPER)
    assert (found.reason if found else None) == reason


def test_limits_can_be_turned_off() -> None:
    bad = listed(aesthetic_score=0.0, punsafe=1.0, pwatermark=1.0, listed_width_px=1, listed_height_px=1)
    off = DownloadConfig(min_side_px=0, min_aesthetic_score=None, max_punsafe=None, max_pwatermark=None)
    assert verdict_of_listing(bad, PAPER) is not None
    assert verdict_of_listing(bad, off) is None


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "AVIF", "BMP", "TIFF"])
def test_each_format_of_the_web_is_kept(kind: str) -> None:
    found = kept(encoded(picture(), kind))
    assert (found.width_px, found.height_px, found.media_type) == (96, 64, f"image/{kind.lower()}")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize("share", [0.5, 0.95])
def test_truncated(kind: str, share: float) -> None:
    body = encoded(picture(256, 256), kind)
    assert verdict(body[: int(len(body) * share)]) == "failed/truncated"


def test_a_truncated_progressive_jpeg() -> None:
    body = encoded(picture(256, 256), "JPEG", progressive=True)
    assert verdict(body[: len(body) // 2]) == "failed/truncated"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html><body>Not here</body></html>", "not_an_image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not_an_image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 2000 2000\n", "not_an_image"),
        (b"\xff\xd8\xff", "undecodable"),
        (b"\x89PNG\r\n\x1a\n" + bytes(40), "undecodable"),
    ],
)
def test_bodies_that_are_no_images(body: bytes, reason: str) -> None:
    assert verdict(body) == f"failed/{reason}"


def bomb(side: int) -> bytes:
    """A PNG of a few kilobytes that unpacks to side x side pixels; black where it has no rows."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(3 * side + 1) * 4)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_a_png_bomb_is_not_decoded() -> None:
    """50,000 x 50,000 would be 7.5 GB; the same file with a smaller size in its header is an image."""
    assert verdict(bomb(50_000)) == "failed/too_many_pixels"
    assert kept(bomb(1_000)).width_px == 1_000


def with_scans(scans: int, form: str = "JPEG", **options: object) -> bytes:
    """A progressive JPEG whose last scan is repeated."""
    body = encoded(picture(), form, progressive=True, **options)
    last, end = body.rfind(b"\xff\xda"), len(body) - 2
    return body[:end] + body[last:end] * (scans - body.count(b"\xff\xda")) + body[end:]


def test_a_jpeg_that_costs_too_many_decodings_is_refused_before_the_first() -> None:
    limit = SMALL.max_scans
    assert kept(with_scans(10)).width_px == kept(with_scans(limit)).width_px == 96
    assert verdict(with_scans(limit + 1)) == "failed/too_many_scans"
    assert verdict(with_scans(20), SMALL.model_copy(update={"max_scans": 19})) == "failed/too_many_scans"
    assert verdict(with_scans(100_000)) == "failed/too_many_scans", "whose decoding would take minutes"


def test_the_small_side_is_judged_by_the_image() -> None:
    assert verdict(encoded(picture(96, 31), "JPEG")) == "dropped/small_image"
    assert verdict(encoded(picture(31, 96), "JPEG")) == "dropped/small_image"
    assert kept(encoded(picture(96, 32), "JPEG")).height_px == 32


def test_cmyk_sixteen_bit_animated_and_transparent_are_kept() -> None:
    cmyk = kept(encoded(picture().convert("CMYK"), "JPEG"))
    assert cmyk.media_type == "image/jpeg"
    deep = np.linspace(0, 65535, 96 * 64).reshape(64, 96).astype(np.uint16)
    assert kept(encoded(Pillow.fromarray(deep), "PNG")).width_px == 96
    frames = [picture(seed=1), picture(seed=2)]
    animated = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert kept(animated).perceptual_hash == kept(encoded(frames[0], "GIF")).perceptual_hash, "its first frame"
    assert kept(encoded(picture().convert("RGBA"), "WEBP")).media_type == "image/webp"


def test_sizes_and_hash_are_of_the_upright_image() -> None:
    sideways = Pillow.Exif()
    sideways[0x0112] = 6  # to be turned a quarter clockwise
    image = picture(96, 64)
    turned = kept(encoded(image, "JPEG", exif=sideways, quality=95))
    upright = kept(encoded(image.transpose(Pillow.Transpose.ROTATE_270), "JPEG", quality=95))
    assert (turned.width_px, turned.height_px) == (64, 96)
    assert (turned.perceptual_hash ^ upright.perceptual_hash).bit_count() <= 4
    assert (turned.perceptual_hash ^ kept(encoded(image, "JPEG")).perceptual_hash).bit_count() > 16


def test_the_hash_by_hand() -> None:
    """Rows that get darker to the right are all ones, rows that get brighter all zeros."""
    ramp = np.repeat(np.linspace(250, 10, 9, dtype=np.uint8)[None], 8, axis=0)
    down = encoded(Pillow.fromarray(ramp).resize((90, 80), Pillow.Resampling.NEAREST), "PNG")
    up = encoded(Pillow.fromarray(ramp[:, ::-1]).resize((90, 80), Pillow.Resampling.NEAREST), "PNG")
    half = ramp.copy()
    half[4:] = half[4:, ::-1]
    mixed = encoded(Pillow.fromarray(half).resize((90, 80), Pillow.Resampling.NEAREST), "PNG")
    assert difference_hash(down) == -1, "64 ones as a signed integer"
    assert difference_hash(up) == 0
    assert difference_hash(mixed) == -(1 << 32)


def test_the_hash_hardly_depends_on_format_and_size() -> None:
    large = picture(1200, 800)
    hashes = [difference_hash(encoded(large, k)) for k in ("JPEG", "PNG", "WEBP")]
    hashes.append(difference_hash(encoded(large.resize((300, 200)), "JPEG")))
    other = difference_hash(encoded(picture(1200, 800, seed=5), "JPEG"))
    assert max((hashes[0] ^ h).bit_count() for h in hashes) <= 4
    assert (hashes[0] ^ other).bit_count() > 16


def test_kept_images_can_be_decoded_and_truncated_ones_cannot() -> None:
    body = encoded(picture(640, 480), "JPEG")
    kept(body)
    assert decode(body).shape == (480, 640, 3)
    with pytest.raises(UndecodableImage) as error:
        decode(body[:-500])
    assert error.value.reason == "truncated"
