"""Where a network runs."""

import pytest
import torch

from labeling.backends.runtime import card, torch_device
from labeling.config import Device


def test_workers_take_the_cards_in_turn():
    assert [card(worker, 3) for worker in range(5)] == [0, 1, 2, 0, 1]
    assert [card(worker, 1) for worker in range(3)] == [0, 0, 0], "on Ray a worker sees its own alone"


@pytest.mark.skipif(torch.cuda.is_available(), reason="what is chosen without a GPU can be seen only there")
def test_without_a_gpu_the_setting_is_what_it_says():
    assert torch_device(Device.CPU) == torch.device("cpu")
    assert torch_device(Device.CUDA) == torch.device("cuda")
    assert torch_device(Device.AUTO).type in ("cpu", "mps")
