"""Several workers do what one does."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard

from model.subject_diffusion import SubjectDiffusion
from tests.processes import Processes
from tests.training_run import small_job, trained
from training.checkpoints.store import Checkpoints, read_tensors
from training.config import Strategy, TrainingJob
from training.distributed.parallel import Replica, Worker, this_worker
from training.errors import TrainingError
from training.monitoring.evaluation import Evaluations, Evaluator
from training.network import load_network


def worker_at(meeting: Path, rank: int, count: int = 2) -> Worker:
    """This process as one of several workers."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{meeting}", rank=rank, world_size=count)
    return this_worker(gpu=False)


def train_together(job: TrainingJob, meeting: Path, rank: int) -> None:
    trained(job, worker=worker_at(meeting, rank))


def train_on_two_workers(processes: Processes, job: TrainingJob, meeting: Path) -> None:
    workers = [processes.fork(train_together, job, meeting, rank) for rank in range(2)]
    assert [worker.result() for worker in workers] == [None, None]


def train_evaluated(job: TrainingJob, evaluator: Evaluator, meeting: Path, rank: int) -> None:
    trained(job, worker=worker_at(meeting, rank), evaluations=Evaluations(evaluator, job.training))


def train_evaluated_on_two_workers(processes: Processes, job: TrainingJob, evaluator: Evaluator, meeting: Path) -> None:
    workers = [processes.fork(train_evaluated, job, evaluator, meeting, rank) for rank in range(2)]
    assert [worker.result() for worker in workers] == [None, None]


def weights_of(job, kind="weights"):
    net = SubjectDiffusion.from_base(job.model)
    tensors = {name: torch.zeros_like(weight) for name, weight in net.named_parameters() if weight.requires_grad}
    read_tensors(Checkpoints(Path(job.training.out), 1, Worker()).latest(), {kind: tensors})
    return tensors


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_workers_train_as_one_that_takes_two_batches_a_step(tmp_path, processes, strategy):
    alone = small_job(tmp_path, steps=4, accumulation=2)
    trained(alone)
    together = small_job(tmp_path, steps=4, out=str(tmp_path / "together"), strategy=strategy)
    train_on_two_workers(processes, together, tmp_path / "meeting")
    for kind in ("weights", "ema"):
        one, two = weights_of(alone, kind), weights_of(together, kind)
        for name, weight in one.items():
            torch.testing.assert_close(two[name], weight, rtol=1e-3, atol=2e-5, msg=name)


def gathered_after_a_change(meeting: Path) -> list[list[float]]:
    worker_at(meeting, rank=0, count=1)
    net = two_layers()
    weights = list(net.parameters())
    with torch.no_grad():
        net(torch.ones(1, 2))
        for weight in weights:
            weight.to_local().fill_(7.0)
    with Replica(net, Strategy.FSDP2, Worker()).unshard():
        return [weight.detach().unique().tolist() for weight in (net[0].weight, net[1].weight)]


def two_layers() -> torch.nn.Sequential:
    """Two layers that are split already, each apart, the same in all workers."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(2, 2, bias=False), torch.nn.Linear(2, 2, bias=False))
    fully_shard(net[0])
    fully_shard(net)
    return net


def test_weights_changed_after_a_forward_pass_are_the_ones_that_are_gathered(tmp_path, processes):
    """FSDP2 keeps the root gathered after it; sample grids put the weights' mean in their place then."""
    assert processes.fork(gathered_after_a_change, tmp_path / "meeting").result() == [[7.0], [7.0]]


def part_of_one_who_gives_up(meeting: Path, rank: int) -> tuple[bool, int]:
    """Whether the network computes what it did before, and the rows of a weight that this worker holds."""
    worker_at(meeting, rank)
    net, row = two_layers(), torch.ones(1, 2)
    before = net(row)
    with Replica(net, Strategy.FSDP2, Worker()).unshard():
        for _ in range(3 - 2 * rank):
            net[0](row)
    return bool((net(row) == before).all()), net[0].weight.to_local().shape[0]


def test_a_worker_that_gives_up_within_what_is_gathered_keeps_no_other_waiting(tmp_path, processes):
    """As one that runs out of memory in a sample grid does; afterwards they train on, each with its half."""
    workers = [processes.fork(part_of_one_who_gives_up, tmp_path / "meeting", rank) for rank in range(2)]
    assert [worker.result() for worker in workers] == [(True, 1)] * 2


def kind_of_a_split_weight(job: TrainingJob, meeting: Path) -> str:
    worker_at(meeting, rank=0, count=1)
    net = load_network(job.model, job.training.data)
    net.unet.to(memory_format=torch.channels_last)
    return type(Replica(net, Strategy.FSDP2, Worker(count=2)).weights["unet.base.conv_in.weight"]).__name__


def test_a_network_in_the_memory_format_of_gpus_can_be_split(job, tmp_path, processes):
    """FSDP2 refuses weights in channels-last memory; `prepare_network` puts the UNet there on a GPU."""
    assert processes.fork(kind_of_a_split_weight, job(), tmp_path / "meeting").result() == "DTensor"


COMPILED = """
import sys
from dataclasses import replace
from pathlib import Path
import torch
import torch.distributed as dist
from torch._dynamo.testing import CompileCounterWithBackend
from model.subject_diffusion import SubjectDiffusion
from tests.small_model import open_gates, small_batch
from tests.training_run import small_job
from training.config import Strategy
from training.loop import prepare_network
from training.distributed.parallel import Replica, this_worker
from training.optimization.state import TrainingState
from training.optimization.step import MicroBatch, TrainingStep

folder, meeting, rank, strategy = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), Strategy(sys.argv[4])
dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
torch.set_num_threads(1)
worker, job = this_worker(gpu=False), small_job(folder)
graphs = CompileCounterWithBackend("aot_eager")
for compiled in (True, False):
    torch.manual_seed(1)
    net = prepare_network(open_gates(SubjectDiffusion.from_base(job.model)), job.training, worker)
    if compiled:
        net.unet.compile(backend=graphs, fullgraph=True, dynamic=False)
    step = TrainingStep(TrainingState(Replica(net, strategy, worker), job.training), job.training)
    for number, images in enumerate([[["dog"]] * 2, [["dog", "cat"]] * 2, [["dog"]]]):
        batch = replace(small_batch(net.prompts, *images, seed=2 * number + rank), full=True)
        step(number, [MicroBatch(number, batch, len(images), 1.0, whole=len(images) == 2)])
        print(f"{step.monitor.norm:.4f}", end=" ")
    print(graphs.frame_count)
dist.destroy_process_group()
"""


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_workers_compile_one_graph_for_each_number_of_subjects_and_no_break(base_folder, tmp_path, processes, strategy):
    """`fullgraph` makes a break an error. Gradients are as long as uncompiled, on both workers."""
    command = [sys.executable, "-c", COMPILED, str(base_folder), str(tmp_path / "meeting")]
    workers = [processes.start([*command, str(rank), strategy], stdout=subprocess.PIPE, text=True) for rank in (0, 1)]
    printed = [worker.communicate()[0].split() for worker in workers]
    assert printed[0] == printed[1]
    *compiled, graphs = printed[0][:4]
    *uncompiled, _ = printed[0][4:]
    assert graphs == "2"
    assert list(map(float, compiled)) == pytest.approx(list(map(float, uncompiled)), rel=1e-3)


@pytest.mark.skipif(torch.cuda.is_available(), reason="what is said where torch sees no GPU can be seen only there")
def test_a_gpu_that_is_not_there_is_asked_for_in_words():
    with pytest.raises(TrainingError, match=r"training\.gpu=false"):
        this_worker(gpu=True)
