"""The generator gives the pipeline's images, alone or in a batch, and tells where each came from."""

from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from flows.generation.errors import GenerationCanceled, InvalidJob
from flows.generation.generator import DEFAULT_MODEL, GeneratedImage, Generator, Progress
from flows.generation.job import GenerationJob, parse_job
from flows.generation.provenance import identify_model
from model.errors import ModelWeightsError, PromptError
from model.pipeline import Subject, SubjectDiffusionPipeline
from tests.shipped_model import MAX_SUBJECTS

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array:DeprecationWarning"),  # diffusers' schedulers on numpy 2
]
STEPS = 2


def taxi_job(**fields: Any) -> GenerationJob:
    subject = {"label": "vehicle", "images": "taxi.png"} | fields.pop("subject", {})
    return parse_job({"prompt": "a vehicle in the snow", "subjects": [subject], "steps": STEPS} | fields, "job")


def pixels(image: GeneratedImage | Image.Image) -> NDArray[np.int16]:
    return np.asarray(image.image if isinstance(image, GeneratedImage) else image).astype(np.int16)


def differ(a: GeneratedImage | Image.Image, b: GeneratedImage | Image.Image) -> int:
    return int(np.abs(pixels(a) - pixels(b)).max())


def test_a_job_gives_the_images_of_the_pipeline(generator: Generator, taxi: Path) -> None:
    made = generator.generate(taxi_job(n=3, seed=5), taxi.parent)
    assert [image.provenance.seed for image in made] == [5, 6, 7]
    assert [(image.provenance.batch.size, image.provenance.batch.position) for image in made] == [
        (2, 0),
        (2, 1),
        (1, 0),
    ]
    pipeline = SubjectDiffusionPipeline.from_pretrained(DEFAULT_MODEL)
    subject = Subject(Image.open(taxi), "vehicle")
    for image in made:
        noise = torch.Generator().manual_seed(image.provenance.seed)
        (expected,) = pipeline("a vehicle in the snow", [subject], generator=noise, num_inference_steps=STEPS).images
        assert differ(image, expected) <= 1
    assert differ(made[0], made[1]) > 20


def test_jobs_of_equal_settings_share_a_batch(generator: Generator, taxi: Path) -> None:
    jobs = [
        taxi_job(prompt="a vehicle", seed=1),
        taxi_job(prompt="a vehicle", seed=2, text_guidance=3),
        taxi_job(prompt="a vehicle on grass", negative_prompt="snow", seed=3),
    ]
    prepared = [generator.prepare(job, taxi.parent) for job in jobs]
    (first,), (second,), (third,) = generator.run(prepared)
    assert [one.provenance.batch.size for one in (first, second, third)] == [2, 1, 2]
    for image, job in zip((first, second, third), jobs, strict=True):
        (alone,) = generator.generate(job, taxi.parent)
        assert differ(image, alone) <= 1
        assert alone.provenance.fingerprint() == image.provenance.fingerprint()
    assert len({one.provenance.fingerprint() for one in (first, second, third)}) == 3


def test_an_image_is_repeated_bit_for_bit(generator: Generator, taxi: Path) -> None:
    prepared = generator.prepare(taxi_job(n=2, seed=8), taxi.parent)
    ((_, second),) = generator.run([prepared])
    again = generator.repeat(second.provenance, generator.prepare(taxi_job(n=2, seed=8), taxi.parent))
    assert differ(again, second) == 0
    assert again.provenance == second.provenance


def test_every_setting_reaches_the_pipeline(generator: Generator, taxi: Path) -> None:
    (plain,) = generator.generate(taxi_job(), taxi.parent)
    for fields in (
        {"steps": 3},
        {"text_guidance": 1},
        {"image_guidance": 1},
        {"guidance_rescale": 1},
        {"scheduler": "EulerAncestralDiscrete"},
        {"layout": "random"},
        {"interpolation": 0.9},
        {"negative_prompt": "snow"},
        {"subject": {"strength": 0}},
        {"subject": {"box": (0.1, 0.1, 0.5, 0.5)}},
        {"subject": {"masks": "taxi.png", "place": "taxi.png"}, "width": 48, "height": 80},
    ):
        (changed,) = generator.generate(taxi_job(**fields), taxi.parent)
        size = (fields.get("width", 64), fields.get("height", 64))
        assert changed.image.size == size
        assert size != (64, 64) or differ(changed, plain) > 5, fields
        assert changed.provenance.fingerprint() != plain.provenance.fingerprint()


def test_every_scheduler_comes_close_to_the_same_image(generator: Generator, taxi: Path) -> None:
    jobs = [taxi_job(scheduler=name, steps=4) for name in generator.schedulers]
    mean = {}
    for job in jobs:
        (image,) = generator.generate(job, taxi.parent)
        mean[job.scheduler] = pixels(image)[:12].mean()
    assert len(mean) == 13
    assert {name for name, bright in mean.items() if bright < 170} == set()  # snow above the vehicle


def test_a_photo_stays_as_it_was_outside_its_region(generator: Generator, taxi: Path, tmp_path: Path) -> None:
    Image.new("RGB", (90, 60), "white").save(tmp_path / "room.png")
    region = Image.new("L", (90, 60))
    region.paste(255, (20, 10, 60, 50))
    region.save(tmp_path / "region.png")
    photo = {"image": str(tmp_path / "room.png"), "region": str(tmp_path / "region.png"), "feather_px": 2}
    made = generator.generate(taxi_job(n=2, photo=photo), taxi.parent)
    for image in made:
        changed = (pixels(image) != 255).any(axis=2)
        assert changed[15:45, 25:55].mean() > 0.5
        assert not changed[:, :17].any()
    by_box = taxi_job(subject={"box": (0.2, 0.2, 0.7, 0.8)}, photo={"image": str(tmp_path / "room.png")})
    assert generator.generate(by_box, taxi.parent)[0].image.size == (90, 60)


def test_defaults_of_the_model_are_in_the_provenance(generator: Generator, taxi: Path) -> None:
    job = generator.prepare(GenerationJob(prompt="snow")).job
    assert (job.steps, job.text_guidance, job.image_guidance, job.scheduler) == (25, 2.0, 4.0, "DDIM")
    zero = generator.prepare(GenerationJob(prompt="snow", text_guidance=0)).job
    assert zero.text_guidance == 0


def test_a_long_prompt_is_cut_and_reported(generator: Generator, taxi: Path) -> None:
    (image,) = generator.generate(taxi_job(prompt="snow " * 2000, steps=1), taxi.parent)
    assert any("characters were cut, from 'snow" in remark for remark in image.remarks)
    (image,) = generator.generate(GenerationJob(prompt="", steps=1))
    assert image.remarks == ()


def test_a_subject_that_is_too_small_is_reported_to_its_own_job(generator: Generator, taxi: Path) -> None:
    tiny = taxi_job(subject={"label": "bus", "box": (0.5, 0.5, 0.501, 0.501)}, steps=1)
    prepared = [generator.prepare(job, taxi.parent) for job in (tiny, taxi_job(steps=1))]
    (small,), (plain,) = generator.run(prepared)
    assert "'bus' is too small or too thin" in " ".join(small.remarks)
    assert plain.remarks == ()


def test_progress_counts_steps_and_images(generator: Generator, taxi: Path) -> None:
    seen: list[Progress] = []
    generator.generate(taxi_job(n=3, scheduler="PNDM"), taxi.parent, seen.append)
    assert [(p.images_done, p.step) for p in seen] == [(0, 1), (0, 2), (0, 3), (2, 1), (2, 2), (2, 3)]
    assert {(p.images, p.steps) for p in seen} == {(3, 3)}  # PNDM evaluates once more than it has steps
    assert [round(p.done, 2) for p in seen] == [0.67, 1.33, 2.0, 2.33, 2.67, 3.0]


def test_a_preview_becomes_the_image(generator: Generator, taxi: Path) -> None:
    previews: list[Image.Image] = []
    job = taxi_job(steps=3)
    (made,) = generator.generate(job, taxi.parent, lambda progress: previews.extend(generator.preview(progress)))
    assert np.abs(pixels(previews[-1]) - pixels(made)).max() <= 1
    assert np.abs(pixels(previews[0]) - pixels(made)).max() > 50


def test_attention_is_highest_where_the_subject_is(generator: Generator, taxi: Path) -> None:
    job = taxi_job(steps=4, subject={"box": (0.5, 0.0, 1.0, 1.0)})
    ((made,),) = generator.run([generator.prepare(job, taxi.parent)], attention=True)
    (plain,) = generator.generate(job, taxi.parent)
    assert made.attention is not None
    assert plain.attention is None
    assert np.abs(pixels(made) - pixels(plain)).max() <= 1
    (of_taxi,) = made.attention
    half = of_taxi.shape[1] // 2
    assert of_taxi[:, half:].mean() > 1.3 * of_taxi[:, :half].mean()


def test_a_canceled_job_stops_within_a_step(generator: Generator, taxi: Path) -> None:
    seen: list[Progress] = []
    with pytest.raises(GenerationCanceled):
        generator.generate(taxi_job(steps=50), taxi.parent, seen.append, lambda: bool(seen))
    assert len(seen) == 1
    assert generator.generate(taxi_job(steps=1), taxi.parent)


def test_threads_take_turns(generator: Generator, taxi: Path) -> None:
    jobs = [taxi_job(seed=seed, scheduler="DDPM") for seed in range(4)]
    alone = [generator.generate(job, taxi.parent)[0] for job in jobs]
    made: dict[int, GeneratedImage] = {}
    threads = [
        Thread(target=lambda job=job: made.update({job.seed: generator.generate(job, taxi.parent)[0]})) for job in jobs
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [differ(made[job.seed], image) for job, image in zip(jobs, alone, strict=True)] == [0] * 4


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"scheduler": "Nonsense"}, "scheduler='Nonsense': choose one of DDIM, "),
        ({"scheduler": "HeunDiscrete"}, "scheduler='HeunDiscrete': choose one of DDIM, "),
        ({"height": 65}, "height=65: give a multiple of 16"),
        ({"layout": "given"}, "'vehicle' has no box"),
        ({"photo": {"image": "taxi.png"}}, "no region: give mask_image, or a box"),
        ({"photo": {"image": "taxi.png", "region": "small.png"}}, "small.png is missing"),
        (
            {"subjects": [{"label": "vehicle", "images": "taxi.png"}] * 9},
            f"9 subjects, but this model takes {MAX_SUBJECTS}",
        ),
    ],
)
def test_a_value_that_the_model_does_not_take_is_refused(
    generator: Generator, taxi: Path, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidJob, match=message):
        generator.generate(taxi_job(**fields), taxi.parent)


def test_a_label_that_contains_the_placeholder_is_refused(generator: Generator, taxi: Path) -> None:
    with pytest.raises(PromptError, match="stands for the picture of a subject"):
        generator.generate(taxi_job(subject={"label": "<|subject|>"}), taxi.parent)


def test_a_model_is_named_by_its_files(tmp_path: Path) -> None:
    (tmp_path / "unet").mkdir()
    (tmp_path / "model_index.json").write_text("{}")
    first = identify_model(tmp_path)
    assert first.name == tmp_path.name
    (tmp_path / "README.md").write_text("a README")
    assert identify_model(tmp_path) == first
    (tmp_path / "unet" / "config.json").write_text("{}")
    second = identify_model(tmp_path)
    (tmp_path / "unet" / "config.json").write_text("{ }")
    assert len({one.sha256 for one in (first, second, identify_model(tmp_path))}) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [({"device": "warp"}, "device='warp'"), ({"dtype": "int8"}, "dtype='int8'"), ({"max_batch": 0}, "max_batch=0")],
)
def test_a_generator_refuses_what_it_cannot_use(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidJob, match=message):
        Generator(**options)


def test_half_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelWeightsError, match="is no folder"):
        Generator(tmp_path / "missing")
    with pytest.raises(ModelWeightsError):
        Generator(tmp_path)
