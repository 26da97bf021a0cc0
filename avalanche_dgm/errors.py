"""The package's own errors.

Every one says what was wrong and what to do about it. Each also derives from the built-in error
that a caller would expect, so ``except ValueError`` keeps working.
"""

from __future__ import annotations


class AvalancheDGMError(Exception):
    """Base of every error that this package raises on purpose."""


class DataError(AvalancheDGMError, ValueError):
    """The images, labels or task ids given to a method cannot be learned."""


class ShapeError(DataError):
    """Images have the wrong shape, or another shape than those learned before."""


class LabelError(DataError):
    """Labels are not whole numbers in the range of the learner's outputs."""


class RangeError(DataError):
    """Intensities are not finite, or outside the range that the generator can produce."""


class ConfigError(AvalancheDGMError, ValueError):
    """A hyper-parameter, or a combination of them, cannot work."""


class CapacityError(ConfigError):
    """The memory cannot hold what ``kappa`` and ``n_max`` promise (Kamra et al. 2017, Sec. 3.1)."""


class UnknownTaskError(AvalancheDGMError, LookupError):
    """A prediction was requested for a task that was never learned."""


class UnsupportedModelError(AvalancheDGMError, TypeError):
    """The strategy's model cannot be wrapped or does not answer with one tensor of logits."""


class DivergenceError(AvalancheDGMError, RuntimeError):
    """Training produced a loss that is not finite; the last good weights were put back."""


class RanksDifferError(AvalancheDGMError, RuntimeError):
    """The processes of a distributed run do not remember the same."""


class CheckpointError(AvalancheDGMError, RuntimeError):
    """A checkpoint is damaged or belongs to something else."""


class StorageError(AvalancheDGMError, OSError):
    """A file cannot be written: the disk is full, or writing is not allowed."""
