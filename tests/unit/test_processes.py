"""Programs that tests start end with the tests, also where these are killed and no fixture runs."""

import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.processes import PATIENCE_S, Processes, kill_family

PROGRAM = """
import subprocess, sys, time
print(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(9000)"]).pid, flush=True)
time.sleep(9000)
"""
TESTS = f"""
import sys, time
from tests.processes import Processes
print(Processes().start([sys.executable, "-c", {PROGRAM!r}]).pid, flush=True)
time.sleep(9000)
"""


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_what_killed_tests_have_started_is_killed_too(end: signal.Signals, processes: Processes) -> None:
    root = Path(__file__).parents[2]
    tests = processes.start([sys.executable, "-c", TESTS], cwd=root, stdout=subprocess.PIPE, text=True)
    assert tests.stdout is not None
    started = [psutil.Process(int(tests.stdout.readline())) for _ in range(2)]
    try:
        psutil.Process(tests.pid).send_signal(end)
        _, alive = psutil.wait_procs(started, timeout=PATIENCE_S)
        assert not alive
    finally:
        for process in started:
            kill_family(process.pid)
