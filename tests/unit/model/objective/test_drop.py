"""Conditions are dropped with the probabilities of the settings, and the events exclude each other."""

import pytest
import torch

from model.config import DropConfig
from model.objective.drop import draw_drops

IMAGES = 100_000


def shares(config: DropConfig) -> dict[tuple[bool, bool, bool], float]:
    """How often each combination of (text, image, layout) is dropped."""
    dropped = draw_drops(IMAGES, config, torch.device("cpu"), torch.Generator().manual_seed(0))
    rows, counts = torch.stack([dropped.text, dropped.image, dropped.layout], dim=1).unique(dim=0, return_counts=True)
    return {tuple(row): count / IMAGES for row, count in zip(rows.tolist(), counts.tolist(), strict=True)}


def test_text_image_and_layout_each_and_all_with_0_05():
    expected = {
        (True, False, False): 0.05,
        (False, True, False): 0.05,
        (False, False, True): 0.05,
        (True, True, True): 0.05,
        (False, False, False): 0.8,
    }
    assert shares(DropConfig()) == pytest.approx(expected, abs=0.005)


def test_the_released_codes_events():
    official = DropConfig(text=0.05, image=0.0, layout=0.05, text_and_layout=0.05, all=0.0)
    expected = {
        (True, False, False): 0.05,
        (False, False, True): 0.05,
        (True, False, True): 0.05,
        (False, False, False): 0.85,
    }
    assert shares(official) == pytest.approx(expected, abs=0.005)


def test_nothing_and_everything():
    assert set(shares(DropConfig(text=0, image=0, layout=0, all=0))) == {(False, False, False)}
    assert set(shares(DropConfig(text=0, image=0, layout=0, all=1))) == {(True, True, True)}
