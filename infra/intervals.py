"""Intervals of shares."""

import math

Z = 1.959963984540054
"""Quantile .975 of the normal distribution, for intervals of 95 %."""


def wilson_interval(hits: float, count: float) -> tuple[float, float]:
    """Return the 95 % interval of a share (Wilson, 1927); 0 to 1 where `count` is 0.

    Args:
        hits: number of successes. It need not be whole: see `labeling.quality.estimate`.
        count: number of trials.
    """
    if not count:
        return 0.0, 1.0
    share = hits / count
    middle = share + Z * Z / (2 * count)
    reach = Z * math.sqrt(share * (1 - share) / count + Z * Z / (4 * count * count))
    return max(0.0, (middle - reach) / (1 + Z * Z / count)), min(1.0, (middle + reach) / (1 + Z * Z / count))
