"""An image's file tells where it comes from, and survives damage with a clear message."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from flows.generation.errors import InvalidJob
from flows.generation.job import GenerationJob, ImageSource, JobSubject
from flows.generation.output import file_name
from flows.generation.png import KEYWORD, MAX_TEXT_BYTES, encode_png, read_png
from flows.generation.provenance import Batch, ModelIdentity, Provenance

CAT = ImageSource(file="home/cat.png", data=b"\x00\xff" * 1000, sha256="a" * 64)


def provenance(source: ImageSource = CAT, **fields: Any) -> Provenance:
    job = GenerationJob(prompt="a cät on the beach", subjects=(JobSubject(label="cat", images=(source,)),), n=3)
    given = {
        "job": job.map_sources(lambda each: each.without_data()),
        "seed": 2,
        "model": ModelIdentity(name="small", sha256="b" * 64),
        "batch": Batch(size=2, position=1),
        "device": "cpu",
        "dtype": "float32",
        "versions": {"torch": "2", "subject-diffusion": "0.1.0"},
    }
    return Provenance.model_validate(given | fields)


def picture() -> Image.Image:
    return Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3))


def write(path: Path, text: str | None) -> Path:
    info = PngInfo()
    if text is not None:
        info.add_itxt(KEYWORD, text)
    picture().save(path, "PNG", pnginfo=info)
    return path


def test_an_image_keeps_its_pixels_and_its_provenance(tmp_path: Path) -> None:
    path = tmp_path / "cat.png"
    path.write_bytes(encode_png(picture(), provenance()))
    image, read = read_png(path)
    assert np.array_equal(np.asarray(image), np.asarray(picture()))
    assert read == provenance()
    with Image.open(path) as opened:
        assert opened.text["Description"] == "a cät on the beach"  # type: ignore[attr-defined]
        assert opened.text["Software"] == "Subject-Diffusion 0.1.0"  # type: ignore[attr-defined]
    assert b"home" not in path.read_bytes()


def test_an_image_embeds_its_subjects(tmp_path: Path) -> None:
    job = GenerationJob(prompt="", subjects=(JobSubject(label="cat", images=(CAT,)),))
    path = tmp_path / "cat.png"
    path.write_bytes(encode_png(picture(), provenance().embed(job)))
    (embedded,) = read_png(path)[1].job.subjects[0].images
    assert embedded == ImageSource(file="cat.png", data=CAT.data, sha256=CAT.sha256)
    large = CAT.model_copy(update={"data": bytes(MAX_TEXT_BYTES * 3 // 4)})
    with pytest.raises(InvalidJob, match="scale them down, or leave --embed-subjects out"):
        encode_png(picture(), provenance().embed(job.map_sources(lambda _: large)))


def test_a_fingerprint_names_what_determines_an_image() -> None:
    first = provenance().fingerprint()
    same = [
        provenance(CAT.model_copy(update={"file": "other/name.png"})),
        provenance(versions={"torch": "3"}),
        provenance(batch=Batch(size=1, position=0), device="cuda"),
        provenance(job=provenance().job.model_copy(update={"n": 9, "seed": 1})),
        provenance().embed(
            GenerationJob(prompt=provenance().job.prompt, subjects=(JobSubject(label="cat", images=(CAT,)),))
        ),
    ]
    assert {one.fingerprint() for one in same} == {first}
    other = [
        provenance(CAT.model_copy(update={"sha256": "c" * 64})),
        provenance(seed=1),
        provenance(dtype="float16"),
        provenance(model=ModelIdentity(name="small", sha256="c" * 64)),
        provenance(job=provenance().job.model_copy(update={"prompt": "a cat"})),
        provenance(job=provenance().job.model_copy(update={"steps": 9})),
    ]
    assert len({one.fingerprint() for one in other} | {first}) == 7


@pytest.mark.parametrize(
    ("prompt", "start"),
    [
        ("A Cat, on/the beach!", "a-cat-on-the-beach-2-"),
        ("", "image-2-"),
        ("../../etc", "etc-2-"),
        ("猫が海で " * 50, "猫が海で-"),
        ("x" * 500, "x" * 40 + "-2-"),
    ],
)
def test_a_file_is_named_by_prompt_seed_and_fingerprint(prompt: str, start: str) -> None:
    named = provenance(job=GenerationJob(prompt=prompt))
    name = file_name(named)
    assert name.startswith(start)
    assert name.endswith(f"-2-{named.fingerprint()}.png")
    assert len(name.encode()) < 255


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "does not tell how it was made"),
        ("{", "damaged, or of another version"),
        ("{}", r"damaged, or of another version of the project \(job: Field required\)"),
        (provenance().model_dump_json().replace('"format":1', '"format":2'), r"another version .*\(format: "),
    ],
)
def test_a_file_that_tells_nothing_is_refused(tmp_path: Path, text: str | None, message: str) -> None:
    with pytest.raises(InvalidJob, match=message):
        read_png(write(tmp_path / "cat.png", text))


def test_what_is_no_png_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cat.png"
    with pytest.raises(InvalidJob, match=r"cat\.png cannot be read as a PNG file .*No such file"):
        read_png(path)
    picture().save(path, "JPEG")
    with pytest.raises(InvalidJob, match=r"cat\.png cannot be read as a PNG file"):
        read_png(path)
    path.write_bytes(encode_png(Image.effect_noise((64, 64), 50).convert("RGB"), provenance())[:-2000])
    with pytest.raises(InvalidJob, match=r"cat\.png cannot be read as a PNG file"):
        read_png(path)
