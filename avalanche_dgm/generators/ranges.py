"""The range of intensities: given, inferred for samples that look like pixels, or a scale."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from avalanche_dgm.checks import check_range
from avalanche_dgm.errors import RangeError

#: One number for each channel, or for each feature of a flat sample.
Bounds = tuple[float, ...]

#: Fraction of the learned range by which later intensities may exceed it; generated ones do not.
RANGE_TOLERANCE = 0.25
#: Maximum distance of samples from the scale, and maximum ratio of the scale to their range, with
#: which they can be learned together with the first samples.
_FARTHEST = 1000.0
#: Maximum ratio of the range of all intensities to that of the middle 90 %.
_WIDEST = 100.0
#: Minimum range of the values of images in [0, 1].
_LEAST_CONTRAST = 0.25
#: Minimum largest value of images of bytes; integers below are taken for counts.
_LEAST_BYTE = 64
#: Minimum fraction and number of values that equal the smallest (and the largest) one, for these to
#: be bounds; and minimum number of distinct values, as categories have fewer.
_SHARE_AT_AN_END, _AT_AN_END, _LEVELS = 1e-3, 5, 17
#: Minimum scale of a feature, relative to the median standard deviation, as a constant feature may
#: vary later.
_LEAST_DEVIATION = 0.1
#: Largest range of intensities, and one over the smallest, as squares must not overflow.
_LARGEST = 1e15
#: Number of values for estimates from a part of the values.
_LOOKS = 2**16


def intensity_range(
    images: Tensor, given: tuple[float, float] | None, *, constant: float = 1.0
) -> tuple[Bounds, Bounds]:
    """The smallest and the largest intensity of each channel; (N, D) have one.

    It is the range that the user gave for all channels, if there is one. A constant channel has the
    range ``constant``, above 0 to make scaling well-defined.
    """
    rows = _channels(images)
    if given is not None:
        check_range(given)
        low, high = float(given[0]), float(given[1])
        return (low,) * len(rows), (high,) * len(rows)
    smallest, largest = rows.amin(dim=1).tolist(), rows.amax(dim=1).tolist()
    return tuple(smallest), tuple(
        h if h > lo else lo + constant for lo, h in zip(smallest, largest, strict=True)
    )


def first_range(
    images: Tensor, value_range: tuple[float, float] | None
) -> tuple[Bounds, Bounds, bool]:
    """The range of the first experience's samples: given or that of pixels; otherwise a scale.

    The scale of images is the observed range, that of vectors `standard_range`. Returns lower and
    upper end for each channel or feature, and whether they are bounds.
    """
    known = known_range(images) if value_range is None else intensity_range(images, value_range)
    if known is not None:
        return *known, True
    scale = standard_range(images) if images.ndim == 2 else intensity_range(images, None)
    return *scale, False


def choose_scale(
    images: Tensor,
    *,
    likelihood: Literal["auto", "bernoulli", "gaussian"] = "auto",
    value_range: tuple[float, float] | None = None,
) -> tuple[Literal["bernoulli", "gaussian"], Bounds, Bounds]:
    """The likelihood of intensities and their scale, from the first experience's samples.

    With ``"auto"``, grey images and flat samples with bounds (see `first_range`) are Bernoulli,
    others are Gaussian. Returns lower and upper end of the scale for each channel or feature.
    """
    low, high, bounded = first_range(images, value_range)
    if likelihood != "auto":
        chosen, keep_range = likelihood, bounded and likelihood == "bernoulli"
    else:
        grey = images.ndim == 2 or images.shape[1] < 3
        chosen, keep_range = "bernoulli" if bounded and grey else "gaussian", grey or not bounded
    if not keep_range:
        low, high = intensity_range(images, value_range)
    return chosen, low, high


def known_range(images: Tensor) -> tuple[Bounds, Bounds] | None:
    """The range of pixels, for samples that look like pixels.

    These are images in [0, 1] with some contrast, images of bytes, and samples that are clipped at
    both ends, with many values equal to the smallest and to the largest one. The range of a channel
    is the observed one, or [0, 1] or [0, 255] if the tolerance does not cover these.
    """
    low, high = intensity_range(images, None, constant=0.0)
    smallest, largest = min(low), max(high)
    clipped = all(map(_is_clipped, _channels(images), low, high))
    if images.ndim == 2:
        # Vectors are only taken for pixels if they reach both ends.
        is_unit, is_bytes = (clipped and (smallest, largest) == (0, top) for top in (1, 255))
    else:
        is_unit = smallest >= 0 and largest <= 1 and largest - smallest >= _LEAST_CONTRAST
        is_bytes = smallest >= 0 and _LEAST_BYTE <= largest <= 255
    if is_unit:
        return _covering(low, high, 1.0)
    if is_bytes and _are_whole(images):
        return _covering(low, high, 255.0)
    if clipped and all(len(row.unique()) >= _LEVELS for row in _some(_channels(images))):
        return low, high
    return None


def _are_whole(images: Tensor) -> bool:
    return bool((images == images.round()).all())


def _covering(low: Bounds, high: Bounds, top: float) -> tuple[Bounds, Bounds]:
    """The observed ranges, or 0 to ``top`` for channels whose tolerance does not cover these."""
    bounds = []
    for bottom, end in zip(low, high, strict=True):
        slack = RANGE_TOLERANCE * (end - bottom)
        bounds.append((bottom, end) if bottom <= slack and end + slack >= top else (0.0, top))
    return tuple(bottom for bottom, _ in bounds), tuple(end for _, end in bounds)


def _is_clipped(values: Tensor, low: float, high: float) -> bool:
    """Whether many of a channel's values (n,) equal the smallest, and many the largest one."""
    least = max(_AT_AN_END, _SHARE_AT_AN_END * values.numel())
    counts = [int((values == end).sum()) for end in (low, high)]
    return low < high and min(counts) >= least


def standard_range(samples: Tensor) -> tuple[Bounds, Bounds]:
    """A scale for each feature of samples (N, D): mean plus and minus one standard deviation.

    The standard deviation is at least a tenth of the median one, as features may vary more later.
    """
    values = samples.double()
    mean, deviation = values.mean(dim=0), values.std(dim=0, correction=0)
    # The computed deviation of a constant feature may be above 0, as its mean is rounded.
    varying = deviation[values.amax(dim=0) > values.amin(dim=0)]
    typical = varying.median() if len(varying) else values.std(correction=0)
    if float(typical) == 0:
        typical = torch.ones_like(typical)
    deviation = torch.maximum(deviation, _LEAST_DEVIATION * typical)
    return tuple((mean - deviation).tolist()), tuple((mean + deviation).tolist())


def check_variety(images: Tensor, *, first: bool) -> None:
    """Raises a `RangeError` if all intensities are equal, or a few of them are outliers.

    With ``first``, the scale is determined from these samples.
    """
    rows = _channels(images)
    low, high = rows.amin(dim=1), rows.amax(dim=1)
    if first and bool((low == high).all()):
        raise RangeError(
            f"All intensities are {float(low[0]):.4g}, so a generator cannot learn their scale."
            " Check the transforms, or begin with an experience whose samples vary."
        )
    size = float((high - low).max())
    if size > _LARGEST or (first and size < 1 / _LARGEST):
        raise RangeError(
            f"Intensities range from {float(low.min()):.4g} to {float(high.max()):.4g}, too large"
            " or too small a scale for single precision. Rescale the images."
        )
    unit, byte = (float(low.min()) >= 0 and float(high.max()) <= top for top in (1, 255))
    if unit or (byte and _are_whole(images)):
        # Within these bounds bright pixels of dark images are no outliers.
        return
    central = _central(rows)
    outliers = (central > 0) & (high - low > _WIDEST * central)
    if images.ndim == 2 and bool(outliers.any()):
        # A feature may be larger than others, or seldom active, but hardly both.
        own = images.amax(dim=0) - images.amin(dim=0)
        outliers = outliers & (own > _WIDEST * torch.maximum(_central(images.T), central)).any()
    if bool(outliers.any()):
        row = int(outliers.nonzero()[0])
        raise RangeError(
            f"Intensities range from {float(low[row]):.4g} to {float(high[row]):.4g}, more than"
            f" {_WIDEST:g} times the range of the middle 90 % of them: a generator would only"
            " learn the outliers. Remove or clip them, or pass value_range=(low, high)."
        )


def _central(rows: Tensor) -> Tensor:
    """The range of the middle 90 % of each row (k, n), estimated from a part of its values."""
    ordered = _some(rows).sort(dim=1).values
    n = ordered.shape[1]
    return ordered[:, min(round(0.95 * n), n - 1)] - ordered[:, round(0.05 * n)]


def check_scale(
    images: Tensor,
    low: Bounds,
    high: Bounds,
    *,
    bounded: bool = False,
    given: bool = False,
    what: str = "a generator",
    remedy: str = "",
) -> None:
    """Checks samples against the range or scale of the first ones, for each channel or feature.

    Args:
        images: Float tensor (N, C, H, W) or (N, D).
        low: Lower ends.
        high: Upper ends.
        bounded: Whether the generator cannot generate values outside.
        given: Whether the user gave the range; then nothing outside it is accepted.
        what: Name of the generator, for the message.
        remedy: A further remedy, for the message.

    Raises:
        RangeError: They lie outside the bounds or far from the scale, or vary too little.
    """
    rows = images.T if len(low) == images.shape[1] and images.ndim == 2 else _channels(images)
    smallest, largest = rows.amin(dim=1).double(), rows.amax(dim=1).double()
    bottom, top = smallest.new_tensor(low), smallest.new_tensor(high)
    away = torch.maximum(bottom - smallest, largest - top) / (top - bottom)
    outside = away > (1e-6 if given else RANGE_TOLERANCE)
    if bounded and bool(outside.any()):
        row = int(outside.nonzero()[0])
        raise RangeError(
            f"Channel {row} has intensities from {float(smallest[row]):.4g} to"
            f" {float(largest[row]):.4g}, but {what} for {low[row]:.4g} to {high[row]:.4g} cannot"
            " produce them. Scale the images the same way in every experience, or pass their full"
            f" range as value_range=(low, high){remedy}."
        )
    relative = (largest - smallest) / (top - bottom)
    vanish = (relative < 1 / _FARTHEST).all() & (relative > 0).any()
    if not given and bool((away > _FARTHEST).any() | vanish):
        row = int(away.argmax())
        raise RangeError(
            f"Intensities range from {float(smallest[row]):.4g} to {float(largest[row]):.4g}, but"
            f" the first experience had a scale of {low[row]:.4g} to {high[row]:.4g}: scales that"
            f" differ by more than {_FARTHEST:g} times cannot be learned by one generator. Scale"
            " the images the same way in every experience, or pass their full range as"
            " value_range=(low, high)."
        )


def _channels(images: Tensor) -> Tensor:
    """One row for each channel of (N, C, H, W); flat samples (N, D) have one."""
    return images.transpose(0, 1).flatten(1) if images.ndim == 4 else images.reshape(1, -1)


def _some(rows: Tensor) -> Tensor:
    """Evenly spaced values of each row (k, n)."""
    return rows[:, :: max(1, rows.shape[1] // _LOOKS)]
