"""The Prefect flow that builds a dataset: `prefect deployment run build-sdd/build-sdd`.

labeling/build.py defines the order of the calls. This module runs each as a Prefect task: one per stage and part of
the list, never one per image. Finished files in storage decide what remains to do, not Prefect's state, so results are
not cached and a retry skips finished shards.
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


def is_retryable(task: "Task[..., Any]", run: TaskRun, state: "State[Any]") -> bool:
    """Return whether a failed task may succeed on a retry, as after an interruption or a storage error."""
    try:
        state.result()
    except StageInterrupted:
        return True
    except LabelingError:
        return False
    except Exception:
        return True
    return False


class PrefectTaskRunner:
    """Runs the tasks of a build as Prefect tasks."""

    def submit(self, name: str, function: Callable[..., R], *args: Any) -> Result[R]:
        """Start `function(*args)` as a task with retries and return its future."""
        with_retries = task(
            name=name.split(",")[0],
            task_run_name=name,
            cache_policy=NO_CACHE,
            persist_result=False,
            retries=RETRIES,
            retry_delay_seconds=exponential_backoff(10),
            retry_condition_fn=is_retryable,
        )
        future: Result[R] = with_retries(function).submit(*args)
        return future


@flow(name="build-sdd", persist_result=False, validate_parameters=True)
def build_sdd(labeling: LabelingConfig) -> dict[str, int]:
    """Make every missing file of the dataset and return the number of input URLs by state."""
    try:
        return build(labeling, PrefectTaskRunner())
    finally:
        show_artifacts(labeling.root)


def show_artifacts(root: str) -> None:
    """Write the funnel, the progress of each layer and the faults of its files as artifacts of the flow run."""
    report = audit(root)
    try:
        rows, problems = funnel(root), list(report.problems)
    except LabelingError as error:  # a file of ledger/ cannot be counted
        rows, problems = [], [*report.problems, str(error)]
    columns = ("state", "stage", "reason", "URLs", "share")
    if rows:
        create_table_artifact(
            key="sdd-funnel",
            table=[dict(zip(columns, row, strict=True)) for row in rows],
            description=f"Input URLs of {root} by verdict",
        )
    text = "\n".join([progress_table(report), "", *(f"- wrong: {problem}" for problem in problems)])
    create_markdown_artifact(key="sdd-progress", markdown=text, description=f"Files of {root}")
