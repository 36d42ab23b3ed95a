"""One thread a process: equal bits are promised for one, and the tests compare bits between processes."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
