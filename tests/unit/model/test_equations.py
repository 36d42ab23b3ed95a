"""Each numbered equation of the paper is implemented by exactly one function, whose docstring names it."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import model

MODULES = sorted(Path(next(iter(model.__path__))).rglob("*.py"))


def implementations(equation: int) -> Iterator[str]:
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and re.search(
                rf"Paper: Eq\. {equation}\b", ast.get_docstring(node) or ""
            ):
                yield f"{path.stem}.{node.name}"


def test_each_equation_has_one_implementation():
    assert {equation: list(implementations(equation)) for equation in (1, 2, 3, 4)} == {
        1: ["attention_maps.cross_attention_map"],
        2: ["losses.attention_map_loss"],
        3: ["losses.training_objective"],
        4: ["denoising.interpolate_denoisers"],
    }
