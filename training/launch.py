"""Command line of a training job, in this process or on a Ray cluster; the command for `ray job submit`.

    python -m training.launch --config infra/configs/paper.toml --set training.workers=8 --set training.accumulation=3
    ray job submit --working-dir . -- python -m training.launch --config infra/configs/paper.toml --resume latest

Exit codes: 0 when the last step is done, 2 for bad settings, data or checkpoints, 1 for all other errors. Logs go to
stderr, which `ray job submit` shows. That command itself exits with 1 whenever the job fails; it prints the job's code
("failed with exit code 2"), and `ray job list` shows it as `driver_exit_code`.
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
    """Run the job that the arguments describe and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m training.launch", description="Train a Subject-Diffusion model.")
    parser.add_argument("--config", help="a TOML file, or a name in infra/configs")
    parser.add_argument("--set", action="append", default=[], metavar="TABLE.KEY=VALUE", help="override a setting")
    parser.add_argument(
        "--resume",
        metavar="latest|latest-good|PATH",
        help="resume from the run's last checkpoint, from its last intact one, or from the given one",
    )
    parser.add_argument("--here", action="store_true", help="train as one worker in this process, without Ray")
    options = parser.parse_args(arguments)
    setup_logs()
    try:
        run(load(TrainingJob, options.config, options.set), options.resume, options.here)
    except (SettingsError, TrainingError, ModelError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
