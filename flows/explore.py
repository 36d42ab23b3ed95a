"""`subject-diffusion explore`: a page to look through a dataset."""

import logging
from pathlib import Path
from typing import Annotated

import typer

from flows.exit_codes import exit_on_storage_error
from flows.options import RootArgument
from infra.logs import setup_logs


def explore(
    root: RootArgument,
    host: Annotated[
        str, typer.Option(help="Address to listen on. Beyond this machine, requests need a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes any free one.")] = 7861,
    cache: Annotated[
        Path | None,
        typer.Option(help="Folder for thumbnails.  [default: ~/.cache/subject-diffusion]", show_default=False),
    ] = None,
    memory: Annotated[str, typer.Option(help="Memory of all queries together: 2GB, 500MB.")] = "2GB",
    timeout: Annotated[float, typer.Option(min=1, max=3600, help="Longest time of a query, in seconds.")] = 60,
) -> None:
    """Look through a dataset on a local web page: filters, facets, SQL, and the story of each image."""
    setup_logs(logging.WARNING)
    from flows.exploring.api import Explorer
    from flows.exploring.app import make_app
    from flows.serving.access import is_loopback, make_token
    from flows.serving.listening import listen, url_of
    from flows.serving.server import serve_app
    from labeling.explorer.browse import Browser
    from labeling.explorer.pictures import Pictures, default_cache
    from labeling.explorer.session import DatasetSession, QueryLimits
    from labeling.sdd.query import refuse_no_dataset

    with exit_on_storage_error(root):
        refuse_no_dataset(root)
        with listen(host, port) as listener:
            session = DatasetSession(root, QueryLimits(memory=memory, timeout_s=timeout))
            explorer = Explorer(session, Browser(session), Pictures(session.store, cache or default_cache()), root)
            token = None if is_loopback(host) else make_token()
            url = url_of(host, listener.getsockname()[1])
            address = url if token is None else f"{url}?token={token}"
            greeting = f"{root}: {address}\nCtrl-C stops it"
            serve_app(make_app(explorer, token), listener, lambda: None, lambda: typer.echo(greeting))
    typer.echo("stopped")
