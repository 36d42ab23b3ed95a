"""The learning rate by step, and a step that is left out."""

import pytest
import torch
from torch import nn

from training.config import OptimizerConfig
from training.optimization.ema import Ema
from training.optimization.optim import Optimizer, learning_rate


def test_the_learning_rate_rises_in_a_line_and_stays():
    config = OptimizerConfig(learning_rate=1.0, warmup_steps=4)
    assert [learning_rate(step, config, 10_001) for step in (0, 1, 3, 4, 10_000)] == [0.25, 0.5, 1.0, 1.0, 1.0]


def test_without_a_warm_up_it_is_there_at_once():
    assert learning_rate(0, OptimizerConfig(learning_rate=0.5, warmup_steps=0), steps=1) == 0.5


def test_it_falls_in_a_line_over_the_last_steps():
    config = OptimizerConfig(learning_rate=1.0, warmup_steps=2, decay_steps=3)
    assert [learning_rate(step, config, 8) for step in range(8)] == [0.5, 1.0, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25]
    assert learning_rate(9, config, 8) == 0.0


@pytest.fixture
def weight():
    return nn.Parameter(torch.tensor([1.0, -2.0]))


def test_is_torchs_adamw(weight):
    config = OptimizerConfig(learning_rate=0.1, warmup_steps=0, weight_decay=0.2)
    twin = nn.Parameter(weight.detach().clone())
    theirs = torch.optim.AdamW([twin], lr=0.1, weight_decay=0.2, foreach=False)
    ours = Optimizer({"w": weight}, config, steps=100)
    for step in range(3):
        weight.grad, twin.grad = torch.tensor([0.3, step - 1.0]), torch.tensor([0.3, step - 1.0])
        ours.step(step, skipped=torch.tensor(False))
        theirs.step()
    torch.testing.assert_close(weight, twin)
    torch.testing.assert_close(ours.tensors({"w": weight})["w.exp_avg"], theirs.state[twin]["exp_avg"])


def test_a_step_that_is_left_out_changes_nothing(weight):
    optimizer = Optimizer({"w": weight}, OptimizerConfig(warmup_steps=0), steps=100)
    weight.grad = torch.ones(2)
    optimizer.step(0, skipped=torch.tensor(False))
    before = [t.clone() for t in (weight.detach(), *optimizer.tensors({"w": weight}).values())]
    weight.grad = torch.tensor([torch.nan, 1.0])
    optimizer.step(1, skipped=torch.tensor(True))
    after = (weight.detach(), *optimizer.tensors({"w": weight}).values())
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert weight.grad is None


def test_the_mean_follows_the_weights_slowly_and_forgets_the_start(weight):
    ema = Ema({"w": weight}, decay=0.5)
    with torch.no_grad():
        weight.copy_(torch.tensor([10.0, 20.0]))
    ema.update(step=0)
    torch.testing.assert_close(ema.tensors["w"], torch.tensor([1.0, -2.0]) * 0.1 + weight.detach() * 0.9)
    before = ema.tensors["w"].clone()
    with torch.no_grad():
        weight.zero_()
    ema.update(step=10_000)
    torch.testing.assert_close(ema.tensors["w"], before * 0.5)
