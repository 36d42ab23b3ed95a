"""The networks alone: `python -m tests.benchmarks.bare SETTINGS captions=16 …` prints seconds of forward and decoding.

Each stage gets exactly the rows that it had in the pipeline, decoded before the clock runs.
"""

import sys
import time

from labeling.config import LabelingConfig
from labeling.sdd.shards import ShardStore
from labeling.steps import steps_of


def main(settings: str, batch_sizes: dict[str, int]) -> None:
    config = LabelingConfig.model_validate_json(settings)
    store = ShardStore(config.root)
    network = prepare = 0.0
    for step in steps_of(config):
        stage = step.stage
        stage.setup()
        rows = [row for shard in store.shards("images") for row in store.read(stage.reads, step.reads, shard)]
        size = batch_sizes[stage.name]
        stage.process([stage.prepare(row) for row in rows[:size]])  # warm
        for first in range(0, len(rows), size):
            start = time.perf_counter()
            batch = [stage.prepare(row) for row in rows[first : first + size]]
            middle = time.perf_counter()
            stage.process(batch)
            end = time.perf_counter()
            prepare += middle - start
            network += end - middle
    print(network, prepare)


if __name__ == "__main__":
    main(sys.argv[1], {name: int(size) for name, size in (word.split("=") for word in sys.argv[2:])})
