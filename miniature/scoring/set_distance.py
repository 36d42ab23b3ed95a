"""Distance between two sets of pictures: KID on features of the judge.

Source: Binkowski et al., "Demystifying MMD GANs" (2018): the squared maximum mean discrepancy with the kernel
(x . y / D + 1)^3, estimated without bias. Here the features are those of the small judge instead of Inception's, so
values compare models of the miniature world only.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray

from miniature.networks.judge import Judge
from miniature.scoring.figures import Figure
from miniature.training.pictures import pixels, shrink

SUBSETS = 100
"""Number of random halves of the two sets behind the interval."""
_BATCH = 64


@torch.no_grad()
def judge_features(judge: Judge, pictures: Sequence[NDArray[np.uint8]]) -> Float[np.ndarray, "N D"]:
    """Return the pooled features of square RGB pictures."""
    batches = (pictures[first : first + _BATCH] for first in range(0, len(pictures), _BATCH))
    rows = [judge.trunk(pixels([shrink(picture) for picture in batch])) for batch in batches]
    return torch.cat(rows).double().numpy()


def kid(ours: Float[np.ndarray, "N D"], theirs: Float[np.ndarray, "M D"]) -> float:
    """Return the kernel distance of two sets of features, each of at least two; near 0 for sets of one distribution."""
    count, other = len(ours), len(theirs)
    within = _kernel(ours, ours).sum() - np.trace(_kernel(ours, ours))
    within_theirs = _kernel(theirs, theirs).sum() - np.trace(_kernel(theirs, theirs))
    across = _kernel(ours, theirs).mean()
    return float(within / (count * (count - 1)) + within_theirs / (other * (other - 1)) - 2 * across)


def kid_figure(of: dict[str, str], ours: Float[np.ndarray, "N D"], theirs: Float[np.ndarray, "M D"]) -> Figure:
    """Return the distance, with the 95 % interval of random halves of both sets, which vary more than the whole."""
    rng = np.random.default_rng(0)
    halves = [
        kid(*(rows[rng.permutation(len(rows))[: len(rows) // 2]] for rows in (ours, theirs))) for _ in range(SUBSETS)
    ]
    low, high = np.percentile(halves, (2.5, 97.5))
    return Figure(of, "KID", kid(ours, theirs), float(low), float(high), len(ours))


def _kernel(one: Float[np.ndarray, "N D"], other: Float[np.ndarray, "M D"]) -> Float[np.ndarray, "N M"]:
    product: Float[np.ndarray, "N M"] = (one @ other.T / one.shape[1] + 1) ** 3
    return product
