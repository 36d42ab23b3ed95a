"""Tasks on a Ray cluster: each worker loads the model once."""

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

from flows.generation.errors import GenerationError
from flows.generation.jobs import Outcome, Task, TaskRunner
from infra.ray_cluster import join_cluster
from model.errors import ModelError

RESTARTS = 2
"""Times that a worker is restarted, and that a task is tried again, after its process died."""
MakeRunner = Callable[[], TaskRunner]


def run_on_ray(
    make_runner: MakeRunner,
    chunks: Iterator[list[Task]],
    known: Collection[str],
    workers: int | None = None,
    gpus: bool = True,
) -> Iterator[Outcome]:
    """Yield the outcomes of tasks as they are done, in any order.

    Args:
        make_runner: loads the model in a worker; its folder must exist on each machine.
        chunks: work of a worker until it returns; taken only when a worker is free.
        known: names of files that exist already.
        workers: number of workers; by default one for each GPU of the cluster, or for each CPU if it has none.
        gpus: whether a worker reserves a GPU, if the cluster has any.

    Raises:
        GenerationError: the model does not load, or a worker died again and again.
    """
    import ray
    from ray.exceptions import RayError
    from ray.util import ActorPool

    join_cluster()
    resources = ray.cluster_resources()
    kind = "GPU" if gpus and resources.get("GPU") else "CPU"
    count = workers or max(1, int(resources.get(kind, 1)))
    actor = ray.remote(num_cpus=1, num_gpus=float(kind == "GPU"), max_restarts=RESTARTS, max_task_retries=RESTARTS)
    actors = [actor(_Worker).remote(make_runner) for _ in range(count)]
    try:
        for problem in ray.get([one.start.remote() for one in actors[:1]]):
            if problem:
                raise GenerationError(problem)
        yield from _distribute(ActorPool(actors), chunks, ray.put(frozenset(known)), count)
    except RayError as error:
        raise GenerationError(f"the Ray workers failed: {str(error).strip().splitlines()[-1]}") from error
    finally:
        for one in actors:
            ray.kill(one)


def _distribute(pool: Any, chunks: Iterator[list[Task]], known: Any, count: int) -> Iterator[Outcome]:
    """Keep each worker busy, with no more tasks in memory than workers."""
    waiting = 0
    for chunk in chunks:
        if waiting == count:
            yield from pool.get_next_unordered()
            waiting -= 1
        pool.submit(lambda worker, tasks: worker.run.remote(tasks, known), chunk)
        waiting += 1
    while pool.has_next():
        yield from pool.get_next_unordered()


class _Worker:
    """Runner of tasks in a Ray actor."""

    def __init__(self, make_runner: MakeRunner) -> None:
        self._make_runner = make_runner
        self._runner: TaskRunner | None = None

    def start(self) -> str | None:
        """Load the model; return what is wrong with it."""
        try:
            self._load()
        except (GenerationError, ModelError) as error:
            return str(error)
        return None

    def run(self, tasks: Sequence[Task], known: Collection[str]) -> list[Outcome]:
        """Return the outcomes of tasks."""
        return self._load().run(tasks, known)

    def _load(self) -> TaskRunner:
        self._runner = self._runner or self._make_runner()
        return self._runner
