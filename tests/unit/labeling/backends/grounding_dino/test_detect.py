"""From a network's answers to boxes; the network here is a function that says what the test wants."""

import math

import pytest
import torch
from torch import Tensor

from labeling.backends.grounding_dino.detect import PreparedImage, PromptedDetector, best_labels, select_boxes
from labeling.backends.grounding_dino.prompt import PromptBatch, PromptWriter
from labeling.config import DetectConfig
from miniature.networks.vocabulary import detection_vocabulary

NOUNS = [f"noun{i}" for i in range(60)]
VOCABULARY = detection_vocabulary(NOUNS)
OPEN = DetectConfig(box_threshold=0.0, nms_iou=1.0)


def blank(width_px: int = 200, height_px: int = 100, side: int = 8) -> PreparedImage:
    return PreparedImage(torch.zeros(3, side, side), width_px=width_px, height_px=height_px)


def answer(*rows: tuple[float, ...]) -> Tensor:
    """Rows of score, label, cx, cy, w, h."""
    return torch.tensor(rows)


class Finds:
    """Finds each noun of a prompt in one box, whose height tells the noun; remembers the batches it saw."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def __call__(self, pixels: Tensor, prompts: PromptBatch) -> tuple[Tensor, Tensor]:
        self.shapes.append(tuple(pixels.shape))
        batch, tokens = prompts.token_ids.shape
        logits = torch.full((batch, tokens, 256), -math.inf)
        logits[:, :, :tokens] = torch.eye(tokens) * 8 - 4  # query t finds token t
        heights = (prompts.token_ids.float() + 1) / 4000
        half = torch.full_like(heights, 0.5)
        return logits, torch.stack([half, half, half, heights], dim=-1)


def detector(network: Finds, config: DetectConfig = OPEN, max_tokens: int = 64) -> PromptedDetector:
    writer = PromptWriter(VOCABULARY.tokenizer(), max_tokens)
    return PromptedDetector(network, writer, torch.device("cpu"), config)


def test_a_label_is_scored_by_its_own_tokens_only() -> None:
    logits = torch.tensor([[[9.0, 1.0, -1.0, 9.0, 0.0, 9.0]]])
    score, label = best_labels(logits, torch.tensor([[-1, 0, 0, -1, 1, -1]]), labels=2)
    assert label.item() == 0
    assert score.item() == pytest.approx(1 / (1 + math.exp(-1.0)))


def test_a_box_belongs_to_its_best_label() -> None:
    logits = torch.tensor([[[0.0, 1.0, 5.0], [2.0, 1.0, -5.0]]])
    score, label = best_labels(logits, torch.tensor([[0, 1, 2]]), labels=3)
    assert label.tolist() == [[2, 0]]
    assert score[0, 1].item() == pytest.approx(1 / (1 + math.exp(-2.0)))


def test_boxes_are_pixels_of_the_upright_image_and_clipped_to_it() -> None:
    inside, across = select_boxes(
        answer((0.9, 3, 0.5, 0.5, 0.2, 0.4), (0.8, 0, 0.9, 0.1, 0.4, 0.6)), blank(), NOUNS, OPEN
    )
    assert (inside.label_index, inside.box) == (3, pytest.approx((80, 30, 120, 70)))
    assert across.box == pytest.approx((140, 0, 200, 40))


@pytest.mark.parametrize(
    "row",
    [
        (0.9, 0, math.nan, 0.5, 0.2, 0.2),
        (math.nan, 0, 0.5, 0.5, 0.2, 0.2),
        (0.9, 0, 0.5, 0.5, math.inf, 0.2),
        (0.9, 0, 0.5, 0.5, 0.0, 0.2),
        (0.9, 0, 0.5, 0.5, 0.2, -0.1),
        (0.9, 0, 1.5, 0.5, 0.2, 0.2),
        (0.9, 0, 0.5, -0.5, 0.2, 0.2),
    ],
)
def test_what_is_no_box_inside_the_image_is_left_out(row: tuple[float, ...]) -> None:
    good = (0.5, 1, 0.5, 0.5, 0.2, 0.2)
    assert [f.label_index for f in select_boxes(answer(row, good), blank(), NOUNS, OPEN)] == [1]
    assert select_boxes(answer(row), blank(), NOUNS, OPEN) == []


def test_scores_below_the_threshold_are_left_out() -> None:
    rows = answer((0.249, 0, 0.2, 0.5, 0.1, 0.1), (0.25, 1, 0.5, 0.5, 0.1, 0.1), (0.9, 2, 0.8, 0.5, 0.1, 0.1))
    kept = select_boxes(rows, blank(), NOUNS, DetectConfig(box_threshold=0.25))
    assert [f.label_index for f in kept] == [2, 1]


def test_a_label_with_a_threshold_of_its_own_is_judged_by_it_alone() -> None:
    rows = answer((0.1, 0, 0.2, 0.5, 0.1, 0.1), (0.5, 1, 0.5, 0.5, 0.1, 0.1), (0.5, 2, 0.8, 0.5, 0.1, 0.1))
    config = DetectConfig(box_threshold=0.25, label_thresholds={"noun0": 0.05, "noun1": 0.6})
    assert [f.label_index for f in select_boxes(rows, blank(), NOUNS, config)] == [2, 0]


def test_of_overlapping_boxes_the_better_stays_whatever_its_label() -> None:
    rows = answer((0.6, 0, 0.5, 0.5, 0.4, 0.4), (0.7, 1, 0.52, 0.5, 0.4, 0.4), (0.5, 0, 0.1, 0.1, 0.1, 0.1))
    assert [f.label_index for f in select_boxes(rows, blank(), NOUNS, DetectConfig(nms_iou=0.5))] == [1, 0]
    assert [f.label_index for f in select_boxes(rows, blank(), NOUNS, DetectConfig(nms_iou=0.95))] == [1, 0, 0]


def test_sixty_nouns_in_several_prompts_are_all_found() -> None:
    network = Finds()
    (boxes,) = detector(network, DetectConfig(box_threshold=0.5, nms_iou=1.0), max_tokens=40).detect([blank()], [NOUNS])
    assert {f.label_index: round(f.box[3] - f.box[1], 3) for f in boxes} == {
        i: round((VOCABULARY.ids[noun] + 1) / 40, 3) for i, noun in enumerate(NOUNS)
    }
    assert len(network.shapes) == 4


def test_boxes_of_several_prompts_suppress_each_other() -> None:
    (boxes,) = detector(Finds(), DetectConfig(box_threshold=0.5, nms_iou=0.3), max_tokens=4).detect([blank()], [NOUNS])
    assert len(boxes) < 20


def test_images_share_a_batch_with_their_own_size_only_and_never_more_than_were_given() -> None:
    network = Finds()
    images = [blank(side=8), blank(side=16), blank(side=8), blank(side=8), blank(side=16)]
    labels = [NOUNS, ["noun1"], ["noun2"], [], ["noun3", "noun4"]]
    boxes = detector(network, DetectConfig(box_threshold=0.5, nms_iou=1.0), max_tokens=20).detect(images, labels)
    assert [len(found_) for found_ in boxes] == [60, 1, 1, 0, 2]
    assert {shape[2] for shape in network.shapes} == {8, 16}
    assert max(shape[0] for shape in network.shapes) == len(images)
    assert sum(shape[0] for shape in network.shapes if shape[2] == 16) == 2


def test_images_without_nouns_need_no_network() -> None:
    network = Finds()
    assert detector(network).detect([blank(), blank()], [[], []]) == [[], []]
    assert network.shapes == []
