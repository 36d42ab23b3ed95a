from collections.abc import Iterator
from threading import Event

import pytest

from flows.generation.errors import GenerationCanceled
from flows.serving.queue import QueueClosed, QueueFull, Task, WorkQueue
from tests.processes import PATIENCE_S, wait_until


@pytest.fixture
def queue() -> Iterator[WorkQueue]:
    queue = WorkQueue(max_waiting=4)
    yield queue
    queue.close()


@pytest.fixture
def gate(queue: WorkQueue) -> Iterator[Event]:
    """The queue is busy until the event is set."""
    gate = Event()
    queue.submit(lambda _: gate.wait(), "first")
    wait_until("the start of the first task", lambda: queue.waiting == 0)
    yield gate
    gate.set()


def test_users_take_turns(queue: WorkQueue, gate: Event) -> None:
    order: list[str] = []
    tasks = [queue.submit(lambda _, name=name: order.append(name), name[0]) for name in ("a1", "a2", "a3", "b1")]
    assert [queue.tasks_before(task) for task in tasks] == [1, 3, 4, 2]
    gate.set()
    for task in tasks:
        task.future.result(PATIENCE_S)
    assert order == ["a1", "b1", "a2", "a3"]
    assert queue.tasks_before(tasks[0]) is None


def test_a_full_queue_refuses_and_takes_again(queue: WorkQueue, gate: Event) -> None:
    waiting = [queue.submit(lambda _: 1, "a") for _ in range(4)]
    with pytest.raises(QueueFull, match="4 requests are waiting") as refusal:
        queue.submit(lambda _: 1, "b")
    assert refusal.value.retry_after_s >= 1
    waiting[0].cancel()
    taken = queue.submit(lambda _: 2, "b")
    gate.set()
    assert taken.future.result(PATIENCE_S) == 2


def test_a_canceled_task_does_not_run(queue: WorkQueue, gate: Event) -> None:
    ran: list[str] = []
    task = queue.submit(lambda _: ran.append("canceled"), "a")
    after = queue.submit(lambda _: ran.append("after"), "a")
    task.cancel()
    with pytest.raises(GenerationCanceled):
        task.future.result(PATIENCE_S)
    gate.set()
    after.future.result(PATIENCE_S)
    assert ran == ["after"]


def test_an_error_reaches_who_waits_and_the_queue_goes_on(queue: WorkQueue) -> None:
    def fail(task: Task[int]) -> int:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        queue.submit(fail, "a").future.result(PATIENCE_S)
    assert queue.submit(lambda _: 1, "a").future.result(PATIENCE_S) == 1


def test_a_waiter_that_gives_up_does_not_stop_the_queue(queue: WorkQueue, gate: Event) -> None:
    assert not queue.submit(lambda _: 1, "a").future.cancel()
    gate.set()
    assert queue.submit(lambda _: 2, "a").future.result(PATIENCE_S) == 2


def test_closing_stops_what_runs_and_drops_what_waits(queue: WorkQueue) -> None:
    started = Event()

    def run_until_canceled(task: Task[str]) -> str:
        started.set()
        wait_until("the cancellation", task.canceled)
        return "stopped"

    running = queue.submit(run_until_canceled, "a")
    started.wait()
    waiting = queue.submit(lambda _: "never", "a")
    queue.close()
    assert running.future.result(0) == "stopped"
    with pytest.raises(QueueClosed):
        waiting.future.result(0)
    with pytest.raises(QueueClosed):
        queue.submit(lambda _: 1, "a")
    queue.close()
