"""Values with 95 % intervals, and the cost of shards as a line: a part per shard, and a part per image."""

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Self

CONFIDENCE = 0.95
_LEAST_SPREAD = 1e-6
"""Least relative variance of the sizes of shards from which both parts are estimated."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A value with the half width of its interval, at `CONFIDENCE`."""

    value: float
    half_width: float

    def times(self, factor: float) -> "Interval":
        """Return the interval of the value times an exact factor, 0 times which is exactly 0 however wide it is."""
        return Interval(self.value * factor, self.half_width * factor if factor else 0.0)

    def plus(self, exact: float) -> "Interval":
        """Return the interval of the value plus an exact one."""
        return Interval(self.value + exact, self.half_width)


@dataclass(frozen=True, slots=True)
class Sums:
    """Sums over shards of their images x and of a cost y, such as seconds or bytes."""

    shards: float
    x: float
    y: float
    x_squared: float
    x_y: float
    y_squared: float

    @classmethod
    def of(cls, images: list[int], costs: list[int]) -> Self:
        """Return the sums of shards with these images and costs."""
        pairs = list(zip(images, costs, strict=True))
        return cls(
            shards=len(pairs),
            x=sum(images),
            y=sum(costs),
            x_squared=sum(x * x for x, _ in pairs),
            x_y=sum(x * y for x, y in pairs),
            y_squared=sum(y * y for _, y in pairs),
        )

    def cost(self, shards: float, images: Interval) -> Interval:
        """Predict the cost of other shards by least squares.

        The cost of a shard is a part that each shard has and a part for each image, both at least 0. Where shards of
        one size cannot tell the two apart, it is all for the images. The interval holds the error of the two parts and
        that of `images`; it is infinite for less than two shards.

        Args:
            shards: number of the other shards.
            images: their images.
        """
        if not self.x:
            return Interval(0.0, 0.0)
        line = self._line()
        per_shard, per_image = line or (0.0, self.y / self.x)
        error = self._line_error(per_image, shards, images.value) if line else self._ratio_error(images.value)
        return Interval(per_shard * shards + per_image * images.value, math.hypot(error, per_image * images.half_width))

    def _line(self) -> tuple[float, float] | None:
        """Return cost per shard and per image; None if the shards do not tell both, or one would be below 0."""
        spread = self.x_squared - self.x**2 / self.shards
        if self.shards < 3 or spread < _LEAST_SPREAD * self.x_squared:
            return None
        per_image = (self.x_y - self.x * self.y / self.shards) / spread
        per_shard = (self.y - per_image * self.x) / self.shards
        return (per_shard, per_image) if min(per_shard, per_image) >= 0 else None

    def _line_error(self, per_image: float, shards: float, images: float) -> float:
        """Return the half width for a line (Draper and Smith, Applied Regression Analysis, Sec. 1.4)."""
        n = self.shards
        spread = self.x_squared - self.x**2 / n
        residual = self.y_squared - self.y**2 / n - per_image * (self.x_y - self.x * self.y / n)
        variance = max(0.0, residual) / (n - 2)
        distance = images - shards * self.x / n
        return student_t(int(n) - 2) * math.sqrt(variance * (shards**2 / n + distance**2 / spread))

    def _ratio_error(self, images: float) -> float:
        """Return the half width for a ratio of sums (Cochran, Sampling Techniques, Sec. 6.3)."""
        if self.shards < 2:
            return math.inf
        ratio = self.y / self.x
        spread = max(0.0, self.y_squared - 2 * ratio * self.x_y + ratio**2 * self.x_squared)
        deviation = math.sqrt(self.shards / (self.shards - 1) * spread) / self.x
        return student_t(int(self.shards) - 1) * deviation * images


def total(intervals: list[Interval]) -> Interval:
    """Return the sum, with the interval of values that all err together."""
    return Interval(sum(one.value for one in intervals), sum(one.half_width for one in intervals))


def share(part: float, whole: float) -> Interval:
    """Return a share with its interval by Agresti and Coull."""
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    centre = (part + z**2 / 2) / (whole + z**2)
    return Interval(part / whole if whole else 0.0, z * math.sqrt(centre * (1 - centre) / (whole + z**2)))


def student_t(freedom: int) -> float:
    """Return Student's t of `CONFIDENCE`, two-sided, by Hill's expansion; within 1 % from three degrees of freedom."""
    exact = {1: 12.706, 2: 4.303}
    if freedom in exact:
        return exact[freedom]
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return math.fsum(term / freedom**power for power, term in enumerate(terms))
