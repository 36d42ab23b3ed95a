"""The networks that cut subjects out of photos: those of the settings, and what the small ones of the project know."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from flows.experiment import CutoutExperiment
from infra.config import load
from labeling.cutout import Cutter
from labeling.errors import NothingFound

SMALL_NETWORKS = Path("miniature/weights")
"""Folder, in that of the project, of the networks that know only the miniature world."""
CHECKOUT = Path(__file__).parents[1]
"""Folder of the project."""


def load_cutter(config: str, overrides: Iterable[str] = ()) -> Cutter:
    """Return what cuts subjects out; its networks are loaded when they are first needed.

    A relative path of weights starts from the working folder, or from the project's folder if nothing is there.

    Args:
        config: settings: a TOML file, or a name in infra/configs.
        overrides: settings of the form table.key=value.

    Raises:
        SettingsError: there is no such file, or a setting is invalid.
    """
    networks = load(CutoutExperiment, config, overrides).labeling
    return Cutter(
        networks.detect.model_copy(update={"checkpoint": _from_checkout(networks.detect.checkpoint)}),
        networks.segment.model_copy(update={"checkpoint": _from_checkout(networks.segment.checkpoint)}),
    )


def _from_checkout(checkpoint: str) -> str:
    in_checkout = CHECKOUT / checkpoint
    return str(in_checkout) if in_checkout.exists() and not Path(checkpoint).exists() else checkpoint


@contextmanager
def naming_small_networks(cutter: Cutter, option: str = "--config") -> Iterator[None]:
    """Add to the error of a subject that was not found that small networks looked for it.

    Args:
        cutter: what looked for it.
        option: option that sets them.
    """
    try:
        yield
    except NothingFound as error:
        remark = small_networks_remark(cutter, option)
        raise NothingFound(f"{error}. {remark}" if remark else str(error)) from error


def small_networks_remark(cutter: Cutter, option: str = "--config") -> str:
    """Return what the small networks of `cutter` know; empty if it has none."""
    small = CHECKOUT / SMALL_NETWORKS
    names = [cutter.detect.checkpoint, cutter.segment.checkpoint]
    named = [Path(name).name for name in names if Path(name).expanduser().resolve().is_relative_to(small)]
    if not named:
        return ""
    return (
        f"The small networks of {SMALL_NETWORKS} ({', '.join(named)}) know only the drawn things and backgrounds of "
        f"the miniature world. Photographs need networks at full size: {option} paper takes them from their hub "
        "(3.3 GB)"
    )
