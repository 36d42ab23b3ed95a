"""Imports of libraries from modules whose shapes are checked, without compiling the libraries again."""

from importlib.util import cache_from_source
from pathlib import Path

from jaxtyping import _import_hook

ROOT = Path(__file__).parents[1]
_tagged_cache = _import_hook._optimized_cache_from_source


def keep_bytecode_of_libraries() -> None:
    """Let jaxtyping's import hook tag the bytecode of this project only.

    The hook renames the bytecode files of all modules that are loaded while a checked module is, so torch, diffusers
    and 3,000 other modules were compiled from source for each worker. It has no setting for this.
    """
    _import_hook._optimized_cache_from_source = _cache_of


def _cache_of(typechecker_hash: str, path: str, debug_override: bool | None = None) -> str:
    if Path(path).is_relative_to(ROOT) and "site-packages" not in path:
        return _tagged_cache(typechecker_hash, path, debug_override)
    return cache_from_source(path, debug_override)
