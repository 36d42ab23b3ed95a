"""The network as one of several workers that train it together: all of it in each, or split among them (FSDP2).

What differs between one worker, DDP and FSDP2 is here; a step, a checkpoint and the loop are the same for all three.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import get_total_norm

from model.inputs.batch import SubjectBatch
from model.subject_diffusion import SubjectDiffusion, TrainingLoss
from training.config import Strategy
from training.errors import TrainingError

T = TypeVar("T")


@dataclass(frozen=True)
class Worker:
    """One of the processes that train."""

    rank: int = 0
    count: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def leads(self) -> bool:
        """Writes what is written once: metrics, names of checkpoints."""
        return self.rank == 0


def this_worker(gpu: bool) -> Worker:
    """This process, within torch's process group where there is one.

    Raises:
        TrainingError: there is no GPU though one is wanted.
    """
    if gpu and not torch.cuda.is_available():
        raise TrainingError("training.gpu=true, but torch sees no GPU here: --set training.gpu=false trains on the CPU")
    device = torch.device("cuda", torch.cuda.current_device()) if gpu else torch.device("cpu")
    if not dist.is_initialized():
        return Worker(device=device)
    return Worker(dist.get_rank(), dist.get_world_size(), device)


class Replica:
    """What this worker holds of the network. Calling it is the forward pass.

    Args:
        net: on the worker's device; FSDP2 changes it in place.
    """

    def __init__(self, net: SubjectDiffusion, strategy: Strategy, worker: Worker) -> None:
        self.net, self.worker = net, worker
        self.splits = strategy is Strategy.FSDP2 and worker.count > 1
        """Whether workers hold parts of the network, so that it computes only where all do."""
        if self.splits:
            _split(net)
        self._forward = self._joined(net) if worker.count > 1 and not self.splits else net
        self.weights = {name: weight for name, weight in net.named_parameters() if weight.requires_grad}
        """What is trained, by name."""

    def __call__(self, batch: SubjectBatch) -> TrainingLoss:
        loss: TrainingLoss = self._forward(batch)
        return loss

    @contextmanager
    def accumulating(self, last: bool) -> Iterator[None]:
        """Backward passes within add to the gradients; workers join theirs in the `last` of a step only."""
        if self.splits:
            assert isinstance(self.net, FSDPModule)
            self.net.set_requires_gradient_sync(last)
        if isinstance(self._forward, DistributedDataParallel) and not last:
            with self._forward.no_sync():
                yield
        else:
            yield

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Within, parts of the network can be called on their own, and no worker waits for what another calls.

        Where the network is split, all workers enter together.
        """
        parts = [part for part in self.net.modules() if isinstance(part, FSDPModule)]
        inner = parts[1:]  # the first is the whole, which stays gathered after its forward pass as it is
        for part in parts:
            part.reshard()  # else a part still gathered would keep weights that were changed since
            part.unshard()
        for part in inner:
            part.set_reshard_after_forward(False, recurse=False)
        try:
            yield
        finally:
            for part in inner:
                part.set_reshard_after_forward(True, recurse=False)
            for part in parts:
                part.reshard()

    def agree(self, ready: bool) -> bool:
        """Whether this worker is ready, and, where the network is split, all others are: none begins without them."""
        if not self.splits:
            return ready
        count = self.total(torch.tensor(float(ready), device=self.worker.device))
        return round(float(count)) == self.worker.count

    def gradients(self) -> list[Tensor]:
        """This worker's part of the gradients' mean over workers, once the last backward pass of a step is done."""
        loose = [_gradient(weight) for weight in self.weights.values() if not isinstance(weight, DTensor)]
        if self.splits and loose:
            mean = self.total(torch.stack(loose)) / self.worker.count
            torch._foreach_copy_(loose, list(mean.unbind()))
        return [local(_gradient(weight)) for weight in self.weights.values()]

    def norm(self, gradients: list[Tensor]) -> Tensor:
        """Length of the gradients of all weights together, the same on all workers."""
        if not self.splits:
            return get_total_norm(gradients)
        whole = [not isinstance(weight, DTensor) for weight in self.weights.values()]
        mine = [g for g, w in zip(gradients, whole, strict=True) if not w or self.worker.leads]
        return self.total(get_total_norm(mine).square()).sqrt()

    def total(self, value: Tensor) -> Tensor:
        """The sum of all workers' `value`s, on each of them."""
        if self.worker.count > 1:
            dist.all_reduce(value)
        return value

    def _joined(self, net: SubjectDiffusion) -> DistributedDataParallel:
        torch._dynamo.config.optimize_ddp = False  # it cannot split graphs that recompute activations
        where: dict[str, Any] = {"device_ids": [self.worker.device]} if self.worker.device.type == "cuda" else {}
        return DistributedDataParallel(net, broadcast_buffers=False, gradient_as_bucket_view=True, **where)


def local(tensor: Tensor) -> Tensor:
    """The part of `tensor` that this worker holds, as a view."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def wait_for_all(worker: Worker) -> None:
    """Return when all workers are here."""
    if worker.count > 1:
        dist.barrier()


def told_by_leader(worker: Worker, value: T) -> T:
    """The leader's `value`, on all workers."""
    told = [value]
    if worker.count > 1:
        dist.broadcast_object_list(told, src=0)
    return told[0]


def gathered(worker: Worker, value: T) -> list[T]:
    """Every worker's `value` in order of rank, on all workers."""
    if worker.count == 1:
        return [value]
    values: list[Any] = [None] * worker.count
    dist.all_gather_object(values, value)
    return values


def _split(net: SubjectDiffusion) -> None:
    """Frozen weights and the adapters' gates stay whole; FSDP2 takes no scalars, and the frozen have another type."""
    whole = {weight for weight in net.parameters() if not weight.requires_grad or weight.ndim == 0}
    for weight in net.parameters():
        if weight.requires_grad:
            weight.data = weight.data.contiguous()  # FSDP2 takes no channels-last memory
    mesh = init_device_mesh(_device_type(net), (dist.get_world_size(),))
    for part in (*net.fsdp_units(), net):
        fully_shard(part, mesh=mesh, ignored_params=whole)


def _device_type(net: nn.Module) -> str:
    return next(net.parameters()).device.type


def _gradient(weight: Tensor) -> Tensor:
    assert weight.grad is not None, "whatever is trained takes part in every batch"
    return weight.grad
