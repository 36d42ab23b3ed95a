from pathlib import Path

import numpy as np
import torch

from infra.precision import Precision
from labeling.backends.sam.huggingface import SamHfSegmenter
from labeling.config import Device, RulesConfig, SegmentConfig
from miniature.networks.sam import SIZES, build, save


def test_it_is_small() -> None:
    assert sum(parameter.numel() for parameter in build(0).parameters()) < 700_000


def test_the_seed_decides_the_weights_and_leaves_the_callers_alone() -> None:
    torch.manual_seed(7)
    before = torch.rand(3)
    torch.manual_seed(7)
    one, same, other = build(1).state_dict(), build(1).state_dict(), build(2).state_dict()
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["mask_decoder.mask_tokens.weight"], other["mask_decoder.mask_tokens.weight"])
    assert torch.equal(torch.rand(3), before)


def test_the_folder_loads_with_its_own_size(tmp_path: Path) -> None:
    save(build(0), tmp_path)
    segmenter = SamHfSegmenter(SegmentConfig(checkpoint=str(tmp_path), device=Device.CPU))
    assert segmenter.preprocessing.side_px == SIZES.image_px == 192


def test_random_weights_make_masks_that_rule_6_keeps_and_drops(tmp_path: Path) -> None:
    """Masks between empty and full, for several seeds, on pictures that no seed has seen."""
    rng = np.random.default_rng(5)
    pictures = [np.kron(rng.integers(0, 256, (4, 4, 3)), np.ones((60, 50, 1))).astype(np.uint8) for _ in range(12)]
    boxes = np.array([[10, 10, 110, 150], [60, 90, 190, 220], [0, 0, 199, 120], [120, 30, 180, 230]], np.float32)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    for seed in range(3):
        save(build(seed), tmp_path / str(seed))
        config = SegmentConfig(checkpoint=str(tmp_path / str(seed)), device=Device.CPU, precision=Precision.FLOAT32)
        segmenter = SamHfSegmenter(config)
        found = segmenter.segment([segmenter.prepare(image) for image in pictures], [boxes] * len(pictures))
        fill = np.array([[one.mask.sum() for one in own] for own in found]) / areas
        kept = fill >= RulesConfig().min_mask_fill
        assert 0.15 < kept.mean() < 0.9
        assert (fill > 0).mean() > 0.4
        assert fill.std() > 0.2
