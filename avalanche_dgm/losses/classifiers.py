"""Losses of classifiers: distillation, and the scale of the user's criterion."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avalanche_dgm.errors import ConfigError
from avalanche_dgm.modules import at_least_single
from avalanche_dgm.randomness import global_state, set_global_state

#: Function from logits (n, K) and labels (n,) to a scalar.
Criterion = Callable[[Tensor, Tensor], Tensor]

#: Maximum number of classes with which a criterion is measured.
_MOST_CLASSES = 128
#: Requirement on a criterion, for messages.
_NEEDED = (
    "Replay is weighted against it, so it must be a function of only logits (n, K) and labels (n,)"
    " that returns a mean or sum over samples"
)


class _UndefinedError(ConfigError):
    """The criterion is not defined for such outputs."""


class CriterionScale(NamedTuple):
    """The scale of a criterion relative to the mean cross-entropy.

    Attributes:
        factor: Size of its gradient with respect to a sample's logits, relative to that of
            cross-entropy, at equal logits; above 0.
        sums: Whether it sums over samples; otherwise it averages.
        judged: The measured classes for which it has a gradient.
        takes: ``"logits"``, ``"log-probabilities"`` (like ``NLLLoss``) or ``"probabilities"``.
    """

    factor: float = 1.0
    sums: bool = False
    judged: frozenset[int] = frozenset()
    takes: str = "logits"


def measure_criterion(
    criterion: Criterion, *, width: int, classes: Iterable[int], like: Tensor
) -> CriterionScale:
    """Measures a criterion by its gradients; does not change random states.

    The factor is exact for multiples of cross-entropy, with class weights, and for log-likelihoods
    of log-probabilities. Terms that do not depend on the logits have no effect.

    Args:
        criterion: From logits (n, K) and labels (n,) to a scalar.
        width: Number of classes K.
        classes: One or more labels, from 0 to K - 1, in order of importance.
        like: Tensor with the type and device of the logits.

    Raises:
        ConfigError: It is not a function of only logits and labels, neither a mean nor a sum over
            samples, or does not decrease with the logit of the label's class.
    """
    # A single class would have no gradient.
    width = max(width, 2)
    labels = torch.tensor([*classes][:_MOST_CLASSES], device=like.device)
    # Uniform outputs, as logits or log-probabilities and as probabilities.
    logs, shares = (like.new_full((width,), level) for level in (-math.log(width), 1 / width))
    before = global_state()
    try:
        with torch.enable_grad():
            try:
                return _measure(criterion, logs, labels)
            except ConfigError as error:
                with suppress(ConfigError):
                    if not isinstance(error, _UndefinedError):
                        return _measure(criterion, shares, labels)
                    scale = _measure(_after_softmax(criterion), logs, labels)
                    return scale._replace(takes="probabilities")
                raise error
    finally:
        set_global_state(before)


def _after_softmax(criterion: Criterion) -> Criterion:
    """A criterion of probabilities as one of logits, by which its gradients are comparable."""
    return lambda logits, labels: criterion(logits.softmax(dim=1), labels)


def _measure(criterion: Criterion, output: Tensor, labels: Tensor) -> CriterionScale:
    def gradient(labels: Tensor) -> Tensor:
        logits = output.repeat(len(labels), 1).requires_grad_()
        return _gradient(criterion, logits, labels)

    labels = labels[gradient(labels).abs().sum(dim=1) > 0]
    if not len(labels):
        # No gradient, as with a single class when all others are masked.
        return CriterionScale()
    once, again = gradient(labels), gradient(labels)
    if not torch.allclose(once, again, rtol=1e-3, atol=0):
        raise ConfigError(
            f"{_name(criterion)} has different gradients for the same logits. {_NEEDED}."
        )
    twice = gradient(labels.repeat(2))[: len(labels)]
    share = float((twice * once).sum() / once.square().sum())
    sums = abs(share - 1) < 0.01
    if not sums and abs(share - 0.5) > 0.01:
        raise ConfigError(
            f"{_name(criterion)} is neither a mean nor a sum over samples: with each sample twice,"
            f" a sample's gradient is {share:.3g} times as large, not 0.5 or 1 times. {_NEEDED}."
        )
    expected = _cross_entropy_gradient(once, labels)
    factor = float((once * expected).sum() / expected.square().sum())
    factor = float(f"{factor * (1 if sums else len(labels)):.4g}")
    if not factor > 0:
        raise ConfigError(
            f"{_name(criterion)} does not decrease with the logit of the label's class. {_NEEDED}."
        )
    others = once.scatter(1, labels[:, None], 0.0)
    # If it does not depend on the other outputs, these must be normalised already.
    takes = "logits" if bool(others.any()) else "log-probabilities"
    return CriterionScale(factor, sums, frozenset(labels.tolist()), takes)


def _gradient(criterion: Criterion, logits: Tensor, labels: Tensor) -> Tensor:
    try:
        loss = criterion(logits, labels)
    except Exception as error:
        # A user's function may raise any error.
        raise _UndefinedError(
            f"{_name(criterion)} fails for logits of shape {tuple(logits.shape)} and labels of"
            f" shape {tuple(labels.shape)}: {type(error).__name__}: {error}. {_NEEDED}."
        ) from error
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        kind = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else repr(loss)
        raise ConfigError(f"{_name(criterion)} returns {kind}, not a scalar. {_NEEDED}.")
    gradient: Tensor | None = None
    if loss.requires_grad:
        (gradient,) = torch.autograd.grad(loss.sum(), logits, allow_unused=True)
    if gradient is None:
        raise ConfigError(f"{_name(criterion)} does not depend on the logits. {_NEEDED}.")
    if not bool(torch.isfinite(gradient).all() and torch.isfinite(loss).all()):
        raise _UndefinedError(
            f"{_name(criterion)} is not finite for equal logits of all {logits.shape[1]} classes."
            f" {_NEEDED}."
        )
    return gradient.detach()


def _cross_entropy_gradient(gradient: Tensor, labels: Tensor) -> Tensor:
    """Gradient of the summed cross-entropy at equal logits, over the classes with a gradient."""
    active = gradient.abs().sum(dim=0) > 0
    if int(active.sum()) < 2:
        active = torch.ones_like(active)
    target = torch.zeros_like(gradient).scatter_(1, labels[:, None], 1.0)
    return active / active.sum() - target


def _name(criterion: Criterion) -> str:
    name = getattr(criterion, "__name__", type(criterion).__name__)
    return f"The criterion {name}"


class UserCriterion:
    """The user's criterion and its scale; cross-entropy until `set` is called.

    Args:
        weighed: Whether a method weights another loss against it; otherwise it is not measured.
        soft_labels: Whether replayed samples have soft labels.

    Attributes:
        criterion: From logits (n, K) and labels (n,) to a scalar.
        scale: Its scale relative to the mean cross-entropy.
    """

    def __init__(self, *, weighed: bool = True, soft_labels: bool = False) -> None:
        self._weighed, self._soft_labels = weighed, soft_labels
        self.criterion: Criterion = F.cross_entropy
        self.scale = CriterionScale()
        self._judged: frozenset[int] = frozenset()
        self._ignored: frozenset[int] = frozenset()

    def __deepcopy__(self, memo: dict[int, Any]) -> UserCriterion:
        # Copies share the user's criterion.
        other = UserCriterion()
        other.__dict__.update(self.__dict__)
        return other

    def __getstate__(self) -> dict[str, Any]:
        # It may not be picklable, and it is set again before training.
        return {**self.__dict__, "criterion": F.cross_entropy}

    def set(
        self, criterion: Criterion, learner: nn.Module, *, width: int, classes: Iterable[int]
    ) -> None:
        """Sets and measures the criterion.

        Args:
            criterion: From logits (n, K) and labels (n,) to a scalar.
            learner: The classifier, whose logits are assumed to have the type of its parameters.
            width: Number of its outputs.
            classes: Labels of the experience.

        Raises:
            ConfigError: Its scale cannot be measured, see `measure_criterion`; or it takes
                probabilities, and replayed samples have soft labels.
        """
        if not self._weighed:
            return
        known = [c for c in dict.fromkeys([*classes, *sorted(self._judged)]) if c < width]
        own = next((p for p in learner.parameters() if p.is_floating_point()), torch.empty(0))
        like = own.new_empty((), dtype=torch.promote_types(own.dtype, torch.float32))
        scale = measure_criterion(criterion, width=width, classes=known, like=like)
        if self._soft_labels and scale.takes == "probabilities":
            raise ConfigError(
                "The criterion takes probabilities, but soft labels are computed from logits or"
                " log-probabilities. Let the model return one of these (CrossEntropyLoss, or"
                " LogSoftmax with NLLLoss), or use labels='hard'."
            )
        self.criterion, self.scale = criterion, scale
        self._ignored = self._judged & {*known} - scale.judged
        self._judged |= scale.judged

    def of_replay(self, logits: Tensor, labels: Tensor, n: int) -> Tensor:
        """The criterion on replayed samples, on the scale of that on new samples.

        Args:
            logits: Tensor (m, K).
            labels: int64 tensor (m,).
            n: Number of new samples in the step.

        Raises:
            ConfigError: It has no gradient for a class for which it had one earlier.
        """
        loss = self._judge(logits, labels)
        return loss * (n / len(labels)) if self.scale.sums else loss

    def scaled(self, loss: Tensor, n: int) -> Tensor:
        """Scales another loss to this criterion's scale.

        Args:
            loss: A mean over samples, on the scale of cross-entropy.
            n: Number of new samples in the step.
        """
        size = self.scale.factor * (n if self.scale.sums else 1)
        return loss if size == 1 else size * loss

    def mean(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The criterion as a mean over samples, on the scale of cross-entropy.

        Args:
            logits: Tensor (n, K).
            labels: int64 tensor (n,).

        Raises:
            ConfigError: See `of_replay`.
        """
        size = self.scale.factor * (len(labels) if self.scale.sums else 1)
        loss = self._judge(logits, labels)
        return loss if size == 1 else loss / size

    def _judge(self, logits: Tensor, labels: Tensor) -> Tensor:
        if self._ignored:
            raise ConfigError(
                f"The criterion ignores the classes {sorted(self._ignored)} in this experience,"
                " which were learned before, so replaying them would have no effect. Use one for"
                " all classes, such as MaskedCrossEntropy(mask='seen'), or soft labels."
            )
        return self.criterion(logits, labels)


def soft_targets(logits: Tensor, *, allowed: Tensor, temperature: float) -> Tensor:
    """Converts a teacher's logits to probabilities over the classes that it has learned.

    Args:
        logits: Tensor (n, K).
        allowed: bool tensor (n, K) or (K,), true for classes that the teacher has learned, at least
            one in each row.
        temperature: Above 0; larger is softer.

    Returns:
        Tensor (n, K), rows sum to one, zero outside ``allowed``.
    """
    logits = at_least_single(logits)
    return torch.softmax((logits / temperature).masked_fill(~allowed, float("-inf")), dim=1)


def distillation(logits: Tensor, targets: Tensor, *, temperature: float) -> Tensor:
    """Cross-entropy of softened predictions against soft targets, times the squared temperature.

    Targets narrower than the logits (the student has grown) count as zero on the new classes.

    Args:
        logits: Tensor (n, K), the student's.
        targets: Tensor (n, J), J <= K, rows sum to one.
        temperature: Temperature of the targets, above 0. The factor of its square keeps the
            gradient's size independent of it (Hinton et al. 2015, Sec. 2).

    Returns:
        Tensor (n,).
    """
    logits = at_least_single(logits)
    log_probabilities = F.log_softmax(logits / temperature, dim=1)[:, : targets.shape[1]]
    # A class without a target may have a logit of minus infinity.
    parts = (targets * log_probabilities).masked_fill(targets == 0, 0.0)
    return -parts.sum(dim=1) * temperature**2
