"""Result of checking one set of weights: a part of a model, its state, its faults and their cure."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from infra.weights.compare import Differences
from infra.weights.files import WeightsFault, WeightsState, first_line
from infra.weights.sources import Cure


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedPart:
    """One part of a model or pipeline whose weights were checked."""

    part: str
    """What the weights are for: "captioner"."""
    setting: str
    """Setting, or option of the command line, that names the weights."""
    source: str
    """Value of the setting: a path, a hub id or the name of a package."""
    state: WeightsState
    size_bytes: int | None
    """Size of the files that were found, in bytes; None if there are none."""
    problems: tuple[str, ...]
    """What is wrong, one sentence each; empty if the weights are fine."""
    notes: tuple[str, ...]
    """What is unusual and needs no cure."""
    cure: Cure | None
    """How to get the weights; None if they are fine."""

    @property
    def fine(self) -> bool:
        """Whether the weights can be loaded, as far as names, shapes and types tell."""
        return self.state is WeightsState.FINE


@dataclass
class Findings:
    """Faults of one part while its files are being checked."""

    expected: tuple[type[Exception], ...]
    """Errors that the backend raises on purpose; their messages are faults as they are."""
    state: WeightsState = WeightsState.FINE
    """State of the first fault."""
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    size_bytes: int | None = None

    def add_fault(self, state: WeightsState, *problems: str) -> None:
        """Add a fault."""
        if self.state is WeightsState.FINE:
            self.state = state
        self.problems += [problem for problem in problems if problem not in self.problems]

    def add_size(self, size_bytes: int) -> None:
        """Add the size of files that were found."""
        self.size_bytes = (self.size_bytes or 0) + size_bytes

    def add_differences(self, differences: Differences, strict: bool = False) -> None:
        """Add the differences between a file and a network.

        Args:
            strict: whether the backend refuses tensors that the network does not have.
        """
        if problems := differences.problems(strict):
            self.add_fault(differences.state, *problems)
        if not strict and differences.unexpected and differences.state is not WeightsState.OTHER:
            self.notes.append(differences.unexpected_text("are not used"))

    @contextmanager
    def collect(self) -> Iterator[None]:
        """Turn an error in the block into a fault, so that the checks after the block run as well."""
        try:
            yield
        except WeightsFault as fault:
            self.add_fault(fault.state, str(fault))
        except self.expected as error:
            self.add_fault(WeightsState.UNREADABLE, first_line(error))
        except Exception as error:  # the libraries raise many kinds for a damaged file
            self.add_fault(WeightsState.UNREADABLE, f"{type(error).__name__}: {first_line(error)}")

    def part(self, part: str, setting: str, source: str, cure: Cure) -> CheckedPart:
        """Return the part with its faults; `cure` applies only if there are any."""
        return CheckedPart(
            part=part,
            setting=setting,
            source=source,
            state=self.state,
            size_bytes=self.size_bytes,
            problems=tuple(self.problems),
            notes=tuple(self.notes),
            cure=cure if self.problems else None,
        )
