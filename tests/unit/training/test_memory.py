"""What a worker holds is what `model.cost.memory` predicts."""

import pytest
import torch.distributed as dist
import torch.testing._internal.distributed.fake_pg  # noqa: F401  # registers the backend "fake"

from infra.precision import Precision
from model.cost.memory import training_memory
from tests.training_run import small_job
from training.config import Strategy
from training.distributed.parallel import Replica, Worker, local_part
from training.loop import prepare_network
from training.network import load_network
from training.optimization.state import TrainingState


@pytest.fixture
def two_workers():
    """A process group that sends nothing: this process is the first of two."""
    dist.init_process_group("fake", rank=0, world_size=2)
    yield Worker(count=2)
    dist.destroy_process_group()


def held(job, strategy, worker):
    """Bytes of trained weights, moments and mean of a worker, and of frozen weights and buffers."""
    net = prepare_network(load_network(job.model, job.training.data), job.training, worker)
    state = TrainingState(Replica(net, strategy, worker), job.training)
    kinds = state.tensors()
    moments = {name: tensor for name, tensor in kinds["optimizer"].items() if not name.endswith(".step")}
    trained = sum(
        local_part(tensor).nbytes for kind in (kinds["weights"], kinds["ema"], moments) for tensor in kind.values()
    )
    frozen = sum(weight.nbytes for weight in net.parameters() if not weight.requires_grad)
    return trained, frozen + sum(buffer.nbytes for buffer in net.buffers())


@pytest.mark.parametrize("precision", list(Precision))
def test_one_worker(base_folder, precision):
    job = small_job(base_folder, precision=precision)
    job = job.model_copy(update={"model": job.model.model_copy(update={"frozen_precision": precision})})
    memory = training_memory(job.model, 0, precision)
    assert held(job, Strategy.DDP, Worker()) == (memory.trained + memory.moments + memory.mean, memory.frozen)


def test_each_of_two_workers_who_split_the_network(base_folder, two_workers):
    job = small_job(base_folder)
    memory = training_memory(job.model, 0, Precision.FLOAT32, split_among=2)
    assert held(job, Strategy.FSDP2, two_workers) == (memory.trained + memory.moments + memory.mean, memory.frozen)
