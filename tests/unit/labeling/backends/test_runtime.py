"""Where a network runs."""

import logging

import pytest
import torch

from labeling.backends.runtime import gpu_index, torch_device
from labeling.config import Device
from labeling.errors import DeviceError
from labeling.stages.worker import RESERVED_GPUS, WORKER_NUMBER

without_a_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="shows what happens on a machine without a GPU")


@pytest.fixture(autouse=True)
def _no_device_is_remembered() -> None:
    torch_device.cache_clear()


def test_workers_take_the_cards_in_turn():
    assert [gpu_index(worker, 3) for worker in range(5)] == [0, 1, 2, 0, 1]
    assert [gpu_index(worker, 1) for worker in range(3)] == [0, 0, 0], "on Ray a worker sees its own alone"


@without_a_gpu
def test_without_a_gpu_auto_is_another_device():
    assert torch_device(Device.CPU) == torch.device("cpu")
    assert torch_device(Device.AUTO).type in ("cpu", "mps")


@without_a_gpu
def test_cuda_without_a_gpu_is_refused():
    with pytest.raises(DeviceError, match=r"^device=cuda needs a GPU, and PyTorch finds none on .*to cpu$"):
        torch_device(Device.CUDA)


@without_a_gpu
def test_a_reserved_gpu_that_pytorch_does_not_find_is_refused(monkeypatch):
    monkeypatch.setenv(RESERVED_GPUS, "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    with pytest.raises(DeviceError, match=r"^device=auto on GPU 1, which this worker reserved,.*VISIBLE_DEVICES=1;"):
        torch_device(Device.AUTO)
    assert torch_device(Device.CPU) == torch.device("cpu")


def test_the_log_names_worker_and_device(caplog, monkeypatch):
    monkeypatch.setenv(WORKER_NUMBER, "3")
    with caplog.at_level(logging.INFO, "labeling.backends.runtime"):
        torch_device(Device.CPU)
    (line,) = caplog.messages
    assert line.startswith("worker 3 on ")
    assert ": cpu" in line
