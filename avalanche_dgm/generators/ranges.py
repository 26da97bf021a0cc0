"""The range of intensities: given, known because samples look like pixels, or a scale only."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from avalanche_dgm.checks import check_range
from avalanche_dgm.errors import RangeError

#: One number for each channel, or for each feature of a flat sample.
Bounds = tuple[float, ...]

#: Share of the learned range by which later intensities may exceed it; they are clipped.
RANGE_TOLERANCE = 0.25
#: Times the scale that samples may lie away, or may vary less: nothing beyond can be learned with
#: the rest.
_FARTHEST = 1000.0
#: Times the range of the middle 90 % that all intensities may have: little is left of the others.
_WIDEST = 100.0
#: Smallest share of [0, 1] that images of this range fill.
_LEAST_CONTRAST = 0.25
#: Largest value of bytes below which whole numbers are counts of something.
_LEAST_BYTE = 64
#: Share of values, and their number, that are exactly the smallest (and the largest) where a range
#: ends; and how many different values there are at least, as a category has fewer.
_SHARE_AT_AN_END, _AT_AN_END, _LEVELS = 1e-3, 5, 17
#: Standard deviation of a feature, as a share of the median one, below which it is a constant that
#: may vary later.
_LEAST_DEVIATION = 0.1
#: Largest range of intensities, and one over the smallest: squares must not overflow.
_LARGEST = 1e15
#: Values that are looked at where some will do.
_LOOKS = 2**16


def intensity_range(
    images: Tensor, given: tuple[float, float] | None, *, constant: float = 1.0
) -> tuple[Bounds, Bounds]:
    """The smallest and the largest intensity of each channel.

    Args:
        images: Float tensor (N, C, H, W), or (N, D), which has one channel.
        given: What the user says that they are, for all channels, or ``None``.
        constant: Range of a channel that is constant so far, so that scaling stays defined.

    Raises:
        ConfigError: What is given is not a range.
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
    """The range of the first experience's samples: given, or that of pixels; else a scale.

    The scale of images is the range observed, that of vectors `standard_range`.

    Args:
        images: Float tensor (N, C, H, W) or (N, D).
        value_range: Smallest and largest possible intensity, or ``None``.

    Returns:
        Both ends for each channel, or for each feature; and whether they are bounds.
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
    """The distribution of intensities and their scale, from the first experience's samples.

    Chosen freely, grey images and flat samples with bounds (see `first_range`) are Bernoulli, all
    else is Gaussian.

    Args:
        images: Float tensor (N, C, H, W) or (N, D).
        likelihood: ``"auto"``, ``"bernoulli"`` or ``"gaussian"``.
        value_range: Smallest and largest possible intensity, or ``None``.

    Returns:
        ``"bernoulli"`` or ``"gaussian"``, and both ends of the scale for each channel, or for each
        feature.
    """
    low, high, bounded = first_range(images, value_range)
    if likelihood != "auto":
        chosen, found = likelihood, bounded and likelihood == "bernoulli"
    else:
        grey = images.ndim == 2 or images.shape[1] < 3
        chosen, found = "bernoulli" if bounded and grey else "gaussian", grey or not bounded
    if not found:
        low, high = intensity_range(images, value_range)
    return chosen, low, high


def known_range(images: Tensor) -> tuple[Bounds, Bounds] | None:
    """The range of pixels, for samples that look like pixels.

    These are images in [0, 1] with some contrast, or of bytes; and any samples whose values stop at
    both ends, as many are exactly the smallest and exactly the largest one.

    Args:
        images: Float tensor (N, C, H, W) or (N, D).

    Returns:
        Smallest and largest possible intensity of each channel, one for all of (N, D), or ``None``.
        They are the ones observed, unless those leave too little room for the rest of [0, 1].
    """
    low, high = intensity_range(images, None, constant=0.0)
    smallest, largest = min(low), max(high)
    stop = all(map(_stops, _channels(images), low, high))
    if images.ndim == 2:
        # Features may be anything: those of pixels reach both ends.
        is_unit, is_bytes = (stop and (smallest, largest) == (0, top) for top in (1, 255))
    else:
        is_unit = smallest >= 0 and largest <= 1 and largest - smallest >= _LEAST_CONTRAST
        is_bytes = smallest >= 0 and _LEAST_BYTE <= largest <= 255
    if is_unit:
        return _covering(low, high, 1.0)
    if is_bytes and _are_whole(images):
        return _covering(low, high, 255.0)
    if stop and all(len(row.unique()) >= _LEVELS for row in _some(_channels(images))):
        return low, high
    return None


def _are_whole(images: Tensor) -> bool:
    return bool((images == images.round()).all())


def _covering(low: Bounds, high: Bounds, top: float) -> tuple[Bounds, Bounds]:
    """The ranges observed, or 0 to ``top`` where their tolerance does not reach that far."""
    bounds = []
    for bottom, end in zip(low, high, strict=True):
        slack = RANGE_TOLERANCE * (end - bottom)
        bounds.append((bottom, end) if bottom <= slack and end + slack >= top else (0.0, top))
    return tuple(bottom for bottom, _ in bounds), tuple(end for _, end in bounds)


def _stops(values: Tensor, low: float, high: float) -> bool:
    """Whether many of a channel's values (n,) are its smallest, and many its largest."""
    least = max(_AT_AN_END, _SHARE_AT_AN_END * values.numel())
    counts = [int((values == end).sum()) for end in (low, high)]
    return low < high and min(counts) >= least


def standard_range(samples: Tensor) -> tuple[Bounds, Bounds]:
    """A scale for each feature: one standard deviation to both sides of the mean.

    A feature that hardly varies has a tenth of the median deviation, as it may vary later.

    Args:
        samples: Float tensor (N, D).
    """
    values = samples.double()
    mean, deviation = values.mean(dim=0), values.std(dim=0, correction=0)
    # Of equal numbers the mean, and so the deviation from it, is rounded.
    varying = deviation[values.amax(dim=0) > values.amin(dim=0)]
    typical = varying.median() if len(varying) else values.std(correction=0)
    if float(typical) == 0:
        typical = torch.ones_like(typical)
    deviation = torch.maximum(deviation, _LEAST_DEVIATION * typical)
    return tuple((mean - deviation).tolist()), tuple((mean + deviation).tolist())


def check_variety(images: Tensor, *, first: bool) -> None:
    """Checks that a few intensities do not leave the others indistinguishable.

    Args:
        images: Float tensor (N, C, H, W) or (N, D).
        first: Whether their scale is going to be learned from them.

    Raises:
        RangeError: All intensities are equal, or a few of them lie far beyond the others.
    """
    rows = _channels(images)
    low, high = rows.amin(dim=1), rows.amax(dim=1)
    if first and bool((low == high).all()):
        raise RangeError(
            f"All intensities are {float(low[0]):.4g}, so a generator cannot learn their scale."
            " Check the transforms, or begin with an experience that has something in it."
        )
    size = float((high - low).max())
    if size > _LARGEST or (first and size < 1 / _LARGEST):
        raise RangeError(
            f"Intensities go from {float(low.min()):.4g} to {float(high.max()):.4g}, a scale that"
            " single precision has not enough room for. Rescale the images."
        )
    unit, byte = (float(low.min()) >= 0 and float(high.max()) <= top for top in (1, 255))
    if unit or (byte and _are_whole(images)):
        # Nothing is far away there: bright pixels of dark images are no outliers.
        return
    central = _central(rows)
    wild = (central > 0) & (high - low > _WIDEST * central)
    if images.ndim == 2 and bool(wild.any()):
        # A feature may be larger than others, or seldom active, but hardly both.
        own = images.amax(dim=0) - images.amin(dim=0)
        wild = wild & (own > _WIDEST * torch.maximum(_central(images.T), central)).any()
    if bool(wild.any()):
        row = int(wild.nonzero()[0])
        raise RangeError(
            f"Intensities go from {float(low[row]):.4g} to {float(high[row]):.4g}, more than"
            f" {_WIDEST:g} times the range of the middle 90 % of them: a generator would learn"
            " nothing else. Remove or clip the outliers, or pass value_range=(low, high)."
        )


def _central(rows: Tensor) -> Tensor:
    """The range of the middle 90 % of each row (k, n), of some of its values."""
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
    """Checks samples against the range, or the scale, that was learned from the first ones.

    Args:
        images: Float tensor (N, C, H, W) or (N, D).
        low: One end for each channel, or for each feature.
        high: The other end.
        bounded: Whether the generator can make nothing beyond the ends.
        given: Whether the user stated the range; then nothing outside it is accepted.
        what: How messages call the generator.
        remedy: A further way out, for the message.

    Raises:
        RangeError: The generator cannot make such samples: they lie outside its bounds or far away
            from the scale, or vary so little that nothing is seen of them.
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
    seen = (largest - smallest) / (top - bottom)
    vanish = (seen < 1 / _FARTHEST).all() & (seen > 0).any()
    if not given and bool((away > _FARTHEST).any() | vanish):
        row = int(away.argmax())
        raise RangeError(
            f"Intensities go from {float(smallest[row]):.4g} to {float(largest[row]):.4g}, but the"
            f" first experience had a scale of {low[row]:.4g} to {high[row]:.4g}: what differs by"
            f" more than {_FARTHEST:g} times cannot be learned by one generator. Scale the images"
            " the same way in every experience, or pass their full range as value_range=(low,"
            " high)."
        )


def _channels(images: Tensor) -> Tensor:
    """One row for each channel of (N, C, H, W); flat samples (N, D) have one."""
    return images.transpose(0, 1).flatten(1) if images.ndim == 4 else images.reshape(1, -1)


def _some(rows: Tensor) -> Tensor:
    """Evenly chosen values of each row (k, n)."""
    return rows[:, :: max(1, rows.shape[1] // _LOOKS)]
