"""Tensors of a file against those of a network: what is missing, unexpected, of another shape or type."""

import pytest
import torch
from torch import Tensor

from infra.weights.compare import Differences, compare
from infra.weights.files import WeightsState

NETWORK = {"a": torch.empty(2, 3), "b": torch.empty(4), "index": torch.empty(5, dtype=torch.int64)}


def changed(**tensors: Tensor | None) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in {**NETWORK, **tensors}.items() if tensor is not None}


@pytest.mark.parametrize(
    ("found", "problems"),
    [
        (NETWORK, []),
        (changed(a=torch.empty(2, 3, dtype=torch.bfloat16)), []),
        (changed(a=None), ["1 of 3 tensors are missing: a"]),
        (changed(a=None, b=None), ["2 of 3 tensors are missing, such as a"]),
        (changed(b=torch.empty(4, 1)), ["1 tensor is of another shape: b is [4, 1], not [4]"]),
        (
            changed(a=torch.empty(6), b=torch.empty(())),
            ["2 tensors are of another shape, such as a is [6], not [2, 3]"],
        ),
        (changed(a=torch.empty(2, 3, dtype=torch.int64)), ["1 tensor is of another type of numbers: a"]),
        (changed(a=torch.empty(2, 3, dtype=torch.float8_e5m2)), ["1 tensor is of another type of numbers: a"]),
        (changed(index=torch.empty(5)), ["1 tensor is of another type of numbers: index"]),
        (changed(c=torch.empty(1)), ["1 tensor does not belong to the network: c"]),
        (changed(c=torch.empty(1), d=torch.empty(1)), ["2 tensors do not belong to the network, such as c"]),
        (
            changed(a=None, b=torch.empty(1)),
            ["1 of 3 tensors are missing: a", "1 tensor is of another shape: b is [1], not [4]"],
        ),
    ],
)
def test_each_difference_is_named(found: dict[str, Tensor], problems: list[str]) -> None:
    assert compare(found, NETWORK).problems(strict=True) == problems


def test_unexpected_tensors_are_no_fault_for_a_backend_that_ignores_them() -> None:
    differences = compare(changed(c=torch.empty(1)), NETWORK)
    assert differences.problems(strict=False) == []
    assert differences.unexpected_text("are not used") == "1 tensor is not used: c"


def test_a_file_without_any_tensor_of_the_network_is_another_network_s() -> None:
    assert compare({"x": torch.empty(1)}, NETWORK).state is WeightsState.OTHER
    assert compare(changed(a=None), NETWORK).state is WeightsState.MISMATCH
    assert Differences(count=1).problems(strict=True) == []
