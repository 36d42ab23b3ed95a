"""The pipeline on a small random model of the real classes, saved in the real layouts."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from numpy.typing import NDArray
from PIL import Image
from torch._dynamo.testing import CompileCounter
from transformers import CLIPTextModel, CLIPTokenizer

from infra.precision import Precision
from model.config import LocationMask
from model.errors import PromptError
from model.inputs.layout import Layout
from model.pipeline import GeneratedImage, Request, Subject, SubjectDiffusionPipeline
from model.sampling.config import Interpolation, Phase, SamplingConfig
from model.sampling.denoising import SamplingProgress, initial_noise, seeded_generators
from model.sampling.guidance import Guidance
from model.sampling.original import restore_unet
from model.subject_diffusion import SubjectDiffusion
from model.weights.folders import load_base_unet
from tests.device_bytes import DeviceBytes, weight_bytes
from tests.small_model import IMAGE_PX, LATENT, open_gates

pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")  # diffusers' schedulers on numpy 2
Build = Callable[..., SubjectDiffusion]
QUICK = SamplingConfig(steps=4)


def subject(label: str = "dog", seed: int = 0, **rest: object) -> Subject:
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    mask = np.zeros((40, 40), dtype=bool)
    mask[10:30, 5:25] = True
    return replace(Subject(pixels, mask, label), **rest)  # type: ignore[arg-type]


@pytest.fixture
def pipeline(build: Build) -> SubjectDiffusionPipeline:
    return SubjectDiffusionPipeline(trained(build()))


def trained(net: SubjectDiffusion) -> SubjectDiffusion:
    """Change all trained weights, as training would."""
    torch.manual_seed(3)
    with torch.no_grad():
        for weight in net.parameters():
            if weight.requires_grad:
                weight.add_(0.05 * torch.randn_like(weight))
    return open_gates(net)


def pixels(generated: GeneratedImage) -> NDArray[np.int16]:
    return np.asarray(generated.image).astype(np.int16)


def apart(a: GeneratedImage, b: GeneratedImage) -> int:
    return int(np.abs(pixels(a) - pixels(b)).max())


def test_weights_are_cast_before_they_are_moved(build: Build) -> None:
    """The device never holds a large part in float32; the meta device stands for it."""
    net = build()
    in_float32 = weight_bytes(net)
    with DeviceBytes("meta") as allocated:
        SubjectDiffusionPipeline(net, "meta", Precision.BFLOAT16)
    assert allocated.bytes == weight_bytes(net) < 0.6 * in_float32


def test_makes_an_image_and_reports_its_progress(pipeline: SubjectDiffusionPipeline) -> None:
    seen: list[SamplingProgress] = []
    (made,) = pipeline([Request("a photo", [subject()], seed=1)], QUICK, on_step=seen.append)
    assert made.image.size == (IMAGE_PX, IMAGE_PX)
    assert np.asarray(made.image).std() > 1
    assert [progress.done for progress in seen] == [1, 2, 3, 4, 5]


def test_an_image_is_the_same_alone_and_among_others(pipeline: SubjectDiffusionPipeline) -> None:
    one = Request("a photo", [subject()], seed=1)
    two = Request("two of them in the snow", [subject(seed=1), subject("cat", seed=2)], seed=2)
    none = Request("nothing but snow", [], seed=3)
    together = pipeline([one, two, none], QUICK)
    for request, made in zip([one, two, none], together, strict=True):
        assert apart(pipeline([request], QUICK)[0], made) <= 1
    again = pipeline([none, one, two], QUICK)
    assert [apart(again[(i + 1) % 3], made) for i, made in enumerate(together)] == [0, 0, 0]


def test_an_image_follows_prompt_subject_seed_and_place(pipeline: SubjectDiffusionPipeline) -> None:
    request = Request("a photo", [subject(box=(0.0, 0.0, 0.5, 0.5))], seed=1)
    others = [
        replace(request, prompt="a painting"),
        replace(request, seed=2),
        replace(request, subjects=[subject(seed=9, box=(0.0, 0.0, 0.5, 0.5))]),
        replace(request, subjects=[subject(box=(0.5, 0.5, 1.0, 1.0))]),
        replace(request, subjects=[subject("cat", box=(0.0, 0.0, 0.5, 0.5))]),
    ]
    made, *changed = pipeline([request, *others], QUICK)
    assert all(apart(made, other) > 0 for other in changed)


def test_strength_runs_from_no_adapter_to_more(pipeline: SubjectDiffusionPipeline) -> None:
    def at(strength: float) -> GeneratedImage:
        return pipeline([Request("a photo", [subject(strength=strength)], seed=1)], QUICK)[0]

    assert apart(at(1.0), pipeline([Request("a photo", [subject()], seed=1)], QUICK)[0]) == 0
    assert 0 < apart(at(1.0), at(1.0001)) + apart(at(1.0), at(0.5)) < 2 * 255
    for adapter in pipeline.net.unet.adapters():
        adapter.beta = 0.0
    off = at(1.0)
    for adapter in pipeline.net.unet.adapters():
        adapter.beta = 1.0
    assert apart(at(0.0), off) <= 1


def test_layout_is_reported_and_random_follows_the_seed(pipeline: SubjectDiffusionPipeline) -> None:
    request = Request("a photo", [subject()], seed=1)
    (detected,) = pipeline([request], QUICK, layout="detected")
    assert detected.boxes == detected.bounds == ((0.125, 0.25, 0.625, 0.75),)
    first, second = (pipeline([replace(request, seed=seed)], QUICK, layout=Layout.RANDOM)[0] for seed in (1, 2))
    assert first.boxes != second.boxes
    with pytest.raises(ValueError, match="layout 'auto'"):
        pipeline([request], QUICK, layout="given")
    with pytest.raises(ValueError, match="layout='detekted': choose one of 'given', 'detected', 'random', 'auto'"):
        pipeline([request], QUICK, layout="detekted")


def test_a_box_is_marked_by_the_outline_of_its_subject(pipeline: SubjectDiffusionPipeline) -> None:
    """In a box of .5 x 1, a square subject gets the same bounds as by its own mask at that place."""
    by_box = Request("a photo", [subject(box=(0.25, 0.0, 0.75, 1.0))], seed=1)
    fitted = np.zeros((LATENT, LATENT), dtype=bool)
    fitted[LATENT // 4 : -LATENT // 4, LATENT // 4 : -LATENT // 4] = True
    by_mask = Request("a photo", [subject(place=fitted)], seed=1)
    made, same = pipeline([by_box, by_mask], QUICK)
    assert apart(made, same) == 0
    assert made.boxes == ((0.25, 0.0, 0.75, 1.0),)
    assert made.bounds == same.bounds == ((0.25, 0.25, 0.75, 0.75),)


def test_a_filled_box_comes_with_a_warning_unless_the_model_was_trained_with_boxes(
    pipeline: SubjectDiffusionPipeline, build: Build
) -> None:
    requests = [Request("a photo", [subject(box=(0.25, 0.0, 0.75, 1.0))], seed=1)]
    with pytest.warns(UserWarning, match="marks='box', but this model was trained with outlines") as caught:
        (filled,) = pipeline(requests, QUICK, marks="box")
    assert len(caught) == 1
    assert filled.bounds == filled.boxes
    assert apart(filled, pipeline(requests, QUICK)[0]) > 0
    of_boxes = SubjectDiffusionPipeline(trained(build(location_mask="box")))
    (by_default,), (asked) = of_boxes(requests, QUICK), of_boxes(requests, QUICK, marks=LocationMask.BOX)
    assert by_default.bounds == by_default.boxes == filled.boxes
    assert apart(by_default, asked[0]) == 0
    with pytest.raises(ValueError, match=r"marks='mask', but this model takes whole boxes"):
        of_boxes(requests, QUICK, marks="mask")


def stock(pipeline: SubjectDiffusionPipeline, base: Path, prompt: str, seed: int, scale: float) -> NDArray[np.int16]:
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
    noise = initial_noise(seeded_generators([seed]), (4, LATENT, LATENT), torch.device("cpu"))
    image = parts(prompt, latents=noise, num_inference_steps=4, guidance_scale=scale, output_type="np").images[0]
    return np.asarray(image * 255).round().astype(np.int16)


def test_the_second_line_of_equation_4_is_the_untrained_base(
    pipeline: SubjectDiffusionPipeline, base_folder: Path
) -> None:
    text_alone = QUICK.model_copy(update={"interpolation": Interpolation(alpha=1.0)})
    (made,) = pipeline([Request("a lion in the snow", [subject()], seed=5)], text_alone)
    expected = stock(pipeline, base_folder / "base", "a lion in the snow", 5, scale=3.0)
    assert np.abs(pixels(made) - expected).max() <= 1
    (personalised,) = pipeline([Request("a lion in the snow", [subject()], seed=5)], QUICK)
    assert apart(made, personalised) > 1


def test_interpolation_lies_between_and_has_two_directions(pipeline: SubjectDiffusionPipeline) -> None:
    def at(interpolation: Interpolation | None) -> GeneratedImage:
        settings = QUICK.model_copy(update={"interpolation": interpolation})
        return pipeline([Request("a lion", [subject()], seed=5)], settings)[0]

    assert apart(at(Interpolation(alpha=0.0)), at(None)) == 0
    assert apart(at(Interpolation(alpha=0.0, first=Phase.TEXT)), at(Interpolation(alpha=1.0))) == 0
    half = at(Interpolation(alpha=0.5))
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
    handle = pipeline.net.unet.base.conv_in.register_forward_hook(lambda _, args, __: rows.append(len(args[0])))
    one = QUICK.model_copy(update={"guidance": Guidance(text=1, image=1)})
    pipeline([Request("a photo", [subject()])] * 2, one)
    handle.remove()
    assert set(rows) == {2}


def test_another_scheduler_and_an_unknown_one(pipeline: SubjectDiffusionPipeline) -> None:
    seen: list[SamplingProgress] = []
    request = Request("a photo", [subject()])
    pipeline([request], SamplingConfig(steps=3, scheduler="DPMSolverMultistep"), on_step=seen.append)
    assert seen[-1].total == 3
    with pytest.raises(ValueError, match=r"scheduler='Best'.*DDIM.*PNDM"):
        pipeline([request], SamplingConfig(scheduler="Best"))
    for another_way in ("KarrasVe", "FlowMatchEulerDiscrete", "VQDiffusion"):
        with pytest.raises(ValueError, match=f"scheduler='{another_way}' does not"):
            pipeline([request], SamplingConfig(scheduler=another_way))


def test_the_cut_end_of_a_long_prompt_is_reported(pipeline: SubjectDiffusionPipeline) -> None:
    long = " ".join(f"word{i}" for i in range(200))
    (made,) = pipeline([Request(long, [subject()])], QUICK)
    assert made.cut.endswith("word199")
    (short,) = pipeline([Request("a photo", [subject()])], QUICK)
    assert short.cut == ""


def test_bad_requests_are_refused(pipeline: SubjectDiffusionPipeline) -> None:
    placeholder = pipeline.net.config.placeholder
    with pytest.raises(PromptError, match="holds"):
        pipeline([Request(f"a photo of {placeholder}", [subject()])], QUICK)
    with pytest.raises(ValueError, match="max_subjects=4"):
        pipeline([Request("a crowd", [subject()] * 5)], QUICK)
    assert pipeline([], QUICK) == []


MASK = np.ones((40, 40), dtype=bool)


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"mask": MASK[:30]}, "the mask of 'dog' is 40x30, its picture 40x40: give both in one size"),
        ({"mask": ~MASK}, "the mask of the subject 'dog' is empty"),
        ({"mask": np.dstack([MASK] * 3)}, "the mask of 'dog' has the shape"),
        ({"image": MASK}, "the picture of 'dog' holds bool"),
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


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize("seed", [-1, 1 << 64, 1.5, "7", None])
def test_a_seed_outside_the_generators_range_is_refused(seed: object) -> None:
    with pytest.raises(ValueError, match=re.escape(f"seed={seed!r}: give a whole number from 0 to 2**64 - 1")):
        Request("a photo", seed=seed)  # type: ignore[arg-type]


@pytest.mark.usefixtures("untyped")
def test_the_largest_seed_and_one_of_numpy_are_taken(pipeline: SubjectDiffusionPipeline) -> None:
    by_numpy, largest = Request("a photo", seed=np.int64(7)), Request("a photo", seed=(1 << 64) - 1)  # type: ignore[arg-type]
    made, _, same = pipeline([by_numpy, largest, Request("a photo", seed=7)], SamplingConfig(scheduler="DDIM", steps=1))
    assert apart(made, same) == 0


def test_a_subject_is_the_same_in_every_form(pipeline: SubjectDiffusionPipeline) -> None:
    one = subject(box=(0.1, 0.1, 0.9, 0.9))
    rgba = np.dstack([one.image, np.asarray(one.mask) * np.uint8(255)])
    forms = [
        one,
        replace(one, image=Image.fromarray(one.pixels), mask=Image.fromarray(one.mask), box=[0.1, 0.1, 0.9, 0.9]),
        replace(one, image=one.pixels / 255, mask=np.asarray(one.mask) * 0.9),
        Subject.from_cutout(Image.fromarray(rgba), "dog", box=one.box),
        Subject.from_cutout(rgba, "dog", box=one.box),
    ]
    made, *others = pipeline([Request("a photo", [form]) for form in forms], SamplingConfig(scheduler="DDIM", steps=1))
    assert [apart(made, other) for other in others] == [0, 0, 0, 0]


def test_a_cutout_contains_its_mask() -> None:
    rgba = np.zeros((6, 4, 4), dtype=np.uint8)
    rgba[2:5, 1:3] = (10, 20, 30, 255)
    dog = Subject.from_cutout(Image.fromarray(rgba), "dog")
    assert dog.layout_input.outline.sum() == 6
    assert (dog.pixels[dog.layout_input.outline] == (10, 20, 30)).all()
    with pytest.raises(ValueError, match="no transparency"):
        Subject.from_cutout(Image.fromarray(rgba[..., :3]), "dog")


def test_half_precision_is_close(build: Build) -> None:
    requests = [Request("a photo", [subject()], seed=1), Request("two", [subject(), subject("cat", seed=1)], seed=2)]
    exact = SubjectDiffusionPipeline(trained(build()))(requests, QUICK)
    half = SubjectDiffusionPipeline(trained(build()), precision=Precision.BFLOAT16)(requests, QUICK)
    assert all(np.abs(pixels(a) - pixels(b)).mean() < 8 for a, b in zip(exact, half, strict=True))


def test_a_saved_model_makes_the_same_images(pipeline: SubjectDiffusionPipeline, tmp_path: Path) -> None:
    requests = [Request("a photo", [subject()], seed=1)]
    pipeline.net.save_pretrained(tmp_path / "model")
    loaded = SubjectDiffusionPipeline.from_pretrained(tmp_path / "model")
    assert apart(pipeline(requests, QUICK)[0], loaded(requests, QUICK)[0]) == 0


@pytest.mark.parametrize(
    "settings",
    [
        {"use_adapter": False},
        {"use_location_control": False},
        {"use_image_cls": False},
        {"use_box_coordinates": False},
        {"adapter_feed_forward": True, "null_branches": "zero_tokens", "absent_slots": "null_padded"},
    ],
)
def test_every_kind_of_network_samples(build: Build, settings: dict[str, object]) -> None:
    pipeline = SubjectDiffusionPipeline(trained(build(**settings)))
    made = pipeline([Request("a photo", [subject()], seed=1), Request("snow", [], seed=2)], QUICK)
    assert all(np.asarray(one.image).std() > 1 for one in made)


@pytest.mark.slow
@pytest.mark.usefixtures("untyped")
def test_compiles_once_and_without_a_graph_break(pipeline: SubjectDiffusionPipeline) -> None:
    requests = [Request("a photo", [subject()], seed=1)]
    (eager,) = pipeline(requests, QUICK)
    counted = CompileCounter()
    pipeline.net.unet.compile(backend=counted, fullgraph=True)
    (compiled,) = pipeline(requests, QUICK)
    assert counted.frame_count == 1
    assert apart(compiled, eager) <= 1
