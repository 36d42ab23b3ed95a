"""One queue for all work of the networks: bounded, fair to its users, cancelable, and run by one thread.

    queue = WorkQueue(max_waiting=64)
    task = queue.submit(lambda task: generator.generate(job, canceled=task.canceled), owner="127.0.0.1")
    images = await asyncio.wrap_future(task.future)

Users take turns: whoever submits fifty tasks delays another user by one of them, not by fifty.
"""

import time
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import Future
from itertools import zip_longest
from math import ceil
from threading import Condition, Event, Thread
from typing import Any, Generic, TypeAlias, TypeVar

from flows.generation.errors import GenerationCanceled

T = TypeVar("T")


class QueueFull(Exception):
    """As many tasks wait as the queue takes.

    Args:
        waiting: tasks that wait.
        retry_after_s: seconds after which a place is likely to be free.
    """

    def __init__(self, waiting: int, retry_after_s: int) -> None:
        super().__init__(f"{waiting} requests are waiting, as many as this server takes: try again later")
        self.retry_after_s = retry_after_s


class QueueClosed(Exception):
    """The server is stopping."""

    def __init__(self) -> None:
        super().__init__("this server is stopping: start it again, or ask another one")


class Task(Generic[T]):
    """Work that waits or runs.

    Args:
        work: function that does it, in the thread of the queue; it asks `canceled` from time to time.
        owner: user that takes turns with other users.
        queue: queue of the task.
    """

    def __init__(self, work: Callable[["Task[T]"], T], owner: str, queue: "WorkQueue") -> None:
        self.owner = owner
        self.future: Future[T] = Future()
        self.future.set_running_or_notify_cancel()  # so that nobody who waits for it can cancel it
        self._work = work
        self._queue = queue
        self._canceled = Event()

    def cancel(self) -> None:
        """Take the task out of the queue, or ask its work to stop; its future raises `GenerationCanceled`."""
        self._canceled.set()
        self._queue.discard(self)

    def canceled(self) -> bool:
        """Return whether the task should stop."""
        return self._canceled.is_set()

    def run(self) -> None:
        """Do the work, and set the future."""
        try:
            self.future.set_result(self._work(self))
        except BaseException as error:  # whoever waits for the future handles it
            self.future.set_exception(error)

    def fail(self, error: Exception) -> None:
        """Set the future of a task that never runs."""
        self.future.set_exception(error)


AnyTask: TypeAlias = Task[Any]
"""A task, whatever its result."""


class WorkQueue:
    """Runs tasks one after another, in turns of their owners.

    Args:
        max_waiting: tasks that may wait.
    """

    def __init__(self, max_waiting: int) -> None:
        self.max_waiting = max_waiting
        self._waiting: OrderedDict[str, deque[AnyTask]] = OrderedDict()
        self._running: AnyTask | None = None
        self._closed = False
        self._mean_s = 1.0
        self._changed = Condition()
        self._thread = Thread(target=self._run_tasks, name="networks", daemon=True)
        self._thread.start()

    def submit(self, work: Callable[[Task[T]], T], owner: str) -> Task[T]:
        """Append a task.

        Raises:
            QueueFull: `max_waiting` tasks wait.
            QueueClosed: the queue was closed.
        """
        task = Task(work, owner, self)
        with self._changed:
            if self._closed:
                raise QueueClosed
            if (waiting := self.waiting) >= self.max_waiting:
                raise QueueFull(waiting, max(1, ceil(self._mean_s)))
            self._waiting.setdefault(owner, deque()).append(task)
            self._changed.notify_all()
        return task

    @property
    def waiting(self) -> int:
        """Number of tasks that wait."""
        with self._changed:
            return sum(map(len, self._waiting.values()))

    @property
    def idle(self) -> bool:
        """Whether no task waits or runs."""
        with self._changed:
            return not self._waiting and self._running is None

    def tasks_before(self, task: AnyTask) -> int | None:
        """Return the number of tasks that end before `task` starts; None if it has started."""
        with self._changed:
            turns = zip_longest(*self._waiting.values())
            order = [one for turn in turns for one in turn if one is not None]
            return order.index(task) + (self._running is not None) if task in order else None

    def discard(self, task: AnyTask) -> None:
        """Take a canceled task out, if it still waits."""
        with self._changed:
            own = self._waiting.get(task.owner, deque())
            if task not in own:
                return
            own.remove(task)
            if not own:
                del self._waiting[task.owner]
        task.fail(GenerationCanceled("canceled while it waited"))

    def close(self) -> None:
        """Refuse new tasks, drop those that wait, cancel the one that runs, and wait until it has stopped."""
        with self._changed:
            self._closed = True
            dropped = [task for tasks in self._waiting.values() for task in tasks]
            self._waiting.clear()
            running = self._running
            self._changed.notify_all()
        for task in dropped:
            task.fail(QueueClosed())
        if running is not None:
            running.cancel()
        self._thread.join()

    def _run_tasks(self) -> None:
        while (task := self._next_task()) is not None:
            started = time.monotonic()
            task.run()
            with self._changed:
                self._running = None
                self._mean_s += 0.2 * (time.monotonic() - started - self._mean_s)

    def _next_task(self) -> AnyTask | None:
        """Wait for a task, and move its owner to the end of the turns; return None once the queue is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            if self._closed:
                return None
            owner, tasks = self._waiting.popitem(last=False)
            self._running = tasks.popleft()
            if tasks:
                self._waiting[owner] = tasks
            return self._running
