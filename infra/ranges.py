"""Ranges of numeric settings, so that a slip of the keyboard is refused before anything runs.

Every numeric setting has a lower and an upper bound. The upper bounds lie far above what anybody uses: they catch
`cpus=1e9`, not an unusual machine.
"""

from typing import Annotated

from pydantic import Field

DAY_S = 24 * 3600

Share = Annotated[float, Field(ge=0, le=1)]
"""A part of a whole, a probability, or a score: 0 to 1."""
ShareBelowOne = Annotated[float, Field(ge=0, lt=1)]
"""A decay, or a share that never is the whole."""
Count = Annotated[int, Field(ge=1, le=1_000_000)]
"""How many of something, at least one."""
CountOrZero = Annotated[int, Field(ge=0, le=1_000_000)]
"""How many of something, or none."""
Processes = Annotated[int, Field(ge=1, le=10_000)]
"""Processes, threads or cores."""
Steps = Annotated[int, Field(ge=1, le=1_000_000_000)]
"""Steps of an optimiser."""
StepsOrZero = Annotated[int, Field(ge=0, le=1_000_000_000)]
"""Steps of an optimiser, or none."""
Seed = Annotated[int, Field(ge=0, lt=2**63)]
"""What random numbers follow from; PyTorch and NumPy both take it."""
Pixels = Annotated[int, Field(ge=1, le=65_535)]
"""A side of an image; JPEG has none longer."""
Seconds = Annotated[float, Field(gt=0, le=30 * DAY_S)]
"""A duration, up to a month."""
Rate = Annotated[float, Field(gt=0, le=10)]
"""A learning rate, or another small positive number."""
RateOrZero = Annotated[float, Field(ge=0, le=10)]
"""A learning rate or a decay of weights; 0 turns it off."""
Factor = Annotated[float, Field(ge=0, le=1000)]
"""What something is multiplied by; 0 turns it off."""
