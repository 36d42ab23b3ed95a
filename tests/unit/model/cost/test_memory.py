"""The arithmetic of a worker's memory, against sums by hand and against what autograd keeps of a real step."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from infra.precision import Precision
from model.config import ModelConfig, Recompute
from model.cost.budget import float32_saved_bytes
from model.cost.memory import activation_bytes, training_memory
from model.cost.recompute import enable_recompute
from model.subject_diffusion import SubjectDiffusion
from tests.small_model import small_batch, small_config


def test_one_worker_by_hand(base_folder: Path) -> None:
    config = small_config(base_folder)
    net = SubjectDiffusion.from_base(config)
    numbers = sum(weight.numel() for weight in net.parameters() if weight.requires_grad)
    memory = training_memory(config, activations=1000)
    assert memory.trained == memory.gradients == memory.mean == 4 * numbers
    assert memory.moments == 8 * numbers
    assert 0 < memory.copies < 2 * numbers, "the embeddings of tokens are not cast"
    assert memory.gathered == 0
    assert memory.total == 20 * numbers + memory.frozen + memory.copies + 1000
    in_float32 = training_memory(config, 1000, Precision.FLOAT32)
    assert memory.frozen < in_float32.frozen
    assert in_float32.copies == 0


def test_workers_under_fsdp2_hold_parts_and_gather_the_rest(base_folder: Path) -> None:
    config = small_config(base_folder)
    whole, split = (training_memory(config, 0, split_among=workers) for workers in (1, 4))
    assert whole.trained / 4 <= split.trained < whole.trained / 3
    assert split.frozen == whole.frozen
    assert split.gathered == 2 * whole.trained, "the small text encoder has two layers: all is gathered, with gradients"


def test_layers_of_the_text_encoder_are_gathered_two_at_a_time() -> None:
    memory = training_memory(ModelConfig(), 0, split_among=8)
    layer, layers = 12_596_224, 23
    assert memory.gathered == 8 * (432_884_496 - (layers - 2) * layer)


@pytest.mark.parametrize("what", [Recompute.NOTHING, Recompute.ACTIVATIONS])
def test_a_real_step_keeps_the_counted_bytes(base_folder: Path, what: Recompute) -> None:
    """Within 5 %, because attention on a CPU keeps other small tensors than on a GPU."""
    config = small_config(base_folder)
    net = SubjectDiffusion.from_base(config)
    batch = replace(small_batch(net.prompts, ["dog", "cat"], ["bird", "car"]), full=True)

    enable_recompute(net.unet, what)
    kept: dict[int, torch.UntypedStorage] = {}
    weights = {tensor.untyped_storage().data_ptr() for tensor in [*net.parameters(), *net.buffers()]}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        net.training_loss(batch, torch.Generator().manual_seed(0))
    real = sum(storage.nbytes() for place, storage in kept.items() if place not in weights)
    assert float32_saved_bytes(config, 2, 2, what) == pytest.approx(real, rel=0.05)


def test_autocast_keeps_more_than_half_of_float32_since_norms_stay_in_it(base_folder: Path) -> None:
    config = small_config(base_folder)
    mixed, single = (activation_bytes(config, 2, 2, precision=precision) for precision in reversed(Precision))
    assert 0.5 * single < mixed < 0.9 * single
    assert not torch.is_autocast_enabled("cuda")
