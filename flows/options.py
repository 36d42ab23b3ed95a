"""Options that several verbs of the command line share."""

from typing import Annotated

import typer

ConfigOption = Annotated[
    str | None, typer.Option("--config", help="Settings: a TOML file, or a name in infra/configs.")
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="TABLE.KEY=VALUE", help="Override a setting; may be repeated.")
]
RootArgument = Annotated[str, typer.Argument(help="Folder of the dataset: a path or an fsspec URL.")]
