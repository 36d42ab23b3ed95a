"""`subject-diffusion explore`: a page to look through a dataset."""

import getpass
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.exit_codes import exit_on_storage_error
from flows.options import ConfigOption, RootArgument, SetOption
from infra.config import load
from infra.logs import setup_logs
from infra.storage import refuse_unwritable, storage_path

if TYPE_CHECKING:
    from labeling.stages.networks import Segmenter


def explore(
    root: RootArgument,
    host: Annotated[
        str, typer.Option(help="Address to listen on. Beyond this machine, requests need a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes any free one.")] = 7861,
    cache: Annotated[
        Path | None,
        typer.Option(help="Folder for thumbnails and index.  [default: in ~/.cache]", show_default=False),
    ] = None,
    author: Annotated[
        str | None,
        typer.Option(help="Your name in corrections and audits.  [default: your user name]", show_default=False),
    ] = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    memory: Annotated[str, typer.Option(help="Memory of all queries together: 2GB, 500MB.")] = "2GB",
    timeout: Annotated[float, typer.Option(min=1, max=3600, help="Longest time of a query, in seconds.")] = 60,
) -> None:
    """Look through a dataset on a local web page, audit its quality, and correct its boxes.

    With --config or --set, the segmenter of `labeling.segment` proposes masks of corrected boxes; without, the next
    build makes them.
    """
    setup_logs(logging.WARNING)
    from flows.exploring.api import Explorer
    from flows.exploring.app import make_app
    from flows.serving.access import is_loopback, make_token
    from flows.serving.listening import listen, url_of
    from flows.serving.server import serve_app
    from labeling.explorer.browse import Browser
    from labeling.explorer.mask_proposals import MaskProposals
    from labeling.explorer.pictures import Pictures, default_cache
    from labeling.explorer.review import Review
    from labeling.explorer.session import DatasetSession, QueryLimits
    from labeling.sdd.query import refuse_no_dataset

    with exit_on_storage_error(root):
        refuse_no_dataset(root)
        cache = cache or default_cache()
        refuse_unwritable(storage_path(cache), "--cache")
        with listen(host, port) as listener:
            session = DatasetSession(root, cache, QueryLimits(memory=memory, timeout_s=timeout))
            pictures = Pictures(session.store, cache)
            proposals = MaskProposals(pictures, _segmenter_loader(config, set_))
            review = Review(session.store, author or getpass.getuser(), proposals)
            explorer = Explorer(session, Browser(session), pictures, proposals, review, root)
            token = None if is_loopback(host) else make_token()
            url = url_of(host, listener.getsockname()[1])
            address = url if token is None else f"{url}?token={token}"
            greeting = f"{root}: {address}\nCtrl-C stops it"
            serve_app(make_app(explorer, token), listener, lambda: None, lambda: typer.echo(greeting))
    typer.echo("stopped")


def _segmenter_loader(config: str | None, overrides: list[str] | None) -> "Callable[[], Segmenter[Any]] | None":
    """Return a loader of the segmenter of these settings; None without settings."""
    if config is None and not overrides:
        return None
    from flows.experiment import Experiment
    from labeling.backends.load import load_segmenter

    root = 'labeling.root="explored"'  # a setting of builds that has no default
    segment = load(Experiment, config, (root, *(overrides or ()))).labeling.segment
    return lambda: load_segmenter(segment)
