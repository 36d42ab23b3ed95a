"""Trains a model, alone or on a Ray cluster; what `ray job submit` runs.

    python -m training.launch --config infra/configs/paper.toml --set training.workers=8 --set training.accumulation=3
    ray job submit --working-dir . -- python -m training.launch --config infra/configs/paper.toml --resume latest

Exit codes: 0 when the last step is done, 2 for settings, data or checkpoints that somebody has to look at, 1 for all
else. Logs go to stderr, which `ray job submit` shows. That command itself exits with 1 whenever the job fails; it
prints the job's code ("failed with exit code 2"), and `ray job list` has it as `driver_exit_code`.
"""

import argparse
import sys
from collections.abc import Sequence

from infra.config import SettingsError, load
from infra.logs import setup_logs
from model.errors import ModelError
from training.config import TrainingJob
from training.errors import TrainingError
from training.job import run


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(prog="python -m training.launch", description="Train a Subject-Diffusion model.")
    parser.add_argument("--config", help="a TOML file, or a name in infra/configs")
    parser.add_argument("--set", action="append", default=[], metavar="TABLE.KEY=VALUE", help="override a setting")
    parser.add_argument(
        "--resume",
        metavar="latest|latest-good|PATH",
        help="go on from the run's last checkpoint, from the last that is not damaged, or from this one",
    )
    parser.add_argument("--here", action="store_true", help="one worker in this process, without Ray")
    given = parser.parse_args(arguments)
    setup_logs()
    try:
        run(load(TrainingJob, given.config, given.set), given.resume, given.here)
    except (SettingsError, TrainingError, ModelError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
