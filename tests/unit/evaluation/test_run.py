"""An evaluation from files to figures, with the trained embedder of the miniature world."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image as PillowImage

from evaluation.benchmarks.benchmark import Benchmark, RelativeBox
from evaluation.embedding_cache import EmbeddingCache
from evaluation.embeddings import embed_files
from evaluation.encoders.encoder import Image
from evaluation.errors import EvaluationError, ImagesError, InvalidProtocol
from evaluation.images import find_images
from evaluation.protocol_catalog import FASTCOMPOSER_IDENTITY
from evaluation.protocols import Comparison, MissingImages, Protocol
from evaluation.report.choices import choices_table
from evaluation.results import Evaluation, read_evaluation
from evaluation.run import Networks, Submission, evaluate
from evaluation.scoring import References
from miniature.scoring.embedder_encoder import EmbedderEncoder
from tests.sprite_benchmark import (
    PROTOCOL,
    SPEC,
    benchmark,
    image_of,
    make_encoder,
    swap_boxes,
    write,
    write_images,
    write_photos,
)

WRONG = ("Missing", "Swapped", "Merged")


@dataclass(frozen=True)
class Setting:
    bench: Benchmark
    photos: References
    images: Path
    encoder: EmbedderEncoder

    def evaluate(self, images: Path, out: Path, protocol: Protocol = PROTOCOL, method: str = "m") -> Evaluation:
        submission = Submission(method, self.bench, find_images(images, self.bench), self.photos)
        networks = Networks({SPEC: self.encoder})
        embed = partial(embed_files, cache=EmbeddingCache(self.images.parent / "cache"))
        (found,) = evaluate(submission, [protocol], networks, out, embed)
        return found


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    folder = tmp_path_factory.mktemp("sprites")
    bench = benchmark()
    write_images(bench, folder / "images")
    return Setting(bench, write_photos(bench, folder / "photos"), folder / "images", make_encoder())


@pytest.fixture(scope="module")
def good(setting: Setting, tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    return setting.evaluate(setting.images, tmp_path_factory.mktemp("good"))


@pytest.fixture
def images(setting: Setting, tmp_path: Path) -> Path:
    """A copy of the images, to plant a defect in."""
    return Path(shutil.copytree(setting.images, tmp_path / "images"))


def values(evaluation: Evaluation) -> dict[str, float]:
    return {name: figure.value for name, figure in evaluation.figures.items()}


def pairs(bench: Benchmark) -> list[int]:
    return [number for number, case in enumerate(bench.cases) if len(case.subjects) == 2]


def test_images_of_a_perfect_model_have_no_defect(good: Evaluation) -> None:
    found = values(good)
    assert {name: found[name] for name in WRONG} == dict.fromkeys(WRONG, 0.0)
    bounds = good.header.bounds["Embedder"]
    assert bounds.ordinary_copy is not None
    assert bounds.exact_copy is not None
    assert found["Embedder copy"] < (bounds.ordinary_copy + bounds.exact_copy) / 2


def test_copies_of_the_input_photo_are_seen_by_the_copy_score_alone(
    setting: Setting, good: Evaluation, images: Path, tmp_path: Path
) -> None:
    alone = [case for case in setting.bench.cases if len(case.subjects) == 1]
    for case in alone:
        for file in (images / case.name).iterdir():
            shutil.copy(setting.photos[case.subjects[0]][0], file)
    found = setting.evaluate(images, tmp_path / "out")
    copied = [score.value for score in found.by_metric["Embedder copy"] if score.case in {case.name for case in alone}]
    ceiling = found.header.bounds["Embedder"].exact_copy
    assert sum(filter(None, copied)) / len(copied) == pytest.approx(ceiling, abs=1e-6)
    assert {name: values(found)[name] for name in WRONG} == dict.fromkeys(WRONG, 0.0)


def test_swapped_subjects_are_seen_by_the_swap_score_alone(setting: Setting, images: Path, tmp_path: Path) -> None:
    for number in pairs(setting.bench):
        case = setting.bench.cases[number]
        write(images / case.name / "0.png", image_of(setting.bench, swap_boxes(case), 0))
    found = values(setting.evaluate(images, tmp_path / "out"))
    assert found["Swapped"] == pytest.approx(len(pairs(setting.bench)) / 2 / len(setting.bench.cases))
    assert (found["Missing"], found["Merged"]) == (0.0, 0.0)


def test_likeness_in_place_is_that_of_the_subject_in_its_box(
    setting: Setting, good: Evaluation, images: Path, tmp_path: Path
) -> None:
    swapped = setting.bench.cases[pairs(setting.bench)[0]]
    write(images / swapped.name / "0.png", image_of(setting.bench, swap_boxes(swapped), 0))
    in_place, whole = (
        {(score.case, score.index): score.value for score in setting.evaluate(images, tmp_path / "out").by_metric[name]}
        for name in ("Embedder in place", "Embedder")
    )
    right = {(score.case, score.index): score.value for score in good.by_metric["Embedder in place"]}
    changed = [place for place, value in in_place.items() if value != pytest.approx(right[place])]
    assert changed == [(swapped.name, 0)]
    assert in_place[swapped.name, 0] < right[swapped.name, 0] - 0.2
    assert all(right[place] > value for place, value in whole.items() if "+" in place[0]), "a region shows one subject"


def test_a_missing_subject_is_seen_by_the_missing_score_alone(setting: Setting, images: Path, tmp_path: Path) -> None:
    for number in pairs(setting.bench):
        case = setting.bench.cases[number]
        one_alone = type(case)(case.name, case.subjects[:1], case.prompt, case.group, case.boxes[:1])
        write(images / case.name / "1.png", image_of(setting.bench, one_alone, 1))
    found = values(setting.evaluate(images, tmp_path / "out"))
    assert found["Missing"] == pytest.approx(len(pairs(setting.bench)) / 2 / len(setting.bench.cases))
    assert (found["Swapped"], found["Merged"]) == (0.0, 0.0)


def test_a_missing_image_is_refused_by_name(setting: Setting, images: Path, tmp_path: Path) -> None:
    name = setting.bench.cases[0].name
    (images / name / "1.png").unlink()
    with pytest.raises(ImagesError, match=rf"1 of 18 images .* {name}/1 \(missing\).*--allow-missing"):
        setting.evaluate(images, tmp_path / "out")


def test_an_image_that_is_left_out_is_counted_and_not_averaged(
    setting: Setting, good: Evaluation, images: Path, tmp_path: Path
) -> None:
    name = setting.bench.cases[0].name
    (images / name / "1.png").write_bytes(b"no image")
    protocol = PROTOCOL.model_copy(update={"missing": MissingImages.LEAVE_OUT})
    found = setting.evaluate(images, tmp_path / "out", protocol)
    assert list(found.header.unscored) == [f"{name}/1"]
    assert "unreadable" in found.header.unscored[f"{name}/1"]
    assert found.figures["Embedder"].images == 17
    kept = {(score.case, score.index): score.value for score in good.by_metric["Embedder"]}
    now = {(score.case, score.index): score.value for score in found.by_metric["Embedder"]}
    assert now.pop((name, 1)) is None
    kept.pop((name, 1))
    assert now == pytest.approx(kept, abs=1e-6)


def test_an_image_that_counts_as_0_lowers_the_average(setting: Setting, images: Path, tmp_path: Path) -> None:
    name = setting.bench.cases[0].name
    (images / name / "1.png").unlink()
    protocol = PROTOCOL.model_copy(update={"missing": MissingImages.ZERO})
    found = setting.evaluate(images, tmp_path / "out", protocol)
    (zero,) = [score for score in found.by_metric["Embedder"] if score.reason]
    assert (zero.case, zero.index, zero.value, zero.reason) == (name, 1, 0.0, "missing")
    assert found.figures["Embedder"].images == 18


def test_an_unreadable_photo_is_refused_by_name(setting: Setting, tmp_path: Path) -> None:
    name, files = next(iter(setting.photos.items()))
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    photos = {**setting.photos, name: (broken, *files[1:])}
    changed = Setting(setting.bench, photos, setting.images, setting.encoder)
    with pytest.raises(ImagesError, match=r"broken\.png: this photo of"):
        changed.evaluate(setting.images, tmp_path / "out")


def test_each_comparison_leaves_out_what_it_says(setting: Setting, tmp_path: Path) -> None:
    """Exact copies of the input score 1 against the input alone, less against all, and least against the others."""
    copies = tmp_path / "copies"
    for case in setting.bench.cases:
        for index in range(setting.bench.images_per_case):
            (copies / case.name).mkdir(parents=True, exist_ok=True)
            shutil.copy(setting.photos[case.subjects[0]][0], copies / case.name / f"{index}.png")
    found = {}
    for comparison in Comparison:
        protocol = PROTOCOL.model_copy(update={"comparison": comparison, "name": comparison.value})
        evaluation = setting.evaluate(copies, tmp_path / "out", protocol)
        alone = [score for score in evaluation.by_metric["Embedder"] if "+" not in score.subjects]
        found[comparison] = sum(score.value or 0.0 for score in alone) / len(alone), alone[0].pairs
    assert found[Comparison.ONE_IMAGE] == (pytest.approx(1.0, abs=1e-5), 1)
    assert found[Comparison.ALL_REFERENCES][1] == 3
    assert found[Comparison.ALL_BUT_INPUT][1] == 2
    all_three, others = found[Comparison.ALL_REFERENCES][0], found[Comparison.ALL_BUT_INPUT][0]
    assert all_three == pytest.approx((1 + 2 * others) / 3, abs=1e-5)


def test_results_are_read_back_as_they_were_written(setting: Setting, tmp_path: Path) -> None:
    written = setting.evaluate(setting.images, tmp_path / "out")
    assert read_evaluation(tmp_path / "out" / "sprites") == written


def test_another_method_does_not_overwrite_results(setting: Setting, tmp_path: Path) -> None:
    setting.evaluate(setting.images, tmp_path / "out")
    setting.evaluate(setting.images, tmp_path / "out")
    with pytest.raises(EvaluationError, match="give another --out"):
        setting.evaluate(setting.images, tmp_path / "out", method="another")


class WordEncoder:
    """Embeds prompts by their letters, and reads four words."""

    spec = SPEC
    weights_hash = "none"

    def embed_prompts(self, prompts: Sequence[str]) -> torch.Tensor:
        return torch.stack(
            [torch.bincount(torch.tensor([ord(c) % 128 for c in one]), minlength=128) for one in prompts]
        )

    def cut_prompts(self, prompts: Sequence[str]) -> list[str]:
        return [prompt for prompt in prompts if len(prompt.split()) > 4]


def test_prompts_are_scored_and_those_that_are_cut_are_named(setting: Setting, tmp_path: Path) -> None:
    protocol = PROTOCOL.model_copy(update={"prompt_encoder": SPEC})
    submission = Submission("m", setting.bench, find_images(setting.images, setting.bench), setting.photos)
    networks = Networks({SPEC: setting.encoder}, {SPEC: WordEncoder()})
    (found,) = evaluate(submission, [protocol], networks, tmp_path / "out", embed_files)
    assert found.figures["CLIP-T"].images == 18
    assert len(found.header.cut_prompts) > 0
    assert all(len(prompt.split()) > 4 for prompt in found.header.cut_prompts)
    text = " ".join(" ".join(row) for row in choices_table(found.header).rows)
    assert f"so cut {found.header.cut_prompts[0]}" in text


class ContrastDetector:
    """Finds things that differ from the background, from left to right."""

    name = "contrast"

    def detect(self, image: Image, labels: Sequence[str]) -> list[RelativeBox | None]:
        height, width = image.shape[:2]
        far = (np.abs(image.astype(int) - np.median(image, axis=(0, 1))).max(axis=2) > 45).astype(np.uint8)
        _, _, stats, _ = cv2.connectedComponentsWithStats(far)
        large = sorted(stats[1:], key=lambda row: -row[cv2.CC_STAT_AREA])[: len(labels)]
        boxes = [
            (x / width, y / height, (x + w) / width, (y + h) / height) for x, y, w, h, _ in sorted(map(tuple, large))
        ]
        return [*boxes, *[None] * (len(labels) - len(boxes))]


def detect(setting: Setting, images: Path, out: Path) -> dict[str, float]:
    submission = Submission("m", setting.bench, find_images(images, setting.bench), setting.photos)
    networks = Networks({SPEC: setting.encoder}, detector=ContrastDetector())
    (found,) = evaluate(submission, [PROTOCOL], networks, out, embed_files)
    assert found.header.detector == "contrast"
    return values(found)


def test_box_fidelity_falls_with_subjects_out_of_their_boxes(setting: Setting, images: Path, tmp_path: Path) -> None:
    placed = detect(setting, images, tmp_path / "out")["Box IoU"]
    assert placed > 0.6
    for path in images.rglob("*.png"):
        moved = np.roll(np.asarray(PillowImage.open(path)), 40, axis=0)
        write(path, moved)
    assert detect(setting, images, tmp_path / "moved")["Box IoU"] < placed - 0.2


def test_copies_of_the_input_photo_have_the_same_aspect_ratio(setting: Setting, images: Path, tmp_path: Path) -> None:
    turned = detect(setting, images, tmp_path / "out")["Aspect change"]
    for case in setting.bench.cases:
        for index in range(setting.bench.images_per_case):
            shutil.copy(setting.photos[case.subjects[0]][0], images / case.name / f"{index}.png")
    assert detect(setting, images, tmp_path / "copies")["Aspect change"] < turned


class ColourFaces:
    """Takes an image's mean colour for its face; a dark image has none."""

    name = "colour"
    weights_hash = "none"

    def embed_face(self, image: Image) -> np.ndarray | None:
        mean = image.mean(axis=(0, 1)).astype(np.float32)
        return None if mean.max() < 20 else mean


def test_identity_is_0_for_an_image_without_a_face(setting: Setting, tmp_path: Path) -> None:
    alone = tuple(case for case in setting.bench.cases if len(case.subjects) == 1)
    bench = replace(setting.bench, cases=alone, images_per_case=2)
    for case in alone:
        write(tmp_path / case.name / "0.png", np.asarray(PillowImage.open(setting.photos[case.subjects[0]][0])))
        write(tmp_path / case.name / "1.png", np.zeros((32, 32, 3), np.uint8))
    submission = Submission("m", bench, find_images(tmp_path, bench), setting.photos)
    networks = Networks({}, faces=ColourFaces())
    (found,) = evaluate(submission, [FASTCOMPOSER_IDENTITY], networks, tmp_path / "out", embed_files)
    assert [score.value for score in found.by_metric["identity"][:2]] == [pytest.approx(1), 0.0]
    assert found.figures["identity"].value == pytest.approx(0.5)
    assert found.header.weights == {"colour": "none"}
    everyone = Submission("m", setting.bench, find_images(setting.images, setting.bench), setting.photos)
    with pytest.raises(InvalidProtocol, match="has 2 people"):
        evaluate(everyone, [FASTCOMPOSER_IDENTITY], networks, tmp_path / "pairs", embed_files)
