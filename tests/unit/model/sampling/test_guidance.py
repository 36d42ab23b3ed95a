"""Guidance is algebra on predictions: no network is needed to check it."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from model.sampling.denoising import combine_branches
from model.sampling.guidance import Branch, Guidance

FULL, IMAGE, TEXT, NEITHER = Branch.TEXT_AND_IMAGE, Branch.IMAGE, Branch.TEXT, Branch.NEITHER
scales = st.floats(0, 20).map(lambda s: round(s, 3))


@pytest.fixture
def predictions() -> dict[Branch, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {branch: torch.randn(2, 4, 3, 3, generator=generator) for branch in Branch}


@given(text=scales, image=scales)
def test_is_instruct_pix2pix(text: float, image: float) -> None:
    """diffusers: uncond + text_scale * (text - image) + image_scale * (image - uncond)."""
    e = {branch: torch.randn(1, 4, 2, 2, generator=torch.Generator().manual_seed(i)) for i, branch in enumerate(Branch)}
    expected = e[NEITHER] + text * (e[FULL] - e[IMAGE]) + image * (e[IMAGE] - e[NEITHER])
    result = combine_branches(e, Guidance(text=text, image=image).subject_coefficients())
    assert torch.allclose(result, expected, atol=1e-4)


@given(text=scales, image=scales)
def test_coefficients_add_up_to_one(text: float, image: float) -> None:
    guidance = Guidance(text=text, image=image)
    assert sum(guidance.subject_coefficients().values()) == pytest.approx(1)
    assert sum(guidance.text_coefficients().values()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("text", "image", "branches"),
    [
        (3, 1.5, {FULL, IMAGE, NEITHER}),
        (3, 1, {FULL, IMAGE}),
        (0, 1.5, {IMAGE, NEITHER}),
        (2, 2, {FULL, NEITHER}),
        (1, 1, {FULL}),
        (0, 1, {IMAGE}),
        (0, 0, {NEITHER}),
    ],
)
def test_only_branches_that_count_are_run(text: float, image: float, branches: set[Branch]) -> None:
    assert set(Guidance(text=text, image=image).subject_coefficients()) == branches


def test_scale_one_is_the_plain_branch_and_zero_the_null_branch(predictions: dict[Branch, Tensor]) -> None:
    def at(text: float, image: float) -> Tensor:
        return combine_branches(predictions, Guidance(text=text, image=image).subject_coefficients())

    assert torch.equal(at(1, 1), predictions[FULL])
    assert torch.equal(at(0, 1), predictions[IMAGE])
    assert torch.equal(at(0, 0), predictions[NEITHER])
    assert torch.equal(combine_branches(predictions, Guidance(text=1).text_coefficients()), predictions[TEXT])
    assert torch.equal(combine_branches(predictions, Guidance(text=0).text_coefficients()), predictions[NEITHER])


def test_text_only_is_classifier_free_guidance(predictions: dict[Branch, Tensor]) -> None:
    expected = predictions[NEITHER] + 7.5 * (predictions[TEXT] - predictions[NEITHER])
    assert torch.allclose(combine_branches(predictions, Guidance(text=7.5).text_coefficients()), expected, atol=1e-5)


def test_half_precision_predictions_are_added_in_full_precision(predictions: dict[Branch, Tensor]) -> None:
    half = {branch: prediction.bfloat16() for branch, prediction in predictions.items()}
    assert combine_branches(half, Guidance().subject_coefficients()).dtype == torch.float32


def test_branches_with_an_image_come_first() -> None:
    """The adapters act on the first rows of a batch only."""
    order = [branch.has_image for branch in Guidance().subject_coefficients()]
    assert order == sorted(order, reverse=True)


def test_a_negative_scale_is_refused() -> None:
    with pytest.raises(ValueError, match="text"):
        Guidance(text=-1)
