"""Workers on a Ray cluster: a pool of actors for each stage, each of which supervises a process with the network.

Actors get names of shards and return short reports; no pixels cross Ray's object store. A pool that is kept serves the
later parts of the list too, so its networks start once a run.
"""

import json
import logging
import os
from collections import Counter, deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol, Self

from infra.ray_cluster import join_cluster
from labeling.config import Device, Workers
from labeling.execution.gpus import gpu_share
from labeling.execution.report import ShardReport
from labeling.stages.worker import RESERVED_GPUS

log = logging.getLogger(__name__)
PLACEMENT_S = 120
"""Seconds to wait for the first worker of a pool before other pools release what they reserve."""
DOWNLOAD_CPUS = 1.0
"""CPUs that img2dataset's Ray task for a shard reserves."""


class RayJob(Protocol):
    """Job that workers run; it is pickled for each of them."""

    @property
    def name(self) -> str:
        """Layer that the job makes."""

    @property
    def device(self) -> Device | None:
        """Device setting of the network; None for a job without one."""

    def make(self, shard: str) -> ShardReport:
        """Make the shard's file unless it exists; never raises."""

    def for_worker(self, number: int) -> Self:
        """Return a copy for the `number`th worker of a node, from 0."""


@dataclass(frozen=True, slots=True)
class Reserved:
    """Resources that the workers of a stage reserve together."""

    cpus: float
    gpus: float
    cpus_each: float
    """CPUs of one worker."""


class RayPools:
    """Pools of the stages of a run. One thread at a time may use them."""

    def __init__(self, kept: Collection[str] = ()) -> None:
        """Start nothing yet.

        Args:
            kept: stages whose pools outlive `make`: see `stages_to_keep`.
        """
        self._kept = frozenset(kept)
        self._pools: dict[str, _Pool] = {}

    def make(self, job: RayJob, shards: Sequence[str], workers: Workers) -> list[ShardReport]:
        """Make the shards in the stage's pool; return one report for each, in any order."""
        join_cluster()
        pool = self._pools.pop(job.name, None)
        if pool is None or pool.job != job:
            if pool:
                pool.close()
            pool = _Pool(job, workers)
        is_sound = False
        try:
            pool.start(min(workers.count, len(shards)))
            if not pool.wait_for_worker(PLACEMENT_S):
                self.close()
            reports = pool.make(shards)
            is_sound = all(report.error is None for report in reports)
        finally:
            if is_sound and job.name in self._kept:
                self._pools[job.name] = pool
            else:
                pool.close()
        return reports

    def close(self) -> None:
        """End all workers that no `make` uses."""
        for pool in self._pools.values():
            pool.close()
        self._pools.clear()


def stages_to_keep(
    networks: Mapping[str, Reserved],
    others: Sequence[Reserved],
    cpus_per_node: Sequence[float],
    gpus_per_node: Sequence[float],
) -> frozenset[str]:
    """Return the stages whose workers can keep what they reserve while those of all other jobs start beside a download.

    The cores that stay free are so many that, wherever the kept workers are, some node has room for a worker.

    Args:
        networks: resources of each stage with a network, in the order of the stages.
        others: resources of each job without one.
        cpus_per_node: cores of each node of the cluster.
        gpus_per_node: GPUs of each node.
    """
    kept: list[str] = []
    room = DOWNLOAD_CPUS + len(cpus_per_node) * max(each.cpus_each for each in (*networks.values(), *others))
    for name in networks:
        held = [networks[each] for each in (*kept, name)]
        rest = [each for other, each in networks.items() if other not in (*kept, name)]
        free_cpus = sum(cpus_per_node) - sum(each.cpus for each in held)
        free_gpus = sum(gpus_per_node) - sum(each.gpus for each in held)
        needed_cpus = max([room, *(DOWNLOAD_CPUS + each.cpus for each in (*rest, *others))])
        if free_cpus >= needed_cpus and free_gpus >= max((each.gpus for each in rest), default=0.0):
            kept.append(name)
    return frozenset(kept)


def resources_per_node() -> tuple[list[float], list[float]]:
    """Return the CPUs and the GPUs of each node of the Ray cluster; join or start the cluster."""
    import ray

    join_cluster()
    resources = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [each.get("CPU", 0.0) for each in resources], [each.get("GPU", 0.0) for each in resources]


def gpus_per_node() -> list[int]:
    """Return the number of GPUs of each node of the Ray cluster; join or start the cluster."""
    return [int(gpus) for gpus in resources_per_node()[1]]


class _Pool:
    """Actors that run one job."""

    def __init__(self, job: RayJob, workers: Workers) -> None:
        import ray

        self.job = job
        gpus = gpu_share(job.name, job.device, workers, workers.count, gpus_per_node())
        # Ray starts an actor again after its node or its process has died, and repeats its call.
        endless = {"max_restarts": -1, "max_task_retries": -1}
        self._numbers = ray.remote(num_cpus=0, **endless)(_WorkerNumbers).remote()
        self._worker = ray.remote(num_cpus=workers.cpus, num_gpus=gpus, **endless)(_RayWorker)
        self._actors: list[Any] = []
        self._idle: list[Any] = []
        self._busy: dict[Any, Any] = {}
        """Actors that start or make a shard, by the reference of their answer."""

    def start(self, count: int) -> None:
        """Start actors until there are `count`; return at once."""
        while len(self._actors) < count:
            actor = self._worker.remote(self.job, self._numbers)
            self._actors.append(actor)
            self._busy[actor.start.remote()] = actor

    def wait_for_worker(self, seconds: float) -> bool:
        """Return whether an actor has started within some seconds."""
        import ray

        return bool(self._idle or ray.wait(list(self._busy), timeout=seconds)[0])

    def make(self, shards: Sequence[str]) -> list[ShardReport]:
        """Make the shards, each in the next actor that is idle; an actor that has not started yet gets none."""
        import ray

        todo, reports = deque(shards), list[ShardReport]()
        while len(reports) < len(shards):
            while self._idle and todo:
                actor = self._idle.pop()
                self._busy[actor.make.remote(todo.popleft())] = actor
            (answer,), _ = ray.wait(list(self._busy))
            self._idle.append(self._busy.pop(answer))
            if (report := ray.get(answer)) is not None:
                reports.append(ShardReport(**json.loads(report)))
        return reports

    def close(self) -> None:
        """End the actors; the processes with the networks end with them."""
        import ray

        for actor in (*self._actors, self._numbers):
            ray.kill(actor)


class _WorkerNumbers:
    """Numbers the workers of each node from 0; runs as an actor of its own."""

    def __init__(self) -> None:
        self.next_numbers: Counter[str] = Counter()

    def next(self, node: str) -> int:
        """Return the number of another worker on the node."""
        self.next_numbers[node] += 1
        return self.next_numbers[node] - 1


class _RayWorker:
    """Job in a Ray actor.

    Args:
        job: job to copy for this worker.
        numbers: handle of the `_WorkerNumbers` actor.
    """

    def __init__(self, job: RayJob, numbers: Any) -> None:
        import ray

        context = ray.get_runtime_context()
        os.environ[RESERVED_GPUS] = ",".join(context.get_accelerator_ids()["GPU"])
        self.job = job.for_worker(ray.get(numbers.next.remote(context.get_node_id())))

    def start(self) -> None:
        """Answer once the actor has started."""

    def make(self, shard: str) -> str:
        """Make a shard; return its report as JSON."""
        return json.dumps(asdict(self.job.make(shard)))
