"""The pipeline on a small random model of the real classes, saved in the real layouts."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DPMSolverMultistepScheduler,
    HeunDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from numpy.typing import NDArray
from PIL import Image
from torch._dynamo.testing import CompileCounter
from transformers import CLIPTextModel, CLIPTokenizer

from model.config import LocationMask
from model.errors import ModelWeightsError, PromptError
from model.inputs.layout import Layout, RelativeBox
from model.pipeline import Subject, SubjectDiffusionPipeline
from model.sampling.config import Interpolation, Phase
from model.sampling.denoising import initial_noise, seeded_generators
from model.sampling.original import restore_unet
from model.subject_diffusion import SubjectDiffusion
from model.weights.folders import load_base_unet
from tests.device_bytes import DeviceBytes, weight_bytes
from tests.small_model import IMAGE_PX, LATENT, open_gates

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array:DeprecationWarning"),  # diffusers' schedulers on numpy 2
]
Build = Callable[..., SubjectDiffusion]
STEPS = 4


def subject(label: str = "dog", seed: int = 0, **rest: object) -> Subject:
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    mask = np.zeros((40, 40), dtype=bool)
    mask[10:30, 5:25] = True
    return replace(Subject(pixels, label, mask), **rest)  # type: ignore[arg-type]


@pytest.fixture
def pipeline(build: Build) -> SubjectDiffusionPipeline:
    return quiet(trained(build()))


def quiet(net: SubjectDiffusion) -> SubjectDiffusionPipeline:
    pipeline = SubjectDiffusionPipeline.from_network(net, num_inference_steps=STEPS)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def trained(net: SubjectDiffusion) -> SubjectDiffusion:
    """Change all trained weights, as training would."""
    torch.manual_seed(3)
    with torch.no_grad():
        for weight in net.parameters():
            if weight.requires_grad:
                weight.add_(0.05 * torch.randn_like(weight))
    return open_gates(net)


def seeds(*each: int) -> list[torch.Generator]:
    return seeded_generators(each)


def generate(
    pipeline: SubjectDiffusionPipeline, prompt: str, *subjects: Subject, seed: int = 1, **rest: Any
) -> NDArray[np.int16]:
    """Return one image, [height, width, 3] in 0 to 255."""
    images = pipeline(prompt, subjects, generator=seeds(seed), **rest).images
    return np.asarray(images[0]).astype(np.int16)


def apart(a: NDArray[np.int16], b: NDArray[np.int16]) -> int:
    return int(np.abs(a - b).max())


def arrays(images: Any) -> list[NDArray[np.int16]]:
    return [np.asarray(image).astype(np.int16) for image in images]


def test_makes_an_image_and_reports_each_step(pipeline: SubjectDiffusionPipeline) -> None:
    seen: list[tuple[int, float]] = []

    def note(pipe: SubjectDiffusionPipeline, step: int, t: float, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
        assert pipe is pipeline
        assert tensors["latents"].shape == (1, 4, LATENT, LATENT)
        seen.append((step, t))
        return {}

    image = generate(pipeline, "a photo", subject(), callback_on_step_end=note)
    assert image.shape == (IMAGE_PX, IMAGE_PX, 3)
    assert image.std() > 1
    assert [step for step, _ in seen] == [0, 1, 2, 3, 4]  # PNDM evaluates once more than it has steps
    assert [t for _, t in seen] == sorted((t for _, t in seen), reverse=True)


def test_an_image_is_the_same_alone_and_among_others(pipeline: SubjectDiffusionPipeline) -> None:
    prompts = ["a photo", "two of them in the snow", "nothing but snow"]
    subjects = [[subject()], [subject(seed=1), subject("cat", seed=2)], []]
    together = arrays(pipeline(prompts, subjects, generator=seeds(1, 2, 3)).images)
    for index, (prompt, of_prompt) in enumerate(zip(prompts, subjects, strict=True)):
        assert apart(generate(pipeline, prompt, *of_prompt, seed=index + 1), together[index]) <= 1
    order = [2, 0, 1]
    shuffled = pipeline([prompts[i] for i in order], [subjects[i] for i in order], generator=seeds(3, 1, 2)).images
    assert [apart(image, together[i]) for i, image in zip(order, arrays(shuffled), strict=True)] == [0, 0, 0]


def test_several_images_of_a_prompt_have_their_own_noise(pipeline: SubjectDiffusionPipeline) -> None:
    images = arrays(pipeline(["a", "b"], [subject()], num_images_per_prompt=2, generator=seeds(1, 2, 3, 4)).images)
    assert apart(images[1], generate(pipeline, "a", subject(), seed=2)) <= 1
    assert apart(images[2], generate(pipeline, "b", subject(), seed=3)) <= 1
    one_source = arrays(pipeline("a", num_images_per_prompt=2, generator=torch.Generator().manual_seed(1)).images)
    assert apart(*one_source) > 0


def test_an_image_follows_prompt_subject_seed_and_place(pipeline: SubjectDiffusionPipeline) -> None:
    box = (0.0, 0.0, 0.5, 0.5)
    image = generate(pipeline, "a photo", subject(box=box))
    others = [
        generate(pipeline, "a painting", subject(box=box)),
        generate(pipeline, "a photo", subject(box=box), seed=2),
        generate(pipeline, "a photo", subject(seed=9, box=box)),
        generate(pipeline, "a photo", subject(box=(0.5, 0.5, 1.0, 1.0))),
        generate(pipeline, "a photo", subject("cat", box=box)),
        generate(pipeline, "a photo", subject(box=box), negative_prompt="snow"),
        generate(pipeline, "a photo", subject(box=box), guidance_rescale=0.7),
        generate(pipeline, "a photo", subject(box=box), text_guidance=5.0),
        generate(pipeline, "a photo", subject(box=box), image_guidance=5.0),
    ]
    assert all(apart(image, other) > 0 for other in others)


def test_strength_runs_from_no_adapter_to_more(pipeline: SubjectDiffusionPipeline) -> None:
    def at(strength: float) -> NDArray[np.int16]:
        return generate(pipeline, "a photo", subject(strength=strength))

    assert apart(at(1.0), generate(pipeline, "a photo", subject())) == 0
    assert 0 < apart(at(1.0), at(1.0001)) + apart(at(1.0), at(0.5)) < 2 * 255
    for adapter in pipeline.unet.adapters():
        adapter.beta = 0.0
    off = at(1.0)
    for adapter in pipeline.unet.adapters():
        adapter.beta = 1.0
    assert apart(at(0.0), off) <= 1


def test_layout_is_reported_and_random_follows_the_seed(pipeline: SubjectDiffusionPipeline) -> None:
    def boxes(seed: int, layout: Layout | str) -> tuple[RelativeBox, ...]:
        result = pipeline("a photo", [subject()], generator=seeds(seed), layout=layout)
        return result.boxes[0]

    detected = pipeline("a photo", [subject()], generator=seeds(1), layout="detected")
    assert detected.boxes == detected.bounds == [((0.125, 0.25, 0.625, 0.75),)]
    assert boxes(1, Layout.RANDOM) == boxes(1, "random") != boxes(2, Layout.RANDOM)
    with pytest.raises(ValueError, match="layout 'auto'"):
        boxes(1, "given")
    with pytest.raises(ValueError, match="layout='detekted': choose one of 'given', 'detected'"):
        boxes(1, "detekted")


def test_a_box_is_marked_by_the_outline_of_its_subject(pipeline: SubjectDiffusionPipeline) -> None:
    """In a box of .5 x 1, a square subject gets the same bounds as by its own mask at that place."""
    fitted = np.zeros((LATENT, LATENT), dtype=bool)
    fitted[LATENT // 4 : -LATENT // 4, LATENT // 4 : -LATENT // 4] = True
    by_box, by_mask = subject(box=(0.25, 0.0, 0.75, 1.0)), subject(place=fitted)
    result = pipeline(["a photo"] * 2, [[by_box], [by_mask]], generator=seeds(1, 1))
    assert apart(*arrays(result.images)) == 0
    assert result.boxes[0] == ((0.25, 0.0, 0.75, 1.0),)
    assert result.bounds == [((0.25, 0.25, 0.75, 0.75),)] * 2


def test_a_filled_box_comes_with_a_warning_unless_the_model_was_trained_with_boxes(
    pipeline: SubjectDiffusionPipeline, build: Build
) -> None:
    placed = subject(box=(0.25, 0.0, 0.75, 1.0))
    with pytest.warns(UserWarning, match="marks='box', but this model was trained with outlines") as caught:
        filled = pipeline("a photo", [placed], generator=seeds(1), marks="box")
    assert len(caught) == 1
    assert filled.bounds == filled.boxes
    assert apart(arrays(filled.images)[0], generate(pipeline, "a photo", placed)) > 0
    of_boxes = quiet(trained(build(location_mask="box")))
    by_default = pipeline_boxes = of_boxes("a photo", [placed], generator=seeds(1))
    assert by_default.bounds == pipeline_boxes.boxes == filled.boxes
    asked = generate(of_boxes, "a photo", placed, marks=LocationMask.BOX)
    assert apart(arrays(by_default.images)[0], asked) == 0
    with pytest.raises(ValueError, match=r"marks='mask', but this model takes whole boxes"):
        generate(of_boxes, "a photo", placed, marks="mask")


def test_a_model_that_was_trained_with_boxes_and_without_marks_takes_both(
    pipeline: SubjectDiffusionPipeline, build: Build
) -> None:
    shapes = {"box": 0.3, "nothing": 0.3}
    varied = quiet(trained(build(departures={"location_shapes": shapes})))
    placed = subject(box=(0.25, 0.0, 0.75, 1.0))
    result = varied("a photo", [placed], generator=seeds(1), marks="box")
    assert result.bounds == result.boxes
    outlined = varied("a photo", [placed], generator=seeds(1))
    assert outlined.bounds != outlined.boxes
    free = varied("a photo", [subject()], generator=seeds(1), layout="free")
    assert free.boxes == [((0.0, 0.0, 1.0, 1.0),)]
    assert apart(arrays(free.images)[0], generate(varied, "a photo", subject())) > 0
    with pytest.raises(ValueError, match="layout='free', but this model was trained with a mark for every subject"):
        generate(pipeline, "a photo", subject(), layout="free")


def stock(base: Path, prompt: str, seed: int, scale: float, negative: str = "", **size: int) -> NDArray[np.int16]:
    """diffusers' own Stable Diffusion, from the base's folder."""
    parts = StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(base / "vae"),
        text_encoder=CLIPTextModel.from_pretrained(base / "text_encoder"),
        tokenizer=CLIPTokenizer.from_pretrained(base / "tokenizer"),
        unet=UNet2DConditionModel.from_pretrained(base / "unet"),
        scheduler=PNDMScheduler.from_pretrained(base / "scheduler"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    parts.set_progress_bar_config(disable=True)
    image = parts(
        prompt,
        negative_prompt=negative,
        generator=seeds(seed),
        num_inference_steps=STEPS,
        guidance_scale=scale,
        output_type="np",
        **size,
    ).images[0]
    return np.asarray(image * 255).round().astype(np.int16)


@pytest.mark.parametrize("given", [{}, {"negative": "rain"}, {"height": 32, "width": 64}])
def test_the_second_line_of_equation_4_is_the_untrained_base(
    pipeline: SubjectDiffusionPipeline, base_folder: Path, given: dict[str, Any]
) -> None:
    expected = stock(base_folder / "base", "a lion in the snow", 5, scale=3.0, **given)
    ours = {"negative_prompt": given.get("negative"), **{k: v for k, v in given.items() if k != "negative"}}
    text_alone = generate(pipeline, "a lion in the snow", subject(), seed=5, interpolation=1.0, **ours)
    assert np.abs(text_alone - expected).max() <= 1
    assert apart(text_alone, generate(pipeline, "a lion in the snow", subject(), seed=5, **ours)) > 1


def test_interpolation_lies_between_and_has_two_directions(pipeline: SubjectDiffusionPipeline) -> None:
    def at(interpolation: Interpolation | float | None) -> NDArray[np.int16]:
        return generate(pipeline, "a lion", subject(), seed=5, interpolation=interpolation)

    assert apart(at(Interpolation(alpha=0.0)), at(None)) == 0
    assert apart(at(Interpolation(alpha=0.0, first=Phase.TEXT)), at(1.0)) == 0
    half = at(0.5)
    assert apart(half, at(None)) > 0
    assert apart(half, at(Interpolation(alpha=0.5, first=Phase.TEXT))) > 0


def test_the_original_shares_what_training_left_alone(build: Build) -> None:
    net = trained(build())
    original = restore_unet(net.unet.base, load_base_unet(net.config), net.config)
    ours = {id(weight) for weight in net.unet.parameters()}
    own = {name for name, weight in original.base.named_parameters() if id(weight) not in ours}
    assert own == {"conv_in.weight", "conv_in.bias"} | {n for n in own if ".attn2.to_k." in n or ".attn2.to_v." in n}
    assert len(own) == 2 + 2 * len(list(net.unet.blocks()))


def test_scales_of_one_run_one_branch(pipeline: SubjectDiffusionPipeline) -> None:
    rows: list[int] = []
    handle = pipeline.unet.base.conv_in.register_forward_hook(lambda _, args, __: rows.append(len(args[0])))
    pipeline(["a photo"] * 2, [subject()], text_guidance=1.0, image_guidance=1.0)
    handle.remove()
    assert set(rows) == {2}


def test_another_scheduler_and_an_unknown_one(pipeline: SubjectDiffusionPipeline) -> None:
    by_name = generate(pipeline, "a photo", subject(), scheduler="DPMSolverMultistep", num_inference_steps=3)
    own = pipeline.scheduler
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(own.config)
    assert apart(by_name, generate(pipeline, "a photo", subject(), num_inference_steps=3)) == 0
    assert pipeline.num_timesteps == 3
    pipeline.scheduler = own
    pipeline.scheduler = HeunDiscreteScheduler.from_config({**own.config, "rescale_betas_zero_snr": True})
    with pytest.raises(ValueError, match="scheduler='HeunDiscrete' gives black images with this model"):
        generate(pipeline, "a photo")
    pipeline.scheduler = own
    with pytest.raises(ValueError, match=r"scheduler='Best'.*DDIM.*PNDM"):
        generate(pipeline, "a photo", scheduler="Best")
    for another_way in ("KarrasVe", "FlowMatchEulerDiscrete", "VQDiffusion"):
        with pytest.raises(ValueError, match=f"scheduler='{another_way}' does not"):
            generate(pipeline, "a photo", scheduler=another_way)


def test_the_cut_end_of_a_long_prompt_is_reported(pipeline: SubjectDiffusionPipeline) -> None:
    long = " ".join(f"word{i}" for i in range(200))
    result = pipeline([long, "a photo"], [subject()])
    assert result.cut[0].endswith("word199")
    assert result.cut[1] == ""


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("prompt", "given", "message"),
    [
        ("a crowd", {"subjects": [subject()] * 5}, "5 subjects for 'a crowd', but model.max_subjects=4: give fewer"),
        (None, {}, "give prompt or prompt_embeds"),
        ([], {}, "prompt=.*: give a string"),
        ([1], {}, "prompt=.*: give a string"),
        ("a", {"negative_prompt": ["b", "c"]}, "2 texts in negative_prompt for 1 prompts"),
        (["a", "b"], {"subjects": [[subject()]]}, "for each of 2 prompts"),
        ("a", {"subjects": ["dog"]}, "neither a list of `Subject`"),
        ("a", {"generator": seeds(1, 2)}, "2 generators for 1 images"),
        ("a", {"num_images_per_prompt": 0}, "num_images_per_prompt=0: give 1 or more"),
        ("a", {"height": 33}, "height=33: give a multiple of 16 pixels"),
        ("a", {"width": 0}, "width=0: give a multiple"),
        ("a", {"latents": torch.zeros(1, 4, 2, 2)}, "latents has the shape"),
        ("a", {"output_type": "jpeg"}, "output_type='jpeg': choose one of 'pil', 'np', 'pt', 'latent'"),
        ("a", {"callback_on_step_end_tensor_inputs": ["noise"]}, "choose one of 'latents'"),
        ("a", {"image": np.zeros((40, 40, 3), np.uint8)}, "a photo is given, but no region"),
    ],
)
def test_bad_arguments_are_refused(
    pipeline: SubjectDiffusionPipeline, prompt: object, given: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        pipeline(prompt, **given)


def test_a_placeholder_in_the_prompt_is_refused(pipeline: SubjectDiffusionPipeline) -> None:
    with pytest.raises(PromptError, match="holds"):
        generate(pipeline, f"a photo of {pipeline.unet.settings.placeholder}", subject())


MASK = np.ones((40, 40), dtype=bool)


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"mask": MASK[:30]}, "the mask of 'dog' is 40x30, its picture 40x40: give both in one size"),
        ({"mask": ~MASK}, "the mask of the subject 'dog' is empty"),
        ({"mask": np.dstack([MASK] * 3)}, "the mask of 'dog' has the shape"),
        ({"image": MASK}, "the picture of 'dog' holds bool"),
        ({"mask": None}, "the picture of 'dog' has no transparency"),
        ({"mask": [MASK]}, "'dog' has one picture: give one mask, not list"),
        ({"image": []}, "'dog' has 0 pictures: give at least one"),
        ({"image": "dog.png"}, "the picture of 'dog' is a str"),
        ({"place": MASK * 3.0}, "the mask that places 'dog' holds values from 3.0"),
        ({"box": (0.1, 0.2, 0.3)}, "the box .* of 'dog' does not lie in the image"),
        ({"box": (10, 20, 30, 40)}, "the box .* of 'dog' does not lie in the image"),
        ({"label": None}, "label=None: name the subject in one or a few words"),
        ({"label": " "}, "label=' ': name the subject"),
        ({"strength": -0.5}, "strength=-0.5 of 'dog': give 0 or more"),
        ({"strength": float("nan")}, "strength=nan of 'dog': give 0 or more"),
    ],
)
def test_an_invalid_subject_is_refused(given: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        subject(**given)  # type: ignore[arg-type]


def test_a_subject_is_the_same_in_every_form(pipeline: SubjectDiffusionPipeline) -> None:
    one = subject(box=(0.1, 0.1, 0.9, 0.9))
    (photo,) = one.photos
    rgba = np.dstack([photo.pixels, photo.outline * np.uint8(255)])
    forms = [
        one,
        replace(
            one, image=Image.fromarray(photo.pixels), mask=Image.fromarray(photo.outline), box=[0.1, 0.1, 0.9, 0.9]
        ),
        replace(one, image=photo.pixels / 255, mask=photo.outline * 0.9),
        Subject(Image.fromarray(rgba), "dog", box=one.box),
        Subject(rgba, "dog", box=one.box),
        Subject([rgba], "dog", box=one.box),
        Subject([photo.pixels], "dog", [photo.outline], box=one.box),
    ]
    images = arrays(pipeline(["a photo"] * len(forms), [[form] for form in forms], generator=seeds(*[1] * 7)).images)
    assert [apart(images[0], other) for other in images] == [0] * 7


def test_a_cutout_contains_its_mask() -> None:
    rgba = np.zeros((6, 4, 4), dtype=np.uint8)
    rgba[2:5, 1:3] = (10, 20, 30, 255)
    dog = Subject(Image.fromarray(rgba), "dog")
    assert dog.layout_input.outline.sum() == 6
    (photo,) = dog.photos
    assert (photo.pixels[photo.outline] == (10, 20, 30)).all()
    with pytest.raises(ValueError, match="no transparency"):
        Subject(Image.fromarray(rgba[..., :3]), "dog")


def test_several_photos_of_a_subject_matter_and_two_equal_ones_are_one(pipeline: SubjectDiffusionPipeline) -> None:
    one, other = subject(seed=1).photos[0], subject(seed=2).photos[0]

    def of(*photos: Any) -> NDArray[np.float32]:
        pictured = Subject([photo.pixels for photo in photos], "dog", [photo.outline for photo in photos])
        return np.asarray(pipeline("a photo", [pictured], generator=seeds(1), output_type="np").images)

    assert np.abs(of(one) - of(one, one)).max() < 1e-5
    assert np.abs(of(one) - of(one, other)).max() > 1e-3
    assert np.abs(of(one, other) - of(other, one)).max() < 1e-5


def test_reference_photos_are_encoded_once(pipeline: SubjectDiffusionPipeline) -> None:
    calls: list[int] = []
    projected: list[int] = []
    pipeline.image_encoder.register_forward_hook(lambda _, args, __: calls.append(args[0].shape[1]))
    adapter = next(pipeline.unet.adapters())
    adapter.S.from_tokens.register_forward_hook(lambda *_: projected.append(1))
    first = generate(pipeline, "a photo", subject())
    pipeline(["snow", "rain"], [subject()])
    assert calls == [1]
    assert len(projected) == 1
    assert apart(first, generate(pipeline, "a photo", subject())) <= 1
    with torch.no_grad():
        adapter.S.to_v.weight.mul_(20.0)
    assert apart(first, generate(pipeline, "a photo", subject())) > 1
    pipeline.clear_caches()
    generate(pipeline, "a photo", subject())
    assert calls == [1, 1]


def test_a_photo_stays_outside_the_border_of_the_region(pipeline: SubjectDiffusionPipeline) -> None:
    photo = np.random.default_rng(5).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    region = np.zeros((90, 120), dtype=bool)
    region[30:60, 70:100] = True
    near = np.zeros_like(region)
    near[26:64, 66:104] = True
    result = pipeline("a photo", [subject()], image=photo, mask_image=region, feather_px=4, generator=seeds(1))
    (image,) = arrays(result.images)
    assert image.shape == photo.shape
    assert np.array_equal(image[~near], photo[~near])
    assert np.abs(image - photo)[region].mean() > 5
    (((x0, y0, x1, y1),),) = result.bounds
    assert 70 <= x0 * 120 + 1e-6 < x1 * 120 - 1e-6 <= 100
    assert 30 <= y0 * 90 + 1e-6 < y1 * 90 - 1e-6 <= 60
    by_box = subject(box=(70 / 120, 30 / 90, 100 / 120, 60 / 90))
    again = generate(pipeline, "a photo", by_box, image=photo, feather_px=4)
    assert apart(image, again) == 0


def test_latents_can_be_changed_and_the_run_interrupted(pipeline: SubjectDiffusionPipeline) -> None:
    def zero_at_the_end(pipe: Any, step: int, t: float, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"latents": torch.zeros_like(tensors["latents"])} if step == pipe.num_timesteps - 1 else {}

    changed = pipeline("a photo", [subject()], output_type="latent", callback_on_step_end=zero_at_the_end).images
    assert not changed.any()
    steps: list[int] = []

    def stop(pipe: Any, step: int, t: float, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        steps.append(step)
        pipe._interrupt = step == 1
        return {}

    pipeline("a photo", [subject()], callback_on_step_end=stop)
    assert steps == [0, 1]
    steps.clear()
    pipeline("a photo", [subject()], callback_on_step_end=lambda *given: steps.append(given[1]) or {})
    assert len(steps) == 5


def test_output_types_agree(pipeline: SubjectDiffusionPipeline) -> None:
    of = {
        kind: pipeline("a photo", [subject()], generator=seeds(1), output_type=kind).images
        for kind in ("pil", "np", "pt", "latent")
    }
    assert of["np"].shape == (1, IMAGE_PX, IMAGE_PX, 3)
    assert np.allclose(of["np"][0], of["pt"][0].permute(1, 2, 0).numpy())
    assert np.abs(of["np"][0] * 255 - arrays(of["pil"])[0]).max() <= 0.5001
    assert np.allclose(pipeline._model().decode(of["latent"]).numpy(), of["pt"].numpy(), atol=1e-5)
    as_tuple = pipeline("a photo", [subject()], generator=seeds(1), output_type="np", return_dict=False)
    assert np.array_equal(as_tuple[0], of["np"])


def test_given_latents_and_text_conditions_replace_the_noise_and_the_prompt(
    pipeline: SubjectDiffusionPipeline,
) -> None:
    noise = initial_noise(seeds(1), (4, LATENT, LATENT), torch.device("cpu"))
    image = generate(pipeline, "a photo", subject(), negative_prompt="rain")
    by_latents = pipeline("a photo", [subject()], negative_prompt="rain", latents=noise).images
    assert apart(image, arrays(by_latents)[0]) == 0
    positive, negative = pipeline.encode_prompt("a photo", [subject()], "rain")
    given = {"prompt_embeds": positive, "negative_prompt_embeds": negative}
    by_conditions = pipeline(subjects=[subject()], generator=seeds(1), **given).images
    assert apart(image, arrays(by_conditions)[0]) <= 1
    with pytest.raises(ValueError, match="give what `encode_prompt` returns"):
        pipeline(subjects=[subject()], prompt_embeds=positive[:, :3])


def test_attention_maps_add_up_to_what_the_tokens_get(pipeline: SubjectDiffusionPipeline) -> None:
    two = [subject(box=(0.0, 0.0, 0.5, 1.0)), subject("cat", seed=1, box=(0.5, 0.0, 1.0, 1.0))]
    result = pipeline(["a photo", "snow"], [two, []], attention=True)
    assert result.attention.shape == (2, 2, LATENT, LATENT)
    assert 0 < result.attention[0].min() < result.attention[0].max() < 1
    assert not result.attention[1].any()
    assert pipeline("a photo", two).attention is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_close(build: Build, dtype: torch.dtype) -> None:
    subjects = [subject(), subject("cat", seed=1)]
    exact, half = (quiet(trained(build())) for _ in range(2))
    assert half.to(dtype).dtype is dtype
    difference = generate(exact, "a photo", *subjects) - generate(half, "a photo", *subjects)
    assert np.abs(difference).mean() < 8


def test_components_make_an_equal_pipeline(pipeline: SubjectDiffusionPipeline) -> None:
    other = SubjectDiffusionPipeline(**pipeline.components, **pipeline.parameters)
    other.set_progress_bar_config(disable=True)
    assert apart(generate(pipeline, "a photo", subject()), generate(other, "a photo", subject())) == 0
    third = SubjectDiffusionPipeline.from_pipe(pipeline)
    third.set_progress_bar_config(disable=True)
    assert apart(generate(pipeline, "a photo", subject()), generate(third, "a photo", subject())) == 0


def test_a_saved_model_makes_the_same_images(pipeline: SubjectDiffusionPipeline, tmp_path: Path) -> None:
    pipeline.register_to_config(text_guidance=2.5)
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)
    pipeline.save_pretrained(tmp_path / "model")
    loaded = SubjectDiffusionPipeline.from_pretrained(tmp_path / "model")
    assert loaded.parameters == pipeline.parameters
    assert type(loaded.scheduler) is DPMSolverMultistepScheduler
    assert apart(generate(pipeline, "a photo", subject()), generate(loaded, "a photo", subject())) == 0
    pipeline.save_pretrained(tmp_path / "model")  # over itself
    (tmp_path / "model" / "model_index.json").unlink()  # as before there was an index
    old = SubjectDiffusionPipeline.from_pretrained(tmp_path / "model", num_inference_steps=STEPS, text_guidance=2.5)
    assert apart(generate(pipeline, "a photo", subject()), generate(old, "a photo", subject())) == 0


def test_a_variant_in_half_precision_lies_beside_the_plain_files(
    pipeline: SubjectDiffusionPipeline, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    pipeline.save_pretrained(folder)
    whole = generate(pipeline, "a photo", subject())
    pipeline.to(torch.float16).save_pretrained(folder, variant="fp16")
    assert len(list(folder.rglob("*.fp16.safetensors"))) == 5
    half = SubjectDiffusionPipeline.from_pretrained(folder, variant="fp16", dtype=torch.float16)
    assert {part.dtype for part in half.components.values() if hasattr(part, "dtype")} == {torch.float16}
    mixed = SubjectDiffusionPipeline.from_pretrained(folder, dtype={"unet": torch.bfloat16, "default": torch.float16})
    assert (mixed.unet.dtype, mixed.vae.dtype) == (torch.bfloat16, torch.float16)
    again = SubjectDiffusionPipeline.from_pretrained(folder)
    assert apart(whole, generate(again, "a photo", subject())) == 0
    with pytest.raises(ModelWeightsError, match="no files of the variant 'fp8'"):
        SubjectDiffusionPipeline.from_pretrained(folder, variant="fp8")


def test_half_precision_is_loaded_without_the_whole_in_float32(build: Build, tmp_path: Path) -> None:
    """Files in float16 are mapped; only converted weights are new tensors."""
    quiet(trained(build())).to(torch.float16).save_pretrained(tmp_path / "model")
    with DeviceBytes("cpu") as mapped:
        half = SubjectDiffusionPipeline.from_pretrained(tmp_path / "model", dtype=torch.float16)
    with DeviceBytes("cpu") as converted:
        SubjectDiffusionPipeline.from_pretrained(tmp_path / "model")
    weights = sum(weight_bytes(part) for part in half.components.values() if isinstance(part, torch.nn.Module))
    assert mapped.bytes < 0.5 * weights < converted.bytes


def test_a_folder_of_another_pipeline_and_a_missing_model_are_refused(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    with pytest.raises(ModelWeightsError):
        SubjectDiffusionPipeline.from_pretrained(tmp_path)
    with pytest.raises(ModelWeightsError, match="is no folder, and loading it from the hub failed"):
        SubjectDiffusionPipeline.from_pretrained("someone/nothing", local_files_only=True)
    with pytest.raises(ValueError, match="device_map='balanced'"):
        SubjectDiffusionPipeline.from_pretrained(tmp_path, device_map="balanced")


@pytest.mark.parametrize(
    ("offload", "device"),
    [
        ("model", "cpu"),
        ("group", "cpu"),
        pytest.param("model", "cuda", marks=pytest.mark.gpu),
        pytest.param("group", "cuda", marks=pytest.mark.gpu),
        pytest.param("sequential", "cuda", marks=pytest.mark.gpu),  # accelerate cannot offload from the CPU to itself
    ],
)
def test_offloaded_networks_make_the_same_image(build: Build, offload: str, device: str) -> None:
    whole, other = (quiet(trained(build())) for _ in range(2))
    expected = generate(whole.to(device), "a photo", subject(), negative_prompt="rain")
    if offload == "model":
        other.enable_model_cpu_offload(device=device)
    elif offload == "sequential":
        other.enable_sequential_cpu_offload(device=device)
    else:
        other.enable_group_offload(onload_device=torch.device(device), offload_type="leaf_level")
    for _ in range(2):
        assert apart(expected, generate(other, "a photo", subject(), negative_prompt="rain")) <= 1


@pytest.mark.parametrize(
    "settings",
    [
        {"use_adapter": False},
        {"use_location_control": False},
        {"use_image_cls": False},
        {"use_box_coordinates": False},
        {"adapter_feed_forward": True, "null_branches": "zero_tokens", "absent_slots": "null_padded"},
        {"departures": {"patch_positions": True}},
    ],
)
def test_every_kind_of_network_samples_at_any_size(build: Build, settings: dict[str, object], tmp_path: Path) -> None:
    pipeline = quiet(trained(build(**settings)))
    for size in ({}, {"height": 48, "width": 32}):
        made = pipeline(["a photo", "snow"], [[subject()], []], generator=seeds(1, 2), **size).images
        assert all(np.asarray(one).std() > 1 for one in made)
    pipeline.save_pretrained(tmp_path / "model")
    loaded = SubjectDiffusionPipeline.from_pretrained(tmp_path / "model")
    assert apart(generate(pipeline, "a photo", subject()), generate(loaded, "a photo", subject())) <= 1


@pytest.mark.slow
@pytest.mark.usefixtures("untyped")
def test_compiles_once_and_without_a_graph_break(pipeline: SubjectDiffusionPipeline) -> None:
    eager = generate(pipeline, "a photo", subject())
    counted = CompileCounter()
    pipeline.unet.compile(backend=counted, fullgraph=True)
    compiled = generate(pipeline, "a photo", subject())
    assert counted.frame_count == 1
    assert apart(compiled, eager) <= 1
