"""`subject-diffusion report`: a dataset as one HTML page."""

from typing import Annotated

import typer

from flows.exit_codes import exit_on_storage_error
from flows.options import RootArgument
from infra.storage import refuse_unwritable, storage_path


def report(
    root: RootArgument,
    out: Annotated[str, typer.Option("--out", help="File to write.")] = "report.html",
    against: Annotated[
        str | None, typer.Option("--against", help="Folder of another build of the same list, to compare with.")
    ] = None,
    images: Annotated[int, typer.Option(min=0, max=1000, help="Images of the dataset in the gallery.")] = 60,
    per_reason: Annotated[
        int, typer.Option(min=0, max=100, help="Images in the gallery for each reason of dropped images.")
    ] = 8,
    memory_mb: Annotated[
        int, typer.Option(min=256, help="Memory of the queries, in MiB; what does not fit goes to temporary files.")
    ] = 1024,
    cpu_price: Annotated[float | None, typer.Option(min=0, help="Price of a CPU-hour, for the cost of runs.")] = None,
    gpu_price: Annotated[float | None, typer.Option(min=0, help="Price of a GPU-hour, likewise.")] = None,
) -> None:
    """Write the report of a dataset: funnel, distributions, labels, link rot, time, and images to look at.

    The file needs no other file and no network. With --against, it begins with what this build gained and lost.
    """
    from labeling.report.report import ReportOptions, write_report
    from labeling.report.runs import Prices

    with exit_on_storage_error(root):
        refuse_unwritable(storage_path(out).parent, "--out")
        write_report(root, out, against, ReportOptions(images, per_reason, memory_mb, Prices(cpu_price, gpu_price)))
        typer.echo(out)
