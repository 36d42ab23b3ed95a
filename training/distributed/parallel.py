"""The network of one worker: alone, replicated over several workers (DDP), or sharded over them (FSDP2).

All differences between the three are in this module; steps, checkpoints and the loop are the same for all of them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar, cast

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
    """Number of the worker, from 0."""
    count: int = 1
    """Number of all workers."""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    """Device that the worker computes on."""

    @property
    def is_leader(self) -> bool:
        """Whether this worker writes the files that only one may write: metrics and records of checkpoints."""
        return self.rank == 0


def this_worker(gpu: bool) -> Worker:
    """Return the worker of this process, with its rank in torch's process group, if there is one.

    Raises:
        TrainingError: `gpu` is true, but torch sees no GPU.
    """
    if gpu and not torch.cuda.is_available():
        raise TrainingError("training.gpu=true, but torch sees no GPU. Set training.gpu=false to train on the CPU")
    device = torch.device("cuda", torch.cuda.current_device()) if gpu else torch.device("cpu")
    if not dist.is_initialized():
        return Worker(device=device)
    return Worker(dist.get_rank(), dist.get_world_size(), device)


class Replica:
    """This worker's part of the network. Calling it runs the forward pass.

    Args:
        net: network on the worker's device; FSDP2 changes it in place.
    """

    def __init__(self, net: SubjectDiffusion, strategy: Strategy, worker: Worker) -> None:
        self.net, self.worker = net, worker
        self.is_sharded = strategy is Strategy.FSDP2 and worker.count > 1
        """Whether each worker holds a part of the network, so that all workers must run it together."""
        if self.is_sharded:
            _shard(net)
        self._forward = self._data_parallel(net) if worker.count > 1 and not self.is_sharded else net
        self.weights = {name: weight for name, weight in net.named_parameters() if weight.requires_grad}
        """Trained weights by name."""

    def __call__(self, batch: SubjectBatch) -> TrainingLoss:
        """Return the loss of a batch."""
        loss: TrainingLoss = self._forward(batch)
        return loss

    @contextmanager
    def accumulate(self, last: bool) -> Iterator[None]:
        """Accumulate gradients inside the block; workers exchange theirs only for the `last` batch of a step."""
        if self.is_sharded:
            assert isinstance(self.net, FSDPModule)
            self.net.set_requires_gradient_sync(last)
        if isinstance(self._forward, DistributedDataParallel) and not last:
            with self._forward.no_sync():
                yield
        else:
            yield

    @contextmanager
    def unshard(self) -> Iterator[None]:
        """Hold the whole network inside the block, so that parts of it can be called without the other workers.

        With FSDP2 all workers enter the block together.
        """
        parts = [part for part in self.net.modules() if isinstance(part, FSDPModule)]
        inner = parts[1:]  # the first is the whole network, which never reshards after its forward pass
        for part in parts:
            part.reshard()  # drops unsharded copies from before the weights were changed
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

    def all_ready(self, ready: bool) -> bool:
        """Return whether this worker is ready and, with FSDP2, all others are too."""
        if not self.is_sharded:
            return ready
        count = self.sum_over_workers(torch.tensor(float(ready), device=self.worker.device))
        return round(float(count)) == self.worker.count

    def gradients(self) -> list[Tensor]:
        """Return this worker's part of the mean gradients, after the last backward pass of a step."""
        unsharded = [_gradient(weight) for weight in self.weights.values() if not isinstance(weight, DTensor)]
        if self.is_sharded and unsharded:
            mean = self.sum_over_workers(torch.stack(unsharded)) / self.worker.count
            torch._foreach_copy_(unsharded, list(mean.unbind()))
        return [local_part(_gradient(weight)) for weight in self.weights.values()]

    def norm(self, gradients: list[Tensor]) -> Tensor:
        """Return the norm of the gradients of all weights together, the same on all workers."""
        if not self.is_sharded:
            return get_total_norm(gradients)
        whole = [not isinstance(weight, DTensor) for weight in self.weights.values()]
        mine = [g for g, w in zip(gradients, whole, strict=True) if not w or self.worker.is_leader]
        return self.sum_over_workers(get_total_norm(mine).square()).sqrt()

    def sum_over_workers(self, value: Tensor) -> Tensor:
        """Return the sum of all workers' values, on each worker."""
        if self.worker.count > 1:
            dist.all_reduce(value)
        return value

    def _data_parallel(self, net: SubjectDiffusion) -> DistributedDataParallel:
        torch._dynamo.config.optimize_ddp = False  # it cannot split graphs that recompute activations
        devices = [self.worker.device] if self.worker.device.type == "cuda" else None
        return DistributedDataParallel(net, device_ids=devices, broadcast_buffers=False, gradient_as_bucket_view=True)


def local_part(tensor: Tensor) -> Tensor:
    """Return the part of `tensor` that this worker holds, as a view."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def wait_for_all(worker: Worker) -> None:
    """Return once all workers have called this."""
    if worker.count > 1:
        dist.barrier()


def broadcast_from_leader(worker: Worker, value: T) -> T:
    """Return the leader's `value`, on all workers."""
    values = [value]
    if worker.count > 1:
        dist.broadcast_object_list(values, src=0)
    return values[0]


def gather_from_workers(worker: Worker, value: T) -> list[T]:
    """Return all workers' values in order of rank, on all workers."""
    if worker.count == 1:
        return [value]
    values: list[T | None] = [None] * worker.count
    dist.all_gather_object(values, value)
    return cast("list[T]", values)


def _shard(net: SubjectDiffusion) -> None:
    """Shard the trained weights, except the adapters' gates: FSDP2 takes no scalars.

    Frozen weights stay whole, because they have another data type.
    """
    whole = {weight for weight in net.parameters() if not weight.requires_grad or weight.ndim == 0}
    for weight in net.parameters():
        if weight.requires_grad:
            weight.data = weight.data.contiguous()  # FSDP2 refuses channels-last memory
    mesh = init_device_mesh(_device_type(net), (dist.get_world_size(),))
    for part in (*net.fsdp_units(), net):
        fully_shard(part, mesh=mesh, ignored_params=whole)


def _device_type(net: nn.Module) -> str:
    return next(net.parameters()).device.type


def _gradient(weight: Tensor) -> Tensor:
    assert weight.grad is not None, "every trained weight takes part in every batch"
    return weight.grad
