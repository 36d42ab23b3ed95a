"""What the networks' inputs cost beside the networks. Results: docs/benchmarks/feeding.md."""

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers import BlipImageProcessor, GroundingDinoImageProcessor

from labeling.backends.blip2 import Blip2Captioner
from labeling.backends.grounding_dino.package import PREPROCESSING
from labeling.backends.load import load_detector
from labeling.backends.pixel_values import prepare_pixels
from labeling.config import CaptionConfig, DetectConfig, Device
from labeling.execution.batches import Batcher
from labeling.sdd.pixels import MAX_PIXELS, decode, decode_reduced, open_image, upright_image
from labeling.sdd.schema import Detection, Detections, Noun
from labeling.stages.detect import DetectInput, DetectStage
from labeling.stages.networks import Resizing
from miniature.world.names import taught_scenes
from miniature.world.scenes import ScenesConfig, compose
from miniature.world.serve import jpeg as scene_jpeg
from tests.benchmarks.history import Better, Kind, Recorder
from tests.benchmarks.pairs import in_turns
from tests.benchmarks.photographs import enlarged, jpegs, landscape, web_sizes

pytestmark = pytest.mark.bench
IMAGES = 4
MINIATURE = Path(__file__).parents[2] / "miniature/weights"
CAPTIONER = BlipImageProcessor(size={"height": 224, "width": 224})
DETECTOR = GroundingDinoImageProcessor(size=PREPROCESSING)


def decode_by_pillow(encoded: bytes) -> NDArray[np.uint8]:
    """Baseline: pixels copied to an array by Pillow."""
    with open_image(encoded, MAX_PIXELS) as image:
        return np.array(upright_image(image))


def prepare_captioner_by_pillow(image: NDArray[np.uint8]) -> torch.Tensor:
    """Baseline: the image as a Pillow image, which transformers copies to channels first."""
    pixels: torch.Tensor = CAPTIONER(Image.fromarray(image), return_tensors="pt")["pixel_values"][0]
    return pixels


def prepare_detector_by_array(image: NDArray[np.uint8]) -> torch.Tensor:
    """Baseline: the image as an array, which transformers copies to channels first."""
    batch = DETECTOR(images=image, do_pad=False, input_data_format="channels_last", return_tensors="pt")
    pixels: torch.Tensor = batch["pixel_values"][0]
    return pixels


NETWORKS = {
    "captioner": (prepare_captioner_by_pillow, partial(prepare_pixels, CAPTIONER)),
    "detector": (prepare_detector_by_array, partial(prepare_pixels, DETECTOR, do_pad=False)),
}


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.mark.parametrize("megapixels", [2, 12])
@pytest.mark.parametrize("network", NETWORKS)
def test_decode_and_prepare(network: str, megapixels: int, record: Recorder) -> None:
    """CPU time an image: by Pillow's copies and those of transformers, and now. The result is the same to the bit."""
    images = jpegs([landscape(megapixels)] * IMAGES)
    before, after = NETWORKS[network]
    for image in images:
        assert torch.equal(before(decode_by_pillow(image)), after(decode(image)))
    figures = in_turns(
        each(images, lambda image: before(decode_by_pillow(image))), each(images, lambda image: after(decode(image)))
    )
    size = sum(map(len, images)) / len(images) / 1e6
    print(f"\n{network}, {megapixels} MP ({size:.1f} MB), by Pillow and transformers: {figures[0]:.1f} CPU ms")
    record(f"{network}, {megapixels} MP: an image", figures[1], "CPU ms")
    record(f"{network}, {megapixels} MP: by Pillow and transformers over ours", figures[2], better=Better.MORE)
    assert figures[2].median >= 1.0


@pytest.mark.parametrize(("megapixels", "most_ms"), [(2, 8), (12, 30)])
def test_reduced_decoding_for_the_captioner(megapixels: int, most_ms: float, record: Recorder) -> None:
    """CPU-seconds an image with `labeling.caption.reduced_decoding` off and on."""
    images = jpegs([landscape(megapixels)] * IMAGES)
    prepare = NETWORKS["captioner"][1]
    figures = in_turns(
        each(images, lambda image: prepare(decode(image))),
        each(images, lambda image: prepare(decode_reduced(image, 2 * 224))),
    )
    record(f"reduced decoding, {megapixels} MP: an image", figures[1], "CPU ms")
    record(f"whole over reduced decoding, {megapixels} MP", figures[2], better=Better.MORE)
    assert figures[1].median <= most_ms


@pytest.mark.parametrize("megapixels", [2, 12])
def test_captions_of_images_decoded_at_reduced_size(megapixels: int) -> None:
    """Pixels and captions of the miniature captioner for photographs of SD_DREAMBENCH_DIR, or scenes, enlarged."""
    captioner = Blip2Captioner(CaptionConfig(checkpoint=str(MINIATURE / "blip2"), device=Device.CPU))
    whole, reduced = [], []
    for number, picture in enumerate(_pictures()):
        encoded = enlarged(picture, landscape(megapixels), number)
        whole.append(captioner.prepare(decode(encoded)))
        reduced.append(captioner.prepare(decode_reduced(encoded, 2 * captioner.input_px)))
    pairs = zip(_captions(captioner, whole), _captions(captioner, reduced), strict=True)
    changed = [f"{before!r} -> {after!r}" for before, after in pairs if before != after]
    levels = 255 * torch.tensor(CAPTIONER.image_std)[:, None, None]
    difference = (torch.stack(whole) - torch.stack(reduced)).abs() * levels
    print(f"\n{megapixels} MP, {len(whole)} images: pixels differ by {difference.mean():.2f} of 255 levels in the mean")
    print(f"(at most {difference.mean((1, 2, 3)).max():.2f} of an image, {difference.max():.0f} of a pixel)")
    print(f"{len(changed)} captions changed", *changed[:5], sep="\n")
    assert difference.mean() <= 1.0


def _pictures() -> Iterator[NDArray[np.uint8]]:
    if folder := os.environ.get("SD_DREAMBENCH_DIR"):
        yield from (decode(file.read_bytes()) for file in sorted(Path(folder).glob("*/*.jpg")))
    else:
        yield from (compose(seed, taught_scenes()).image for seed in range(100))


def _captions(captioner: Blip2Captioner, prepared: list[torch.Tensor]) -> list[str]:
    return [text for start in range(0, len(prepared), 16) for text in captioner.caption(prepared[start : start + 16])]


@pytest.mark.parametrize(("step_px", "least"), [(1, 0.0), (64, 12.0)])
def test_images_a_call_of_the_detector(step_px: int, least: float, record: Recorder) -> None:
    """Images of one size in a call, of 16, over a shard of 1,024 images with sizes of the web."""
    resizing = Resizing(PREPROCESSING["shortest_edge"], PREPROCESSING["longest_edge"], step_px)
    rows = [Sized(number.to_bytes(16), width, height) for number, (width, height) in enumerate(web_sizes(1024))]
    neighbours = [rows[start : start + 16] for start in range(0, len(rows), 16)]
    batcher = Batcher(resizing, lambda: 16)
    grouped = [batch for row in rows for batch in batcher.add(row)] + list(batcher.rest())
    before, after = (len(rows) / _calls(batches, resizing) for batches in (neighbours, grouped))
    print(f"\nsize_step_px={step_px}, neighbours: {before:.2f} images a call")
    record(f"images a call, size_step_px={step_px}", after, better=Better.MORE, kind=Kind.COUNTED)
    assert after >= max(before, least)


def _calls(batches: Sequence[Sequence[Any]], resizing: Resizing) -> int:
    return sum(len({resizing(row) for row in batch}) for batch in batches)


@dataclass(frozen=True)
class Sized:
    """A row of the detector without its image."""

    key: bytes
    width_px: int
    height_px: int


def test_boxes_of_images_grouped_by_size(tmp_path: Path) -> None:
    """Boxes of the miniature detector in scenes of many sizes: of neighbours, grouped by size, and in steps.

    The step is as large, relative to the shorter side, as 64 px are to 800.
    """
    folder = detector_that_keeps_proportions(tmp_path / "detector")
    rows = [_row(number, size) for number, size in enumerate(web_sizes(64))]
    exact, stepped = (detect_stage(folder, step_px) for step_px in (1, 15))
    before = _boxes(exact, [rows[start : start + 16] for start in range(0, len(rows), 16)])
    after, rounded = _boxes(exact, _grouped(exact, rows)), _boxes(stepped, _grouped(stepped, rows))
    apart = 0.0
    for key, boxes in before.items():
        assert [box.label for box in after[key]] == [box.label for box in boxes]
        apart = max([apart, *(abs(a - b) for pair in zip(boxes, after[key], strict=True) for a, b in _numbers(*pair))])
    count = sum(map(len, before.values()))
    again = sum(_is_among(box, rounded[key]) for key, boxes in before.items() for box in boxes)
    print(f"\n{count} boxes: grouped, they are {apart:.1e} apart (px, score); in steps, {again / count:.3f} are found")
    assert apart <= 1e-2


def detector_that_keeps_proportions(folder: Path) -> Path:
    """The miniature detector, with an image processor that resizes to 192 px, and at most 320 px."""
    shutil.copytree(MINIATURE / "grounding_dino", folder)
    file = folder / "processor_config.json"
    content = json.loads(file.read_text())
    content["image_processor"]["size"] = {"shortest_edge": 192, "longest_edge": 320}
    file.write_text(json.dumps(content))
    return folder


def detect_stage(folder: Path, step_px: int) -> DetectStage[Any]:
    stage = DetectStage(DetectConfig(checkpoint=str(folder), size_step_px=step_px, device=Device.CPU), load_detector)
    stage.setup()
    return stage


def _row(number: int, size: tuple[int, int]) -> DetectInput:
    """A scene of a quarter of a size of the web."""
    width, height = (side // 4 for side in size)
    scene = compose(number, ScenesConfig(width_px=(width, width), height_px=(height, height)))
    nouns = tuple(Noun(label=subject.label, span_start=0, span_end=1) for subject in scene.subjects)
    image = scene_jpeg(scene.image, 90)
    return DetectInput(key=number.to_bytes(16), image=image, width_px=width, height_px=height, nouns=nouns)


def _grouped(stage: DetectStage[Any], rows: Sequence[DetectInput]) -> list[list[Any]]:
    batcher = Batcher(stage.batch_key, lambda: 16)
    return [batch for row in rows for batch in batcher.add(row)] + list(batcher.rest())


def _boxes(stage: DetectStage[Any], batches: Sequence[Sequence[DetectInput]]) -> dict[bytes, tuple[Detection, ...]]:
    outcomes = {
        row.key: outcome
        for batch in batches
        for row, outcome in zip(batch, stage.process([stage.prepare(row) for row in batch]), strict=True)
    }
    return {key: each.detections if isinstance(each, Detections) else () for key, each in outcomes.items()}


def _numbers(first: Detection, second: Detection) -> Iterator[tuple[float, float]]:
    yield first.score, second.score
    yield from ((getattr(first.box, side), getattr(second.box, side)) for side in ("x0", "y0", "x1", "y1"))


def _is_among(box: Detection, found: Sequence[Detection]) -> bool:
    return any(box.label == each.label and box.box.iou(each.box) >= 0.9 for each in found)


def each(images: list[bytes], function: Callable[[bytes], Any]) -> Callable[[], float]:
    """A measurement of the CPU-milliseconds of `function` for each image, after one call to warm up."""
    function(images[0])

    def measure() -> float:
        start = time.process_time()
        for image in images:
            function(image)
        return 1e3 / len(images) * (time.process_time() - start)

    return measure
