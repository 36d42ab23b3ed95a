"""Several workers do what one does."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from model.subject_diffusion import SubjectDiffusion
from tests.training_run import small_job, trained
from training.checkpoints import Checkpoints, read_tensors
from training.errors import TrainingError
from training.parallel import Worker, this_worker

RUN = [sys.executable, "-m", "tests.training_run"]


def on_two_workers(folder: Path, *settings: str) -> None:
    words = [*RUN, str(folder), "--count", "2", *(word for setting in settings for word in ("--set", setting))]
    workers = [subprocess.Popen([*words, "--rank", str(rank)]) for rank in range(2)]
    assert [worker.wait() for worker in workers] == [0, 0]


def weights_of(job, kind="weights"):
    net = SubjectDiffusion.from_base(job.model)
    tensors = {name: torch.zeros_like(weight) for name, weight in net.named_parameters() if weight.requires_grad}
    read_tensors(Checkpoints(Path(job.training.out), 1, Worker()).latest(), {kind: tensors})
    return tensors


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_workers_train_as_one_that_takes_two_batches_a_step(tmp_path, strategy):
    alone = small_job(tmp_path, steps=4, accumulation=2)
    trained(alone)
    together = small_job(tmp_path, steps=4, out=str(tmp_path / "together"))
    on_two_workers(tmp_path, "steps=4", f"out={together.training.out}", f"strategy={strategy}")
    for kind in ("weights", "ema"):
        one, two = weights_of(alone, kind), weights_of(together, kind)
        for name, weight in one.items():
            torch.testing.assert_close(two[name], weight, rtol=1e-3, atol=2e-5, msg=name)


CHANGED_SINCE = """
import sys
import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from training.config import Strategy
from training.parallel import Replica, Worker

dist.init_process_group("gloo", init_method=f"file://{sys.argv[1]}", rank=0, world_size=1)
net = torch.nn.Sequential(torch.nn.Linear(2, 2, bias=False), torch.nn.Linear(2, 2, bias=False))
fully_shard(net[0])
fully_shard(net)
weights = list(net.parameters())
with torch.no_grad():
    net(torch.ones(1, 2))
    for weight in weights:
        weight.to_local().fill_(7.0)
with Replica(net, Strategy.FSDP2, Worker()).gathered():
    print([weight.detach().unique().tolist() for weight in (net[0].weight, net[1].weight)])
dist.destroy_process_group()
"""


def test_weights_changed_after_a_forward_pass_are_the_ones_that_are_gathered(tmp_path):
    """FSDP2 keeps the root gathered after it; sample grids put the weights' mean in their place then."""
    command = [sys.executable, "-c", CHANGED_SINCE, str(tmp_path / "meeting")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[[7.0], [7.0]]", done.stderr


ALONE = """
import sys
import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from training.config import Strategy
from training.parallel import Replica, Worker

rank = int(sys.argv[2])
dist.init_process_group("gloo", init_method=f"file://{sys.argv[1]}", rank=rank, world_size=2)
torch.manual_seed(0)
net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
fully_shard(net[0])
fully_shard(net)
row = torch.ones(1, 2)
before = net(row)
with Replica(net, Strategy.FSDP2, Worker()).gathered():
    for _ in range(3 - 2 * rank):
        net[0](row)
print((net(row) == before).all().item(), net[0].weight.to_local().shape[0])
dist.destroy_process_group()
"""


def test_a_worker_that_gives_up_within_what_is_gathered_keeps_no_other_waiting(tmp_path):
    """As one that runs out of memory in a sample grid does; afterwards they train on, each with its half."""
    command = [sys.executable, "-c", ALONE, str(tmp_path / "meeting")]
    workers = [subprocess.Popen([*command, str(rank)], stdout=subprocess.PIPE, text=True) for rank in range(2)]
    try:
        assert [worker.communicate(timeout=120)[0].strip() for worker in workers] == ["True 1"] * 2
    finally:
        for worker in workers:
            worker.kill()


SPLIT_AS_ON_A_GPU = """
import sys
from pathlib import Path
import torch
import torch.distributed as dist
from tests.training_run import small_job
from training.config import Strategy
from training.network import network_of
from training.parallel import Replica, Worker

folder = Path(sys.argv[1])
dist.init_process_group("gloo", init_method=f"file://{folder / 'split'}", rank=0, world_size=1)
job = small_job(folder)
net = network_of(job.model, job.training.data)
net.unet.to(memory_format=torch.channels_last)
replica = Replica(net, Strategy.FSDP2, Worker(count=2))
print(type(replica.weights["unet.base.conv_in.weight"]).__name__)
dist.destroy_process_group()
"""


def test_a_network_in_the_memory_format_of_gpus_can_be_split(base_folder):
    """FSDP2 refuses weights in channels-last memory; `prepared` puts the UNet there on a GPU."""
    command = [sys.executable, "-c", SPLIT_AS_ON_A_GPU, str(base_folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.stdout.strip() == "DTensor", done.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="what is said where torch sees no GPU can be seen only there")
def test_a_gpu_that_is_not_there_is_asked_for_in_words():
    with pytest.raises(TrainingError, match=r"training\.gpu=false"):
        this_worker(gpu=True)
