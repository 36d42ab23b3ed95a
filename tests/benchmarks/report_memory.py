"""`python -m tests.benchmarks.report_memory ROOT FILE`: print seconds, CPU-seconds, peak MiB, and that of Arrow."""

import resource
import sys
import time

import pyarrow as pa

from labeling.execution.usage import cpu_seconds
from labeling.report.report import write_report

if __name__ == "__main__":
    start, cpu_start = time.perf_counter(), cpu_seconds()
    write_report(sys.argv[1], sys.argv[2], None)
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    arrow_mib = pa.default_memory_pool().max_memory() / 2**20
    print(time.perf_counter() - start, cpu_seconds() - cpu_start, peak_mib, arrow_mib)
