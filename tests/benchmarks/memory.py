"""`python -m tests.benchmarks.memory SETTINGS SHARD …`: resident MiB of supervisor and network after each shard."""

import sys

import psutil

from labeling.build import label_part
from labeling.config import LabelingConfig
from labeling.execution.network_job import NetworkJob
from labeling.steps import steps_of


def main(settings: str, shards: list[str]) -> None:
    config = LabelingConfig.model_validate_json(settings)
    *before, segment = steps_of(config)
    for step in before:
        label_part(config, step, shards, "memory")
    workers = config.workers.entities
    job = NetworkJob(step=segment, root=config.root, workers=workers, run="memory", torch_threads=1)
    for shard in shards:
        report = job.make(shard)
        assert report.error is None, report.error
        assert job.process is not None
        if job.process.pid is not None:
            mine, its = psutil.Process(), psutil.Process(job.process.pid)
            print(*(process.memory_info().rss >> 20 for process in (mine, its)))
    job.close()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
