"""Runs the pool of processes that download: `python -m labeling.download.pool`.

The pool has a process of its own, which ends with all others if one of them is killed, and starts again with the shards
that are left. img2dataset's Reader, and pandas, which it imports, stay out of the process of the build.
"""

import contextlib
import logging
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

from infra.logs import setup_logs
from labeling.download.shard_download import ShardDownload, read_tasks
from labeling.errors import StageFailed
from labeling.sdd.schema import Layer
from labeling.sdd.shards import ShardStore

log = logging.getLogger(__name__)
POLL_S = 0.2
"""Seconds between two checks of the processes and of the stop event."""


@dataclass(frozen=True, slots=True)
class PoolJob:
    """Job of the pool's process, which receives it as a pickle on its standard input."""

    download: ShardDownload
    shards: tuple[str, ...]
    processes: int


def run_pool(job: PoolJob, stop: threading.Event) -> None:
    """Run the job; return when its process has ended, with all shards or without.

    Raises:
        StageFailed: `stop` was set.
    """
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
        "TQDM_DISABLE": "1",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "labeling.download.pool"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,  # img2dataset's Reader prints to it
        env=environment,
        start_new_session=True,  # an interrupt reaches this process, whose end closes the standard input of the other
    )
    assert process.stdin is not None
    try:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(pickle.dumps(job))
            process.stdin.flush()
        while process.poll() is None:
            if stop.wait(POLL_S):
                raise StageFailed(f"{Layer.IMAGES}: stopped")
    finally:
        process.kill()
        process.wait()
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()


def _exit_with_caller() -> None:
    """End this process when its standard input is closed."""
    while os.read(sys.stdin.fileno(), 1):
        pass
    os._exit(1)


def _main() -> None:
    job: PoolJob = pickle.load(sys.stdin.buffer)
    threading.Thread(target=_exit_with_caller, daemon=True).start()
    tasks = list(read_tasks(ShardStore(job.download.root), job.shards, job.download.run))
    # img2dataset's own distributor ends each process after five shards, and waits forever for one that is killed.
    with ProcessPoolExecutor(job.processes, multiprocessing.get_context("spawn")) as pool:
        try:
            list(pool.map(job.download, tasks))
        except BrokenProcessPool:
            log.warning("%s: a process of the pool was killed; its shard starts again", Layer.IMAGES)
            os._exit(1)


if __name__ == "__main__":
    setup_logs()
    _main()
    os._exit(0)  # the thread above still runs, and an ordinary exit would wait for it
