"""Sizes of resized images, by which images share a call of the detector."""

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers.image_transforms import get_size_with_aspect_ratio

from labeling.sdd.schema import Noun
from labeling.stages.detect import DetectInput
from labeling.stages.networks import Resizing
from tests.factories import key

SIDES = st.integers(1, 9000)


@given(height=SIDES, width=SIDES)
def test_sizes_are_those_of_transformers(height: int, width: int) -> None:
    assert Resizing(800, 1333).size_of(height, width) == get_size_with_aspect_ratio((height, width), 800, 1333)


@given(height=st.integers(64, 9000), width=st.integers(64, 9000))
def test_steps_change_one_side_by_at_most_half_a_step(height: int, width: int) -> None:
    """Thinner images, which no download keeps, keep their own size in transformers: 1 x 889 stays."""
    whole, stepped = Resizing(800, 1333).size_of(height, width), Resizing(800, 1333, 64).size_of(height, width)
    assert max(stepped) <= 1333
    assert min(stepped) <= 800
    assert sum(abs(a - b) > 1 for a, b in zip(whole, stepped, strict=True)) <= 1
    assert all(abs(a - b) <= 33 for a, b in zip(whole, stepped, strict=True))


@pytest.mark.parametrize(
    ("height", "width", "size"),
    [(1000, 1000, (800, 800)), (1200, 1600, (800, 1088)), (1600, 1200, (1088, 800)), (1080, 1920, (768, 1333))],
)
def test_sizes_in_steps(height: int, width: int, size: tuple[int, int]) -> None:
    assert Resizing(800, 1333, 64).size_of(height, width) == size


def test_the_key_of_a_row_reaches_other_processes() -> None:
    row = DetectInput(
        key=key(1), image=b"", width_px=640, height_px=480, nouns=(Noun(label="a", span_start=0, span_end=1),)
    )
    assert pickle.loads(pickle.dumps(Resizing(96, 160)))(row) == (96, 128)
