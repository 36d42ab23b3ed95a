"""Shapes that mark subjects in training, as users would mark them."""

from collections.abc import Callable

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from model.config import LocationShapes, ModelConfig
from model.inputs.boxes import exact_box_masks
from model.objective.location_shapes import vary_shapes
from model.subject_diffusion import SubjectDiffusion
from tests.small_model import small_batch

SIZE = (16, 16)
BOX = (0.25, 0.25, 0.75, 0.75)


def varied(count: int = 1, seed: int = 0, **shapes: float) -> tuple[Tensor, Tensor]:
    """Return boxes and regions of `count` subjects with the box `BOX` and one marked position."""
    boxes = torch.tensor(BOX).repeat(1, count, 1)
    regions = torch.zeros(1, count, *SIZE)
    regions[..., 8, 6] = 1
    generator = torch.Generator().manual_seed(seed)
    return vary_shapes(boxes, regions, exact_box_masks(boxes, SIZE), LocationShapes(**shapes), generator)


def test_a_box_is_filled() -> None:
    boxes, regions = varied(box=1)
    assert boxes.tolist() == [[list(BOX)]]
    assert regions.nonzero()[:, 2:].unique(dim=0).shape == (64, 2)
    assert regions[0, 0, 4:12, 4:12].all()


def test_a_dilated_mask_is_larger_by_a_sixteenth_on_all_sides() -> None:
    boxes, regions = varied(dilated=1)
    assert boxes.tolist() == [[list(BOX)]]
    assert regions.sum() == 9
    assert regions[0, 0, 7:10, 5:8].all()


def test_without_a_mark_the_box_is_the_whole_image() -> None:
    boxes, regions = varied(nothing=1)
    assert boxes.tolist() == [[[0.0, 0.0, 1.0, 1.0]]]
    assert not regions.any()


def test_each_subject_draws_with_the_probabilities_and_the_rest_keeps_its_mask() -> None:
    _, regions = varied(4000, box=0.4, dilated=0.3, nothing=0.2)
    marked = regions[0].sum(dim=(1, 2))
    shares = [(marked == positions).float().mean().item() for positions in (64, 9, 0, 1)]
    assert shares == pytest.approx([0.4, 0.3, 0.2, 0.1], abs=0.03)
    assert sum(shares) == pytest.approx(1)


def test_equal_seeds_draw_equal_shapes() -> None:
    chances = {"box": 0.3, "dilated": 0.3, "nothing": 0.3}
    assert torch.equal(varied(50, seed=1, **chances)[1], varied(50, seed=1, **chances)[1])
    assert not torch.equal(varied(50, seed=1, **chances)[1], varied(50, seed=2, **chances)[1])


def test_probabilities_are_checked() -> None:
    with pytest.raises(ValidationError, match="add up to more than 1"):
        LocationShapes(box=0.6, nothing=0.6)
    departures = {"location_shapes": {"box": 0.5}}
    with pytest.raises(ValidationError, match="location_shapes varies masks"):
        ModelConfig.model_validate({"location_mask": "box", "departures": departures})


def test_training_draws_shapes_only_if_asked(build: Callable[..., SubjectDiffusion]) -> None:
    plain = build()
    batch = small_batch(plain.prompts, ["dog", "cat"])

    def loss(net: SubjectDiffusion) -> Tensor:
        with torch.no_grad():
            net.unet.base.conv_in.weight.fill_(0.1)  # the weights of a new model's location mask are 0
        return net.training_loss(batch, torch.Generator().manual_seed(5)).total

    unmarked = build(departures={"location_shapes": {"nothing": 1.0}})
    assert torch.equal(loss(build()), loss(plain))
    assert not torch.equal(loss(unmarked), loss(plain))
    boxes, masks = unmarked._training_places(batch, SIZE, None)
    assert not masks.any()
    assert (boxes == torch.tensor([0.0, 0.0, 1.0, 1.0])).all()
