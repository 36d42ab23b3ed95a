"""Conditions are dropped with the probabilities of the settings, and the events exclude each other."""

import pytest
import torch

from model.config import DropConfig
from model.objective.drop import DropMasks, draw_drops

IMAGES = 100_000
SHARES_OF_THE_PAPER = {
    (True, False, False): 0.05,
    (False, True, False): 0.05,
    (False, False, True): 0.05,
    (True, True, True): 0.05,
    (False, False, False): 0.8,
}


def shares(config: DropConfig) -> dict[tuple[bool, bool, bool], float]:
    """How often each combination of (text, image, layout) is dropped."""
    return shares_in([draw_drops(IMAGES, config, torch.device("cpu"), torch.Generator().manual_seed(0))])


def shares_in(batches: list[DropMasks]) -> dict[tuple[bool, bool, bool], float]:
    masks = torch.cat([torch.stack([dropped.text, dropped.image, dropped.layout], dim=1) for dropped in batches])
    rows, counts = masks.unique(dim=0, return_counts=True)
    return {tuple(row): count / len(masks) for row, count in zip(rows.tolist(), counts.tolist(), strict=True)}


def test_text_image_and_layout_each_and_all_with_0_05():
    assert shares(DropConfig()) == pytest.approx(SHARES_OF_THE_PAPER, abs=0.005)


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


@pytest.mark.parametrize(("images", "fixed"), [(9, 0), (10, 1), (12, 1), (20, 2), (32, 3)])
def test_a_fixed_number_of_rows_is_without_image_and_the_probabilities_stay(images, fixed):
    generator, config = torch.Generator().manual_seed(0), DropConfig(fixed_rows=True)
    batches = [draw_drops(images, config, torch.device("cpu"), generator) for _ in range(40_000 // images)]
    assert {dropped.last_without_image for dropped in batches} == {fixed}
    assert all(dropped.image[images - fixed :].all() for dropped in batches)
    assert shares_in(batches) == pytest.approx(SHARES_OF_THE_PAPER, abs=0.006)


def test_a_row_is_left_for_the_adapters_whatever_is_dropped():
    config = DropConfig(text=0, image=0, layout=0, all=1, fixed_rows=True)
    dropped = draw_drops(4, config, torch.device("cpu"), None)
    assert dropped.last_without_image == 3
    assert dropped.image.all()
    assert dropped.text.all()
