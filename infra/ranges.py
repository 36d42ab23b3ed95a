"""Ranges of numeric settings, which refuse typing errors before any work.

Every numeric setting has a lower and an upper bound. Upper bounds are far above practical values: they catch
`cpus=1e9`, not an unusual machine.
"""

from typing import Annotated

from pydantic import Field

DAY_S = 24 * 3600

Share = Annotated[float, Field(ge=0, le=1)]
"""Share, probability or score, 0 to 1."""
ShareBelowOne = Annotated[float, Field(ge=0, lt=1)]
"""Decay or share, 0 to below 1."""
Count = Annotated[int, Field(ge=1, le=1_000_000)]
"""Number of things, at least 1."""
CountOrZero = Annotated[int, Field(ge=0, le=1_000_000)]
"""Number of things, or 0."""
Processes = Annotated[int, Field(ge=1, le=10_000)]
"""Number of processes, threads or cores."""
Steps = Annotated[int, Field(ge=1, le=1_000_000_000)]
"""Steps of an optimiser, at least 1."""
StepsOrZero = Annotated[int, Field(ge=0, le=1_000_000_000)]
"""Steps of an optimiser, or 0."""
Seed = Annotated[int, Field(ge=0, lt=2**63)]
"""Seed of random numbers, in the range of both PyTorch and NumPy."""
Pixels = Annotated[int, Field(ge=1, le=65_535)]
"""Side of an image in pixels, up to the limit of JPEG."""
Seconds = Annotated[float, Field(gt=0, le=30 * DAY_S)]
"""Duration in seconds, up to 30 days."""
Rate = Annotated[float, Field(gt=0, le=10)]
"""Learning rate, or another small positive number."""
RateOrZero = Annotated[float, Field(ge=0, le=10)]
"""Learning rate or weight decay; 0 turns it off."""
Factor = Annotated[float, Field(ge=0, le=1000)]
"""Multiplier; 0 turns its term off."""
