"""The `official` preset computes what the released code computes: against plain restatements of it.

The restatements follow OPPO-Mente-Lab/Subject-Diffusion at f4c44b8 in what it computes, one loop at a time, and share
no code with `model`.
"""

import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from infra.config import load
from model.config import EntityTokens, FourierOrder, ModelConfig, TemplateTokens
from model.inputs.prompt import Prompt, PromptTokenizer, clip_tokenizer
from model.networks.adapter import fourier
from model.networks.attention_maps import MapRecorder, cross_attention_map
from model.subject_diffusion import SubjectDiffusion
from tests.small_model import LATENT, small_config
from tests.unit.model.test_config import CONFIGS, Model

Array = NDArray[np.float64]
PX, HEADS, TOKENS = 64, 2, 77
"""Sides of a training image, and of an attention layer."""
SIDES = (8, 8, 4, 2)
"""Of the maps of four layers."""


def official() -> ModelConfig:
    return load(Model, CONFIGS / "official.toml").model


@pytest.fixture(scope="module")
def net(base_folder: Path) -> SubjectDiffusion:
    """The small network under the official preset."""
    settings = official().model_dump()
    parts = {"base", "base_revision", "image_encoder", "image_encoder_revision"}
    return SubjectDiffusion.from_base(
        small_config(base_folder, **{name: value for name, value in settings.items() if name not in parts})
    )


# The attention loss


def triangle_weights(pixels: int, cells: int) -> Array:
    """What each cell takes of each pixel when a line of pixels shrinks bilinearly with antialiasing."""
    scale = pixels / cells
    weights = np.zeros((cells, pixels))
    for cell in range(cells):
        for pixel in range(pixels):
            weights[cell, pixel] = max(0.0, 1.0 - abs(pixel + 0.5 - (cell + 0.5) * scale) / scale)
    return weights / weights.sum(axis=1, keepdims=True)


def released_attention_loss(
    layers: Sequence[Array], masks: Array, tokens: Sequence[Sequence[int]], is_there: NDArray[np.bool_]
) -> float:
    """Balanced localization loss of the released code.

    Args:
        layers: probabilities [B, heads, positions, text tokens].
        masks: [B, subjects, PX, PX], 0 or 1.
        tokens: of each image its subjects' placeholders, then the tokens two places before each.
        is_there: by image and token; false for empty slots and for images whose text was dropped.
    """
    means = []
    for probabilities in layers:
        side = math.isqrt(probabilities.shape[2])
        weights = triangle_weights(masks.shape[-1], side)
        images = []
        for image, probability in enumerate(probabilities):
            total = np.zeros(len(probability))
            for slot, token in enumerate(tokens[image]):
                inside = (weights @ masks[image, slot % masks.shape[1]] @ weights.T).reshape(-1)
                outside = 1.0 - inside
                for head, looks in enumerate(probability[:, :, token]):
                    background = (looks * outside).sum() / (outside.sum() + 1e-5)
                    entity = (looks * inside).sum() / (inside.sum() + 1e-5)
                    total[head] += (background - entity) * is_there[image, slot]
            images.append((total / (is_there[image].sum() + 1e-5)).mean())
        means.append(np.mean(images))
    return float(np.mean(means))


def blobs(images: int, subjects: int, seed: int) -> Array:
    rng = np.random.default_rng(seed)
    centre, radius = rng.uniform(10, 54, (2, images, subjects, 1, 1)), rng.uniform(4, 20, (images, subjects, 1, 1))
    yy, xx = np.mgrid[:PX, :PX]
    return ((yy - centre[0]) ** 2 + (xx - centre[1]) ** 2 < radius**2).astype(np.float64)


def test_attention_loss(net: SubjectDiffusion) -> None:
    """Four images: two subjects, one, two with the text dropped, two whose second mask is empty."""
    labels = [["dog", "fire hydrant"], ["cat", None], ["dog", "cat"], ["bird", "axolotl"]]
    prompts = net._drop_text(
        net.prompts([Prompt("on grass", one) for one in labels]), torch.tensor([False, False, True, False])
    )
    masks = blobs(4, 2, seed=0)
    masks[3, 1] = 0
    generator = torch.Generator().manual_seed(0)
    layers = [torch.randn(4, HEADS, side**2, TOKENS, generator=generator).mul(3).softmax(-1) for side in SIDES]
    recorder = MapRecorder(prompts.entity_tokens, (LATENT, LATENT))
    for number, (side, probabilities) in enumerate(zip(SIDES, layers, strict=True)):
        ca = cross_attention_map(probabilities, prompts.entity_tokens)
        recorder.maps[str(number)] = ca.unflatten(2, (side, side))
    nothing = torch.zeros(4, 4, LATENT, LATENT)
    ours = net._loss(nothing, nothing, recorder, torch.from_numpy(masks).float())

    tokens = []
    for one in labels:
        places = [p for p in net.prompts.tokenize(Prompt("on grass", one)).placeholder_positions if p >= 0]
        places += [2] * (2 - len(places))
        tokens.append([*places, *(place - 2 for place in places)])
    is_there = np.array([[True] * 4, [True, False] * 2, [False] * 4, [True] * 4])
    released = released_attention_loss([layer.double().numpy() for layer in layers], masks, tokens, is_there)
    assert ours.attention.item() == pytest.approx(released, abs=1e-6)
    assert ours.total.item() == pytest.approx(0.01 * released, abs=1e-6)


# The adapter's code of a box


def released_box_code(box: Sequence[float]) -> list[float]:
    """Frequency by frequency: the sines of the four coordinates, then their cosines."""
    code = []
    for number in range(8):
        frequency = 100 ** (number / 8)
        code += [math.sin(frequency * coordinate) for coordinate in box]
        code += [math.cos(frequency * coordinate) for coordinate in box]
    return code


def test_box_code(net: SubjectDiffusion) -> None:
    assert net.subject_tokens is not None
    boxes = torch.tensor([[[0.0, 0.25, 0.5, 1.0], [0.1, 0.9, 0.33, 0.77]]])
    both = torch.ones(1, 2, dtype=torch.bool)
    ours = net.subject_tokens._positions(boxes, both)[0, :, 0]
    assert ours.tolist() == [pytest.approx(released_box_code(box), abs=1e-5) for box in boxes[0].tolist()]
    by_coordinate = fourier(boxes, FourierOrder.BY_COORDINATE)
    assert torch.equal(by_coordinate.sort().values, fourier(boxes, FourierOrder.BY_FREQUENCY).sort().values)
    assert not torch.equal(by_coordinate, fourier(boxes, FourierOrder.BY_FREQUENCY))


# The location mask


def released_location_mask(boxes: NDArray[np.int64], cell_px: int) -> Array:
    """Boxes of whole pixels, the last one included, painted 0 on 1; then the first pixel of each cell."""
    painted = np.ones((PX, PX))
    for x0, y0, x1, y1 in boxes:
        painted[y0 : y1 + 1, x0 : x1 + 1] = 0
    return painted[::cell_px, ::cell_px]


@pytest.mark.parametrize("seed", range(20))
def test_location_mask(net: SubjectDiffusion, seed: int) -> None:
    rng = np.random.default_rng(seed)
    corners = np.sort(rng.integers(0, PX, (2, 2, 2)), axis=1)
    boxes = corners.reshape(2, 4)
    cell_px = net.latent_downsampling
    shares = torch.from_numpy(boxes / PX).float()[None]
    ours = net.location_mask(
        shares, torch.zeros(1, 2, 4, 4), torch.ones(1, 2, dtype=torch.bool), (PX // cell_px, PX // cell_px)
    )
    assert np.array_equal(ours[0, 0].numpy(), released_location_mask(boxes, cell_px))


# The prompt


tokenizer = cache(clip_tokenizer)


def released_prompt(text: str, labels: Sequence[str]) -> tuple[list[int], list[int], list[int]]:
    """Token ids of the whole prompt, the places of "sks", and those of the labels' last tokens."""
    whole = text.strip() + "".join(f", the {label} is sks" for label in labels)
    ids = tokenizer()(whole, padding="max_length", max_length=TOKENS, truncation=True).input_ids
    places = [place for place, token in enumerate(ids) if token == 48136]
    return ids, places, [place - 2 for place in places]


@pytest.mark.parametrize(
    "text",
    [
        *["a dog and a cat on grass", "a dog and a cat.", "a dog and a cat!!!", 'a "dog" and a (cat)', "", "  ", "…"],
        *["a dog 🐶", "a dog 🐶🐶, a cat 🐱", "🐶", "dog's", " a dog,  a cat. ", "a dog & a cat ;-)", "chien, été"],
    ],
)
@pytest.mark.parametrize("labels", [["dog"], ["fire hydrant", "cat"], ["u.s. flag", "🐱 toy"]])
def test_template(net: SubjectDiffusion, text: str, labels: list[str]) -> None:
    ids, placeholders, last_label_tokens = released_prompt(text, labels)
    one = net.prompts.tokenize(Prompt(text, labels))
    tokens = net.prompts.stack([one])
    assert tokens.token_ids[0].tolist() == ids
    assert tokens.placeholder_positions[0].tolist() == placeholders
    assert [positions[-1] for positions in one.label_positions] == last_label_tokens


@pytest.mark.parametrize("text", ["wow " * 90, "🐶 " * 60, "🐶!" * 40, "!!!!" * 40])
def test_a_text_that_is_too_long_is_cut_where_the_released_code_fails(text: str) -> None:
    prompts = PromptTokenizer(tokenizer(), "sks", TOKENS, EntityTokens.LABEL_AND_PLACEHOLDER, TemplateTokens.WHOLE)
    one = prompts.tokenize(Prompt(text, ["dog", "cat"]))
    assert 70 <= len(one.token_ids) <= TOKENS
    assert text.endswith(one.cut)
    ids, placeholders, _ = released_prompt(text.removesuffix(one.cut), ["dog", "cat"])
    assert list(one.token_ids) == ids[: len(one.token_ids)]
    assert list(one.placeholder_positions) == placeholders
