"""The package's errors.

Every message says what was wrong and what to do. Each class also derives from a built-in error, so
that for example ``except ValueError`` works.
"""

from __future__ import annotations

from typing import TypeVar

T = TypeVar("T")


class AvalancheDGMError(Exception):
    """Base class of all errors of this package."""


class DataError(AvalancheDGMError, ValueError):
    """The images, labels or task labels of an experience cannot be learned."""


class ShapeError(DataError):
    """Images have the wrong shape, or another shape than those learned before."""


class LabelError(DataError):
    """Labels are not integers in the range of the learner's outputs."""


class RangeError(DataError):
    """Intensities are not finite, or outside the range that the generator can produce."""


class ConfigError(AvalancheDGMError, ValueError):
    """A hyper-parameter, or a combination of them, cannot work."""


class CapacityError(ConfigError):
    """The memory does not fit into its budget, or cannot hold a sample of each task or class."""


class UnknownTaskError(AvalancheDGMError, LookupError):
    """A task or class was never learned."""


class UnsupportedModelError(AvalancheDGMError, TypeError):
    """The model cannot be wrapped, split or copied, or does not return one tensor of logits."""


class DivergenceError(AvalancheDGMError, RuntimeError):
    """A loss was not finite; the weights from before were restored."""


class RanksDifferError(AvalancheDGMError, RuntimeError):
    """The processes of a distributed run have different memories."""


class CheckpointError(AvalancheDGMError, RuntimeError):
    """A checkpoint is damaged or belongs to something else."""


class StorageError(AvalancheDGMError, OSError):
    """A file cannot be written: the disk is full, or writing is not allowed."""


def required(value: T | None, what: str, method: str) -> T:
    """A value that the call of a method sets; a `RuntimeError` before that call."""
    if value is None:
        raise RuntimeError(f"There is no {what} yet; call {method}() first.")
    return value
