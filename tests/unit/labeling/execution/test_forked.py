"""A fork server imports once for all its processes, and neither outlives the process that started it."""

import os
import signal
import subprocess
import sys
from multiprocessing.connection import Pipe

import psutil
import pytest

from labeling.config import Workers
from labeling.errors import StageFailed
from labeling.execution.forked import ForkServer
from labeling.execution.messages import BatchResult
from labeling.execution.process import StageProcess
from labeling.execution.processes import StageProcesses
from tests.faulty_stage import Address, FaultyConfig, FaultyStage, RendezvousStage
from tests.processes import PATIENCE_S, wait_until

WORKERS = Workers(start_deadline_s=PATIENCE_S, batch_deadline_s=PATIENCE_S)


@pytest.fixture
def processes():
    kept = StageProcesses()
    yield kept
    kept.close()


def taken(processes: StageProcesses, stage: FaultyStage, number: int = 0) -> StageProcess:
    process = processes.take(stage, WORKERS, torch_threads=1, number=number)
    process.start()
    return process


def test_a_process_is_kept_for_its_stage_and_number(processes):
    stage = FaultyStage(FaultyConfig())
    first = taken(processes, stage)
    pid = first.pid
    processes.give_back(first)
    assert taken(processes, stage).pid == pid
    assert taken(processes, stage, number=1).pid != pid
    other = taken(processes, FaultyStage(FaultyConfig(memory_rows=1)))
    assert other.pid != pid
    assert not psutil.pid_exists(pid)


def test_a_process_that_is_not_kept_ends_with_its_part():
    processes = StageProcesses(keep=False)
    process = taken(processes, FaultyStage(FaultyConfig()))
    pid = process.pid
    processes.give_back(process)
    assert not psutil.pid_exists(pid)
    processes.close()
    with pytest.raises(StageFailed, match="stopped"):
        processes.take(process.stage, WORKERS, torch_threads=1, number=0)


def test_a_server_that_was_killed_is_replaced(processes):
    process = taken(processes, FaultyStage(FaultyConfig()))
    server = psutil.Process(process.pid).ppid()
    os.kill(server, signal.SIGKILL)
    wait_until("the end of the worker", lambda: not psutil.pid_exists(process.pid))
    process.discard()
    process.start()
    assert psutil.Process(process.pid).ppid() != server


SUPERVISOR = """
import sys
from labeling.config import Workers
from labeling.execution.process import StageProcess
from tests.faulty_stage import Address, FaultyConfig, FaultyStage
process = StageProcess(FaultyStage(FaultyConfig()), Workers(), 1, 4)
process.start()
process.send([Address(key=b"", url=f"blocks {sys.argv[1]}")])
print(process.pid, flush=True)
input()
"""


def test_a_worker_that_hangs_in_native_code_ends_with_its_supervisor(tmp_path):
    mark = tmp_path / "hang"
    command = [sys.executable, "-c", SUPERVISOR, str(mark)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as supervisor:
        assert supervisor.stdout is not None
        worker = psutil.Process(int(supervisor.stdout.readline()))
        family = [worker, worker.parent()]
        wait_until("the row that hangs", mark.exists)
        supervisor.kill()
    _, alive = psutil.wait_procs(family, timeout=PATIENCE_S)
    assert not alive


def test_a_process_has_the_environment_of_its_start_and_not_of_the_servers(processes, monkeypatch, tmp_path):
    stage = RendezvousStage(str(tmp_path / "met"), workers=1)
    taken(processes, stage)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    later = taken(processes, stage, number=1)
    later.send([Address(key=b"", url="")])
    message = later.receive(PATIENCE_S)
    assert isinstance(message, BatchResult)
    assert [outcome.caption for outcome in message.outcomes] == ["1: 7"]


def test_the_server_imports_once():
    server = ForkServer(["tests.faulty_stage", "no.such.module"])
    costs = []
    for _ in range(2):
        ours, theirs = Pipe()
        with ours, theirs:
            process = server.start_process(theirs, PATIENCE_S)
        costs.append(process.server_cpu_s)
        assert process.wait() == 0
    server.close()
    assert costs[1] < costs[0] / 10
