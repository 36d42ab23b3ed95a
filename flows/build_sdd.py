"""`prefect deployment run build-sdd/build-sdd`: LAION URLs in, SDD shards out.

The chain itself is labeling/build.py; here its calls become Prefect tasks: one per stage and part of the list, never
one per image. Storage is the truth and Prefect's state a hint, so results are not cached and a retry finds what is
done.
"""

from collections.abc import Callable
from typing import Any, TypeVar

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import Task, exponential_backoff

from flows.status import progress_table
from labeling.audit import audit
from labeling.build import Result, build
from labeling.config import LabelingConfig
from labeling.errors import LabelingError, StageInterrupted
from labeling.sdd.query import funnel

R = TypeVar("R")
RETRIES = 2


def worth_another_try(task: "Task[..., Any]", run: TaskRun, state: "State[Any]") -> bool:
    """An error that somebody has to act on is not; a storage that did not answer is."""
    try:
        state.result()
    except StageInterrupted:
        return True
    except LabelingError:
        return False
    except Exception:
        return True
    return False


class TaskCaller:
    """Runs the calls of the chain as Prefect tasks."""

    def submit(self, name: str, function: Callable[..., R], *args: Any) -> Result[R]:
        with_retries = task(
            name=name.split(",")[0],
            task_run_name=name,
            cache_policy=NO_CACHE,
            persist_result=False,
            retries=RETRIES,
            retry_delay_seconds=exponential_backoff(10),
            retry_condition_fn=worth_another_try,
        )
        future: Result[R] = with_retries(function).submit(*args)
        return future


@flow(name="build-sdd", persist_result=False, validate_parameters=True)
def build_sdd(labeling: LabelingConfig) -> dict[str, int]:
    """Make every file of the dataset that is not there yet; returns the input URLs by state."""
    try:
        return build(labeling, TaskCaller())
    finally:
        show_artifacts(labeling.root)


def show_artifacts(root: str) -> None:
    """The funnel, the state of each layer, and what is wrong with its files, where the Prefect page shows them."""
    found = audit(root)
    try:
        rows, problems = funnel(root), list(found.problems)
    except LabelingError as error:  # a file of ledger/ cannot be counted
        rows, problems = [], [*found.problems, str(error)]
    columns = ("state", "stage", "reason", "URLs", "share")
    if rows:
        create_table_artifact(
            key="sdd-funnel",
            table=[dict(zip(columns, row, strict=True)) for row in rows],
            description=f"What became of each input URL of {root}",
        )
    text = "\n".join([progress_table(found), "", *(f"- wrong: {problem}" for problem in problems)])
    create_markdown_artifact(key="sdd-progress", markdown=text, description=f"Files of {root}")
