"""`subject-diffusion serve`: images over HTTP."""

import logging
import os
from pathlib import Path
from typing import Annotated

import typer

from flows.exit_codes import exit_on_expected_error
from infra.logs import setup_logs

TOKEN_VARIABLE = "SUBJECT_DIFFUSION_TOKEN"


def serve(
    model: Annotated[
        Path | None,
        typer.Option(help="Folder of the model.  [default: the small model of this repository]", show_default=False),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on. Beyond this machine, requests need a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes any free one.")] = 7860,
    token: Annotated[
        str | None,
        typer.Option(
            envvar=TOKEN_VARIABLE,
            help="Access token.  [default: none on loopback; otherwise a new one, which is printed]",
            show_default=False,
            show_envvar=False,
        ),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="Device, such as cuda:1.  [default: a GPU, if there is one]")
    ] = None,
    dtype: Annotated[str, typer.Option(help="Precision of the weights: float32, float16 or bfloat16.")] = "float32",
    cutout: Annotated[
        str,
        typer.Option(help="Settings of the networks for cut-outs: a TOML file, or a name in infra/configs."),
    ] = "demo",
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="LIMIT=VALUE", help="Override a limit: max_waiting=100; may be repeated."),
    ] = None,
) -> None:
    """Serve a page for people, and OpenAI's API for images for programs, until Ctrl-C."""
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    setup_logs(logging.WARNING)  # before the libraries that it silences are imported
    from flows.cutout_networks import load_cutter
    from flows.generation.errors import GenerationError
    from flows.generation.generator import DEFAULT_MODEL, Generator
    from flows.serving.access import is_loopback, make_token
    from flows.serving.app import make_app
    from flows.serving.limits import parse_limits
    from flows.serving.listening import listen, url_of
    from flows.serving.server import serve_app
    from flows.serving.service import ImageService

    with exit_on_expected_error(GenerationError):
        limits = parse_limits(set_ or ())
        cutter = load_cutter(cutout)
        with listen(host, port) as listener:
            generator = Generator(model or DEFAULT_MODEL, device, dtype, max_pixels=limits.max_pixels)
            service = ImageService(generator, cutter, limits)
            token = token or (None if is_loopback(host) else make_token())
            url = url_of(host, listener.getsockname()[1])
            serve_app(
                make_app(service, token), listener, service.queue.close, lambda: typer.echo(_greeting(url, token))
            )
    typer.echo("stopped")


def _greeting(url: str, token: str | None) -> str:
    lines = [f"Page: {url}" if token is None else f"Page: {url}?token={token}", f"API: {url}v1, described at {url}docs"]
    lines += [] if token is None else [f"Token: {token}"]
    return "\n".join([*lines, "Ctrl-C stops it"])
