"""Detection by Florence-2 against the chain of transformers' own processor and network, on random weights."""

import math
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Florence2ForConditionalGeneration, Florence2Processor

from infra.weights.files import WeightsState
from labeling.backends.florence2.check import check_detector
from labeling.backends.florence2.detect import Florence2Detector, boxes_of_answer
from labeling.backends.grounding_dino.detect import PreparedImage
from labeling.backends.load import load_detector
from labeling.config import DetectConfig, FlorenceDetection
from labeling.errors import BackendWeightsError
from labeling.stages.networks import DetectedBox
from tests.unit.labeling.backends.florence2.small_network import write_florence2
from tests.unit.labeling.backends.sam.test_backends import picture

NOUNS = ["dog", "cat", "tree"]
WORDS = [
    *NOUNS,
    *(f"<loc_{n}>" for n in range(0, 1000, 10)),
    "Locate",
    "phrases",
    "objects",
    "with",
    "category",
    "name",
]
SEED = 34
"""Seed of weights with which the network writes boxes."""
IMAGES = [picture(50, 70, 0), picture(90, 40, 1), picture(64, 64, 2)]
LENGTH = 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_florence2(tmp_path_factory.mktemp("florence2"), WORDS, SEED)


@pytest.fixture(scope="module")
def processor(folder: Path) -> Florence2Processor:
    return Florence2Processor.from_pretrained(folder)


def config(folder: Path, **others: object) -> DetectConfig:
    settings = {"backend": "florence2", "checkpoint": str(folder), "device": "cpu", "max_new_tokens": LENGTH}
    return DetectConfig.model_validate({**settings, "box_threshold": 0.0, "nms_iou": 1.0, **others})


@cache
def loaded(settings: str) -> Florence2Detector:
    detector = load_detector(DetectConfig.model_validate_json(settings))
    assert isinstance(detector, Florence2Detector)
    return detector


def detect(settings: DetectConfig, images: list[np.ndarray], labels: list[list[str]]) -> list[list[DetectedBox]]:
    detector = loaded(settings.model_dump_json())
    return detector.detect([detector.prepare(image) for image in images], labels)


Reference = list[tuple[str, list[float]]]


@cache
def chain(folder: Path) -> tuple[Florence2ForConditionalGeneration, Florence2Processor]:
    """Network and processor of transformers alone."""
    return Florence2ForConditionalGeneration.from_pretrained(folder).eval(), Florence2Processor.from_pretrained(folder)


@torch.inference_mode()
def reference(
    folder: Path, task: FlorenceDetection, image: np.ndarray, text: str
) -> tuple[Reference, list[int], list[float]]:
    """Boxes with their phrases, the tokens, and the logarithms of their probabilities, by transformers alone."""
    net, processor = chain(folder)
    inputs = processor(images=Image.fromarray(image), text=f"{task.value}{text}", return_tensors="pt")
    written = net.generate(
        **inputs, max_new_tokens=LENGTH, num_beams=1, do_sample=False, return_dict_in_generate=True, output_scores=True
    )
    logs = net.compute_transition_scores(written.sequences, written.scores, normalize_logits=True)[0]
    size = (image.shape[1], image.shape[0])
    answer = processor.post_process_generation(
        sequence=written.sequences[0, 1:].tolist(), task=task.value, image_size=size
    )[task.value]
    labels = answer["labels"] if "labels" in answer else answer["bboxes_labels"]
    return list(zip(labels, answer["bboxes"], strict=True)), written.sequences[0, 1:].tolist(), logs.tolist()


def test_one_noun_at_a_time_finds_the_boxes_of_transformers_own_chain(folder: Path) -> None:
    images, nouns = IMAGES[1:], NOUNS[:2]
    found = detect(config(folder), images, [nouns] * len(images))
    for image, boxes in zip(images, found, strict=True):
        expected = [
            (number, tuple(map(float, box)))
            for number, noun in enumerate(nouns)
            for _, box in reference(folder, FlorenceDetection.ONE_NOUN, image, noun)[0]
        ]
        real = [(number, box) for number, box in expected if box[2] > box[0] and box[3] > box[1]]
        assert sorted((box.label_index, box.box) for box in boxes) == sorted(real)
    assert sum(map(len, found)) > 3
    assert [box.score for box in found[0]] == sorted((box.score for box in found[0]), reverse=True)


@pytest.mark.parametrize("task", [FlorenceDetection.NOUNS, FlorenceDetection.OBJECTS])
def test_boxes_get_the_labels_that_the_answer_names(folder: Path, task: FlorenceDetection) -> None:
    image = IMAGES[1]
    asked = ". ".join(NOUNS) if task is FlorenceDetection.NOUNS else ""
    expected, *_ = reference(folder, task, image, asked)
    (boxes,) = detect(config(folder, task=task), [image], [NOUNS])
    assert boxes == []
    if task is FlorenceDetection.OBJECTS:  # its question does not depend on the labels
        labels = list(dict.fromkeys(phrase for phrase, _ in expected))
        (boxes,) = detect(config(folder, task=task), [image], [[label.upper() for label in labels]])
        real = [(labels.index(phrase), tuple(map(float, box))) for phrase, box in expected if box[2] > box[0]]
        assert boxes
        assert {(box.label_index, box.box) for box in boxes} <= set(real)


def test_a_score_is_the_mean_probability_of_the_four_bins(folder: Path, processor: Florence2Processor) -> None:
    _, written, logs = reference(folder, FlorenceDetection.ONE_NOUN, IMAGES[1], "dog")
    image = PreparedImage(torch.empty(0), width_px=IMAGES[1].shape[1], height_px=IMAGES[1].shape[0])
    expected = [box.score for box in boxes_of_answer(processor, FlorenceDetection.ONE_NOUN, written, logs, image)]
    (boxes,) = detect(config(folder), IMAGES[1:2], [["dog"]])
    assert boxes
    for box in boxes:
        assert any(box.score == pytest.approx(score, abs=1e-5) for score in expected)


@pytest.mark.parametrize("task", list(FlorenceDetection))
@pytest.mark.parametrize(
    ("words", "boxes"),
    [
        (["dog", *range(4), "cat", *range(4, 12)], 3),
        (["dog", *range(5), "cat"], 1),
        ([*range(4), "cat", *range(4)], 1),
        (["dog", "cat"], 0),
        (["tree", *range(3)], 0),
    ],
)
def test_an_answer_is_read_as_the_processor_reads_it(
    processor: Florence2Processor, task: FlorenceDetection, words: list[str | int], boxes: int
) -> None:
    """A number n is a bin of n, whose probability is the (n + 1)th part of 1."""
    tokens = [f"<loc_{10 * word}>" if isinstance(word, int) else word for word in words]
    logs = [-math.log(word + 1) if isinstance(word, int) else 0.0 for word in words]
    ids = processor.tokenizer.convert_tokens_to_ids(["<s>", *tokens, "</s>", "<pad>"])
    image = PreparedImage(torch.empty(0), width_px=640, height_px=480)
    found = boxes_of_answer(processor, task, ids, [-9.0, *logs, -9.0, -9.0], image)
    own = processor.post_process_generation(sequence=ids, task=task.value, image_size=(640, 480))[task.value]
    labels = own["labels"] if "labels" in own else own["bboxes_labels"]
    assert [(each.phrase, list(each.box)) for each in found] == list(zip(labels, own["bboxes"], strict=True))
    assert len(found) == boxes
    if found:
        assert found[0].score == pytest.approx((1 / 24) ** (1 / 4))


def test_a_batch_gives_what_its_images_give_alone(folder: Path) -> None:
    labels = [["dog"], ["cat", "tree"], []]
    together = detect(config(folder), IMAGES, labels)
    alone = [detect(config(folder), [image], [own])[0] for image, own in zip(IMAGES, labels, strict=True)]
    assert [[box.box for box in boxes] for boxes in together] == [[box.box for box in boxes] for boxes in alone]
    assert together[2] == []


def test_thresholds_and_suppression_are_those_of_other_detectors(folder: Path) -> None:
    (everything,) = detect(config(folder), IMAGES[1:2], [NOUNS])
    limit = everything[1].score
    (strict,) = detect(config(folder, box_threshold=limit), IMAGES[1:2], [NOUNS])
    assert strict == [box for box in everything if box.score >= limit]
    (apart,) = detect(config(folder, nms_iou=0.0), IMAGES[1:2], [NOUNS])
    assert apart[0] == everything[0]
    assert len(apart) < len(everything)


def test_weights_are_checked_and_refused(folder: Path) -> None:
    assert check_detector(config(folder)).state == WeightsState.FINE
    with pytest.raises(BackendWeightsError, match=r"labeling\.detect\.checkpoint=.* 'blip-2', not 'florence2'"):
        Florence2Detector(config(Path("miniature/weights/blip2")))


def test_settings_of_florence_2_are_in_the_stamp_of_florence_2_only() -> None:
    other = {"task": FlorenceDetection.OBJECTS, "max_new_tokens": 9}
    assert DetectConfig(**other).fingerprint() == DetectConfig().fingerprint() == "f4ba3c6bf998"
    florence = {"backend": "florence2"}
    assert DetectConfig(**florence, **other).fingerprint() != DetectConfig(**florence).fingerprint()
