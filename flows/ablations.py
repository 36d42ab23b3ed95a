"""`subject-diffusion evaluate ablations`: the rows of the paper's Table 3 in the miniature world."""

from pathlib import Path
from typing import Annotated

import typer

from flows.exit_codes import exit_on_expected_error
from flows.options import SetOption
from infra.config import load
from infra.logs import setup_logs
from miniature.ablations.rows import RowName

RESULTS = Path("docs/benchmarks/ablations")
_WEIGHTS = Path("miniature/weights")


def ablations(
    config: Annotated[
        str, typer.Option("--config", help="Settings of row (a): a TOML file, or a name in infra/configs.")
    ] = "miniature_ablations",
    set_: SetOption = None,
    row: Annotated[
        list[RowName] | None, typer.Option(help="Letter of a row; may be repeated.  [default: a, e, f, g, c, d, b]")
    ] = None,
    seed: Annotated[list[int] | None, typer.Option(help="Seed; may be repeated.  [default: 0, 1]")] = None,
    work: Annotated[Path, typer.Option(help="Folder of datasets, checkpoints and models.")] = Path("out/ablations"),
    results: Annotated[
        Path, typer.Option(help="Folder of the results, one JSON file for each row and seed.")
    ] = RESULTS,
    scenes: Annotated[int, typer.Option(min=1, help="Scenes of a dataset; about two thirds pass the rules.")] = 2000,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
) -> None:
    """Train and score the rows of the paper's Table 3 in the miniature world, and print the table as it grows.

    Rows and seeds with a result are skipped; an interrupted training resumes from its last checkpoint.
    """
    setup_logs()  # before the libraries that it silences are imported
    import torch

    from flows.experiment import DemoExperiment
    from miniature.ablations.results import read_results, table
    from miniature.ablations.run import Settings, run
    from miniature.scoring.case_scores import load_judges
    from training.config import TrainingJob

    torch.set_num_threads(threads)
    with exit_on_expected_error(OSError):
        experiment = load(DemoExperiment, config, set_ or ())
        job = TrainingJob(model=experiment.model, training=experiment.training)
        settings = Settings(experiment.labeling, experiment.world, job, scenes)
        judges = load_judges(_WEIGHTS)
        for result in run(settings, judges, row or list(RowName), seed or [0, 1], work, results):
            typer.echo(f"\n({result.row}), seed {result.seed}: {results}\n\n{table(read_results(results))}\n")
