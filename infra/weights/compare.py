"""Compare the tensors of a file with those of a network, by name, shape and kind of number."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from infra.weights.files import WeightsState

T = TypeVar("T", bound="TensorLike")


class TensorLike(Protocol):
    """A tensor, with or without its values: PyTorch's on the meta device."""

    @property
    def shape(self) -> Sequence[int]:
        """Lengths of the axes."""

    def is_floating_point(self) -> bool:
        """Return whether it holds floating-point numbers."""

    def element_size(self) -> int:
        """Return the size of an element, in bytes."""


@dataclass(frozen=True, slots=True)
class Differences:
    """Differences between the tensors of a file and those of a network, each list in order of names."""

    count: int
    """Number of tensors of the network."""
    missing: tuple[str, ...] = ()
    """Tensors of the network that the file lacks."""
    unexpected: tuple[str, ...] = ()
    """Tensors of the file that the network lacks."""
    shapes: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...] = ()
    """Tensors of another shape: name, shape in the file, shape in the network."""
    kinds: tuple[str, ...] = ()
    """Tensors of integers or 8-bit floats in place of floating-point numbers, or the reverse."""

    @property
    def state(self) -> WeightsState:
        """State of the file: of another network if it has none of the tensors."""
        if len(self.missing) == self.count:
            return WeightsState.OTHER
        return WeightsState.MISMATCH

    def problems(self, strict: bool) -> list[str]:
        """Return a sentence for each kind of difference that keeps the weights from loading.

        Args:
            strict: whether unexpected tensors do so.
        """
        sentences = []
        if self.missing:
            sentences.append(f"{len(self.missing)} of {self.count} tensors are missing{_example(self.missing)}")
        if self.shapes:
            name, found, expected = self.shapes[0]
            sentences.append(
                f"{_tensors(self.shapes)} of another shape{_example([name] * len(self.shapes))} is {list(found)}, not "
                f"{list(expected)}"
            )
        if self.kinds:
            sentences.append(f"{_tensors(self.kinds)} of another type of numbers{_example(self.kinds)}")
        if strict and self.unexpected:
            sentences.append(self.unexpected_text("do not belong to the network"))
        return sentences

    def unexpected_text(self, what: str) -> str:
        """Return the number of unexpected tensors, `what` is the matter with them, and an example."""
        verb = what.replace("are ", "is ", 1).replace("do ", "does ", 1) if len(self.unexpected) == 1 else what
        return f"{len(self.unexpected)} tensor{'s' * (len(self.unexpected) > 1)} {verb}{_example(self.unexpected)}"


def compare(found: Mapping[str, TensorLike], expected: Mapping[str, TensorLike]) -> Differences:
    """Return the differences between the tensors of a file and those of a network."""
    both = sorted(found.keys() & expected.keys())
    shapes = [(name, tuple(found[name].shape), tuple(expected[name].shape)) for name in both]
    return Differences(
        count=len(expected),
        missing=tuple(sorted(expected.keys() - found.keys())),
        unexpected=tuple(sorted(found.keys() - expected.keys())),
        shapes=tuple((name, here, there) for name, here, there in shapes if here != there),
        kinds=tuple(name for name in both if holds_numbers(found[name]) != expected[name].is_floating_point()),
    )


def compare_as_transformers(
    found: Mapping[str, T], network: Any, config: object, arguments: Mapping[str, object] | None = None
) -> Differences:
    """Return the differences that transformers itself finds when it loads the tensors, which it renames.

    Args:
        found: tensors of the file, on the meta device.
        network: class of the network, with transformers' `from_pretrained`.
        config: settings of the network.
        arguments: further arguments of the class.
    """
    report, expected = _load_on_meta(found, network, config, arguments or {})
    numbers = {name: tensor for name, tensor in found.items() if holds_numbers(tensor)}
    lost: set[str] = set()
    if len(numbers) < len(found):
        lost = _load_on_meta(numbers, network, config, arguments or {})[0]["missing_keys"] - report["missing_keys"]
    return Differences(
        count=len(expected),
        missing=tuple(sorted(report["missing_keys"])),
        unexpected=tuple(sorted(report["unexpected_keys"])),
        shapes=tuple(sorted((name, tuple(here), tuple(there)) for name, here, there in report["mismatched_keys"])),
        kinds=tuple(sorted(name for name in lost if expected[name].is_floating_point())),
    )


def holds_numbers(tensor: TensorLike) -> bool:
    """Return whether a tensor holds floating-point numbers; those of 8 bits need scales, so they do not count."""
    return tensor.is_floating_point() and tensor.element_size() > 1


def _load_on_meta(
    found: Mapping[str, TensorLike], network: Any, config: object, arguments: Mapping[str, object]
) -> tuple[Mapping[str, set[Any]], Mapping[str, TensorLike]]:
    """Load the tensors into a network on the meta device; return transformers' report and the network's tensors."""
    with _silence("transformers"):
        net, report = network.from_pretrained(
            None,
            config=config,
            state_dict=dict(found),
            device_map={"": "meta"},
            dtype="float32",
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # reported by name
            **arguments,
        )
    return report, net.state_dict()


@contextmanager
def _silence(library: str) -> Iterator[None]:
    """Hide a library's own report of the differences."""
    logger = logging.getLogger(library)
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _tensors(names: Sequence[object]) -> str:
    return "1 tensor is" if len(names) == 1 else f"{len(names)} tensors are"


def _example(names: Sequence[str]) -> str:
    return f": {names[0]}" if len(names) == 1 else f", such as {names[0]}"
