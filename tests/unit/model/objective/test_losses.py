"""Eq. 2 and Eq. 3 by hand, and as properties that hold for any maps."""

import pytest
import torch
from jaxtyping import TypeCheckError
from torch import Tensor
from torch.nn import functional as F

from model.config import AttentionLoss, LayerReduction
from model.objective.losses import attention_in_mask, attention_map_loss, training_objective

SIDES = (32, 16, 8)
ALL = torch.ones(1, 1, dtype=torch.bool)


def maps_like(masks: Tensor) -> dict[str, Tensor]:
    return {f"layer{s}": F.interpolate(masks, size=(s, s), mode="area") for s in SIDES}


def constant(value: float) -> dict[str, Tensor]:
    return {f"layer{s}": torch.full((1, 1, s, s), value) for s in SIDES}


def test_axes_that_do_not_fit_are_refused_by_name():
    with pytest.raises(TypeCheckError, match=r"(?s)masks.*K=1"):
        attention_map_loss(constant(0.0), torch.ones(1, 2, 64, 64), ALL)


def test_eq2_is_zero_when_tokens_look_at_their_entities():
    masks = (torch.rand(2, 3, 64, 64) > 0.5).float()
    assert attention_map_loss(maps_like(masks), masks, torch.ones(2, 3, dtype=torch.bool)) == 0


def test_eq2_by_hand_on_three_layers():
    masks = torch.ones(1, 1, 64, 64)
    assert attention_map_loss(constant(0.0), masks, ALL) == 3.0
    assert attention_map_loss(constant(0.25), masks, ALL) == 3 * 0.75
    assert attention_map_loss(constant(0.25), masks, ALL, reduction=LayerReduction.MEAN) == 0.75


def test_eq2_counts_entities_that_are_there():
    masks = torch.ones(2, 2, 64, 64)
    maps = {"layer": torch.zeros(2, 2, 8, 8)}
    maps["layer"][0, 0] = 0.5
    present = torch.tensor([[True, False], [True, False]])
    assert attention_map_loss(maps, masks, present) == (0.5 + 1.0) / 2


def test_eq2_of_the_balanced_form_by_hand():
    masks = torch.zeros(1, 1, 8, 8)
    masks[..., :2] = 1.0  # a quarter
    ca = torch.full((1, 1, 8, 8), 0.1)
    ca[..., :2] = 0.7
    loss = attention_map_loss({"layer": ca}, masks, ALL, AttentionLoss.BALANCED)
    assert loss.item() == pytest.approx(0.1 - 0.7)


@pytest.mark.parametrize("form", AttentionLoss)
def test_an_absent_entity_has_no_effect_not_even_nan(form):
    present = torch.tensor([[True, False]])
    maps, masks = {"layer": torch.rand(1, 2, 8, 8)}, torch.rand(1, 2, 64, 64)
    clean = attention_map_loss(maps, masks, present, form)
    masks[:, 1] = torch.nan
    dirty_maps = {"layer": maps["layer"].clone().requires_grad_()}
    dirty = attention_map_loss(dirty_maps, masks, present, form)
    dirty.backward()
    assert clean == dirty
    assert dirty_maps["layer"].grad.isfinite().all()
    assert (dirty_maps["layer"].grad[:, 1] == 0).all()


@pytest.mark.parametrize("reduction", LayerReduction)
def test_without_entities_or_without_layers_it_is_zero(reduction):
    masks = torch.rand(1, 1, 8, 8)
    assert attention_map_loss(constant(0.3), masks, ~ALL, reduction=reduction) == 0
    assert attention_map_loss({}, masks, ALL, reduction=reduction) == 0


def test_masks_pooled_ahead_give_the_same():
    masks = (torch.rand(1, 1, 64, 64) > 0.7).float()
    maps = {name: torch.rand_like(ca) for name, ca in maps_like(masks).items()}
    pooled = F.interpolate(masks, size=(32, 32), mode="area")
    assert attention_map_loss(maps, masks, ALL).item() == pytest.approx(attention_map_loss(maps, pooled, ALL).item())


def test_eq3_by_hand():
    eps, eps_theta = torch.zeros(1, 4, 2, 2), torch.full((1, 4, 2, 2), 3.0)
    assert training_objective(eps, eps_theta, torch.tensor(2.0), lambda_attn=0.01) == pytest.approx(9.02)


def test_share_of_attention_in_the_mask():
    masks = torch.zeros(1, 2, 8, 8)
    masks[..., :2] = 1.0
    present = torch.tensor([[True, False]])
    assert attention_in_mask({"layer": torch.ones(1, 2, 8, 8)}, masks, present) == 0.25
    assert attention_in_mask({"layer": masks}, masks, present) == 1.0
    assert attention_in_mask({}, masks, present) == 0.0
