"""Textures: the same for a seed and a size, and different from each other."""

import numpy as np
import pytest

from miniature.world.textures import SHADES, Shade, draw_texture


def test_a_seed_names_a_texture() -> None:
    one, again, other = (draw_texture(seed, 60, 80) for seed in (3, 3, 4))
    assert one.shape == (60, 80, 3)
    assert (one == again).all()
    assert np.abs(one - other).mean() > 5


def test_textures_are_pixels_of_many_looks() -> None:
    drawn = [draw_texture(seed, 64, 64) for seed in range(150)]
    assert min(image.min() for image in drawn) >= 0
    assert max(image.max() for image in drawn) <= 255
    means = np.array([image.mean(axis=(0, 1)) for image in drawn])
    assert means.std(axis=0).min() > 25  # colours
    contrasts = np.array([image.mean(axis=2).std() for image in drawn])
    assert contrasts.min() > 0.5
    assert np.percentile(contrasts, 90) > 2 * np.percentile(contrasts, 10)


@pytest.mark.parametrize("shade", set(SHADES))
def test_a_shade_fills_the_picture_with_values_from_0_to_1(shade: Shade) -> None:
    for seed in range(8):
        values = shade(np.random.default_rng(seed), 50, 90)
        assert values.shape == (50, 90)
        assert values.min() >= 0
        assert values.max() <= 1
        assert values.std() > 0.005
