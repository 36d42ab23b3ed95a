"""`python -m tests.benchmarks.report_memory ROOT FILE`: write a report; print its wall and CPU seconds and peak MiB."""

import resource
import sys
import time

from labeling.execution.usage import cpu_seconds
from labeling.report.report import write_report

if __name__ == "__main__":
    start, cpu_start = time.perf_counter(), cpu_seconds()
    write_report(sys.argv[1], sys.argv[2], None)
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(time.perf_counter() - start, cpu_seconds() - cpu_start, peak_mib)
