"""The location mask is binary, has the latent's size and ignores absent slots."""

import pytest
import torch

from model.config import LocationMarks
from model.inputs.boxes import exact_box_masks
from model.networks.location import concatenate_location_mask, ignore_location_mask, overlay_regions

BOTH = torch.ones(1, 2, dtype=torch.bool)


def test_a_box_fills_the_positions_whose_centre_it_holds():
    box = torch.tensor([[[0.25, 0.5, 0.75, 1.0]]])
    expected = torch.zeros(4, 8)
    expected[2:, 2:6] = 1.0
    assert torch.equal(exact_box_masks(box, (4, 8))[0, 0], expected)


def test_subjects_are_overlaid():
    regions = torch.zeros(1, 2, 8, 8)
    regions[0, 0, :4, :4], regions[0, 1, 2:6, 2:6] = 1.0, 1.0
    l_m = overlay_regions(regions, BOTH, (8, 8), LocationMarks.SUBJECT)
    assert l_m.sum() == 16 + 16 - 4
    assert set(l_m.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(overlay_regions(regions, BOTH, (8, 8), LocationMarks.BACKGROUND), 1.0 - l_m)


def test_a_position_is_a_subjects_where_half_of_it_is():
    regions = torch.zeros(1, 1, 8, 8)
    regions[..., :3] = 1.0  # covers one and a half positions of two
    l_m = overlay_regions(regions, BOTH[:, :1], (4, 4), LocationMarks.SUBJECT)
    assert l_m[0, 0, 0].tolist() == [1, 1, 0, 0]


@pytest.mark.parametrize("marks", LocationMarks)
def test_what_an_absent_slot_holds_has_no_effect_not_even_nan(marks):
    regions = (torch.rand(1, 2, 16, 16) > 0.5).float()
    present = torch.tensor([[True, False]])
    clean = overlay_regions(regions, present, (8, 8), marks)
    regions[:, 1] = torch.nan
    assert torch.equal(clean, overlay_regions(regions, present, (8, 8), marks))


def test_a_box_that_is_nan_marks_nothing():
    assert exact_box_masks(torch.full((1, 1, 4), torch.nan), (4, 4)).sum() == 0


def test_the_mask_is_a_fifth_channel():
    z_t, l_m = torch.randn(2, 4, 8, 8), torch.ones(2, 1, 8, 8)
    assert torch.equal(concatenate_location_mask(z_t, l_m), torch.cat([z_t, l_m], dim=1))
    assert ignore_location_mask(z_t, l_m) is z_t
