"""The build backend of pyproject.toml: setuptools for an editable install, no distributions.

The packages have short top-level names (`model`, `training`), which are safe in a checkout and would overwrite
others in a shared site-packages. So the project is used from a checkout, and nothing is built for an index.
"""

from collections.abc import Mapping
from typing import NoReturn

from setuptools.build_meta import (
    build_editable,
    get_requires_for_build_editable,
    get_requires_for_build_wheel,
    prepare_metadata_for_build_editable,
)

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
]

REASON = (
    "Subject-Diffusion is used from a checkout: its top-level packages (model, training, evaluation and others) have "
    "names that would overwrite other packages in site-packages. Clone the repository and run `make setup`, "
    "or `pip install -e .` inside the clone."
)


def build_wheel(
    wheel_directory: str, config_settings: Mapping[str, str] | None = None, metadata_directory: str | None = None
) -> NoReturn:
    """Refuse to build a wheel."""
    raise SystemExit(REASON)


def build_sdist(sdist_directory: str, config_settings: Mapping[str, str] | None = None) -> NoReturn:
    """Refuse to build a source distribution."""
    raise SystemExit(REASON)
