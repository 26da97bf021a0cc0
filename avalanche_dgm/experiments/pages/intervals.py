"""Means over seeds, and how far they may be off."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

from avalanche_dgm.experiments.results import deviation, mean

#: The confidence of an interval.
LEVEL = 0.95
# Student's t, 97.5 %, for 1 to 10 degrees of freedom.
_QUANTILES = (
    12.70620,
    4.30265,
    3.18245,
    2.77645,
    2.57058,
    2.44691,
    2.36462,
    2.30600,
    2.26216,
    2.22814,
)


@dataclass(frozen=True)
class Estimate:
    """What is known of a mean.

    Attributes:
        mean: The mean over the seeds.
        n: Their number.
        sd: Their sample standard deviation; 0 for one seed.
        half: Half the length of the 95 % t interval of the mean; ``None`` for one seed.
    """

    mean: float
    n: int
    sd: float = 0.0
    half: float | None = None

    @property
    def low(self) -> float:
        """Where the interval begins: at the mean if there is none."""
        return self.mean - (self.half or 0.0)

    @property
    def high(self) -> float:
        """Where the interval ends: at the mean if there is none."""
        return self.mean + (self.half or 0.0)


def estimate(values: Sequence[float | None]) -> Estimate | None:
    """Estimates a mean from one value a seed.

    Args:
        values: The values; those that are ``None`` or not finite are left out.

    Returns:
        ``None`` if nothing is left.
    """
    there = [v for v in values if v is not None and math.isfinite(v)]
    if not there:
        return None
    n, sd = len(there), deviation(there)
    half = t_quantile(n - 1) * sd / math.sqrt(n) if n > 1 else None
    return Estimate(mean=mean(there), n=n, sd=sd, half=half)


def t_quantile(freedom: int) -> float:
    """The 97.5 % quantile of Student's t distribution.

    Args:
        freedom: Degrees of freedom, at least 1.

    Returns:
        Exact to three decimals: tabulated to 10, from there on by Fisher's expansion.
    """
    if freedom <= len(_QUANTILES):
        return _QUANTILES[freedom - 1]
    z = NormalDist().inv_cdf((1 + LEVEL) / 2)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return z + sum(term / freedom ** (i + 1) for i, term in enumerate(terms))
