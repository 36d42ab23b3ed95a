"""Users' images: what can be used gives the same pixels as in Python, the rest is refused with name and cure."""

import hashlib
import io
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from flows.generation.errors import InvalidJob
from flows.generation.images import decode_image, decode_region, decode_subject, read_job, read_source
from flows.generation.job import GenerationJob, ImageSource, JobSubject
from model.inputs.reference import Subject


def png(image: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    return buffer.getvalue()


def subject(data: bytes, mask: bytes | None = None) -> JobSubject:
    masks = None if mask is None else (ImageSource(file="mask.png", data=mask),)
    return JobSubject(label="cat", images=(ImageSource(file="cat.png", data=data),), masks=masks)


def white_mask(width: int, height: int) -> bytes:
    return png(Image.new("L", (width, height), 255))


def test_a_cut_out_subject_is_that_of_python(taxi: Path) -> None:
    source = read_source(ImageSource(file=taxi.name), taxi.parent)
    assert source.sha256 == hashlib.sha256(taxi.read_bytes()).hexdigest()
    (photo,) = decode_subject(JobSubject(label="vehicle", images=(source,))).photos
    (expected,) = Subject(Image.open(taxi), "vehicle").photos
    assert (photo.pixels == expected.pixels).all()
    assert (photo.outline == expected.outline).all()


def test_unusual_images_of_a_subject_are_used() -> None:
    buffer = io.BytesIO()
    Image.new("CMYK", (6, 4), (0, 255, 255, 0)).save(buffer, "JPEG")
    (photo,) = decode_subject(subject(buffer.getvalue(), white_mask(6, 4))).photos
    assert photo.pixels[0, 0, 0] > 200 > 60 > photo.pixels[0, 0, 1]
    deep = png(Image.fromarray(np.full((4, 6), 0x8000, np.uint16)))
    (photo,) = decode_subject(subject(deep, white_mask(6, 4))).photos
    assert (photo.pixels == 128).all()
    frames = [Image.new("RGB", (6, 4), color) for color in ("red", "blue")]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    (photo,) = decode_subject(subject(buffer.getvalue(), white_mask(6, 4))).photos
    assert photo.pixels[0, 0].tolist() == [255, 0, 0]
    assert decode_subject(subject(png(Image.new("RGBA", (1, 1), "red")), white_mask(1, 1))).photos[0].outline.all()


def huge() -> bytes:
    """Return a PNG that says it has 200 megapixels."""
    small = png(Image.new("1", (8, 8)))
    header = (20_000).to_bytes(4, "big") + (10_000).to_bytes(4, "big") + small[24:29]
    checksum = zlib.crc32(b"IHDR" + header).to_bytes(4, "big")
    return small[:16] + header + checksum + small[33:]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"this is text", r"cat.png cannot be used as an image.*give a JPEG"),
        (b"", "cat.png cannot be used as an image"),
        (huge(), "cat.png cannot be used as an image .*pixels.*scale it down"),
        (png(Image.new("RGBA", (8, 8), (1, 2, 3, 0))), "cat.png is transparent everywhere"),
        (png(Image.new("RGB", (8, 8))), "cat.png has no transparency around 'cat': give a mask"),
        (png(Image.new("RGBA", (8, 8), "red")), "cat.png has no transparency"),
        (png(Image.effect_noise((64, 64), 90))[:1000], "cat.png cannot be used .*end is missing"),
    ],
    ids=["text", "empty", "200 megapixels", "transparent", "opaque", "opaque with alpha", "truncated"],
)
def test_a_picture_without_a_subject_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(InvalidJob, match=message):
        decode_subject(subject(data))


def test_a_mask_must_fit_its_picture() -> None:
    with pytest.raises(InvalidJob, match=r"cat.png: the mask of 'cat' is 5x4, its picture 6x4"):
        decode_subject(subject(png(Image.new("RGB", (6, 4))), white_mask(5, 4)))
    with pytest.raises(InvalidJob, match=r"cat.png: the mask of the subject 'cat' is empty"):
        decode_subject(subject(png(Image.new("RGB", (6, 4))), png(Image.new("L", (6, 4)))))


def test_a_smaller_limit_applies_to_every_image() -> None:
    source = ImageSource(file="room.png", data=white_mask(10, 10))
    assert decode_image(source, 100).pixels.shape == (10, 10, 3)
    assert decode_region(source, 100).all()
    for decode in (decode_image, decode_region):
        with pytest.raises(InvalidJob, match=r"room\.png"):
            decode(source, 99)


def test_files_are_found_in_their_folder_and_checked_by_hash(tmp_path: Path) -> None:
    (tmp_path / "cat.png").write_bytes(white_mask(2, 2))
    found = read_source(ImageSource(file="cat.png"), tmp_path)
    assert found.data == white_mask(2, 2)
    assert read_source(ImageSource(data=found.data, sha256=found.sha256), None).sha256 == found.sha256
    with pytest.raises(InvalidJob, match=f"cat.png is another image .* is {found.sha256}, not {'0' * 64}"):
        read_source(ImageSource(file="cat.png", sha256="0" * 64), tmp_path)
    with pytest.raises(InvalidJob, match=r"dog.png is missing"):
        read_source(ImageSource(file="dog.png"), tmp_path)
    with pytest.raises(InvalidJob, match=r"is not a file"):
        read_source(ImageSource(file="."), tmp_path)
    with pytest.raises(InvalidJob, match=f"{'0' * 64} is not embedded"):
        read_source(ImageSource(sha256="0" * 64), tmp_path)


def test_no_file_is_read_for_a_stranger(tmp_path: Path) -> None:
    (tmp_path / "cat.png").write_bytes(white_mask(2, 2))
    cat = JobSubject(label="cat", images=(ImageSource(file=str(tmp_path / "cat.png")),))
    with pytest.raises(InvalidJob, match="which is not read here"):
        read_job(GenerationJob(prompt="a cat", subjects=(cat,)), None)
