"""Modules of a package are imported without the rest of it."""

import subprocess
import sys

import pytest

PROGRAM = """
import sys
from infra.imports import without_package_code
with without_package_code("img2dataset"):
    from img2dataset.reader import Reader
print(Reader.__module__, *{"ray", "albumentations", "torch", "wandb", "img2dataset"} & set(sys.modules))
"""


def test_the_reader_comes_without_the_other_modules() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["img2dataset.reader"]


@pytest.mark.parametrize("first", ["reader alone", "package"])
def test_the_whole_package_can_be_imported_before_and_after(first: str) -> None:
    whole = "from infra.imports import without_wandb\nwith without_wandb():\n    import img2dataset.distributor\n"
    parts = [whole, PROGRAM] if first == "package" else [PROGRAM, whole]
    after = "assert img2dataset.distributor.ray_distributor and img2dataset.download"
    subprocess.run([sys.executable, "-c", "\n".join([*parts, after])], check=True)
