"""Losses of classifiers: distillation, and what is known of the user's own criterion."""

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

#: From logits (n, K) and labels (n,) to a scalar.
Criterion = Callable[[Tensor, Tensor], Tensor]

#: Most classes that a criterion is asked about at once.
_MOST_CLASSES = 128
#: What a criterion must fulfil.
_NEEDED = (
    "Replay is weighed against it, so it has to be a function of logits (n, K) and labels (n,)"
    " alone that returns their mean or their sum over samples"
)


class _UndefinedError(ConfigError):
    """The criterion says nothing of such answers."""


class CriterionScale(NamedTuple):
    """How a criterion compares with the mean cross-entropy.

    Attributes:
        factor: Size of its gradient by a sample's logits, with cross-entropy's as the unit, where
            all classes are rated alike; above 0.
        sums: Whether it adds up samples; otherwise it averages them.
        judged: The classes that it has a gradient for, of those it was asked about.
        takes: ``"logits"``, ``"log-probabilities"`` (as ``NLLLoss`` does) or ``"probabilities"``.
    """

    factor: float = 1.0
    sums: bool = False
    judged: frozenset[int] = frozenset()
    takes: str = "logits"


def measure_criterion(
    criterion: Criterion, *, width: int, classes: Iterable[int], like: Tensor
) -> CriterionScale:
    """Measures a criterion by its gradients. Random number generators stay as they are.

    The factor is exact for multiples of cross-entropy, with class weights, and for log-likelihoods
    of log-probabilities. Adding what does not depend on the logits changes nothing.

    Args:
        criterion: From logits (n, K) and labels (n,) to a scalar.
        width: Number of classes K.
        classes: Labels that occur, from 0 to K - 1; at least one, the first of them count most.
        like: Has the type and device of the logits.

    Raises:
        ConfigError: It is no function of logits and labels alone, neither a mean nor a sum over
            samples, or does not favour the label's class.
    """
    # With a single class there would be nothing to tell apart.
    width = max(width, 2)
    labels = torch.tensor([*classes][:_MOST_CLASSES], device=like.device)
    # Undecided answers: as logits or log-probabilities, else as probabilities.
    answers = (like.new_full((width,), level) for level in (-math.log(width), 1 / width))
    before = global_state()
    try:
        with torch.enable_grad():
            try:
                return _measure(criterion, next(answers), labels)
            except ConfigError as error:
                with suppress(ConfigError):
                    found = _measure(criterion, next(answers), labels)
                    undefined = isinstance(error, _UndefinedError)
                    return found._replace(takes="probabilities") if undefined else found
                raise error
    finally:
        set_global_state(before)


def _measure(criterion: Criterion, answer: Tensor, labels: Tensor) -> CriterionScale:
    def gradient(labels: Tensor) -> Tensor:
        logits = answer.repeat(len(labels), 1).requires_grad_()
        return _gradient(criterion, logits, labels)

    labels = labels[gradient(labels).abs().sum(dim=1) > 0]
    if not len(labels):
        # Nothing can be learned now, as with a single class that all others are masked for.
        return CriterionScale()
    once, again = gradient(labels), gradient(labels)
    if not torch.allclose(once, again, rtol=1e-3, atol=0):
        raise ConfigError(
            f"{_name(criterion)} gives another gradient each time for the same answers. {_NEEDED}."
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
            f"{_name(criterion)} does not get smaller as the label's class is rated higher."
            f" {_NEEDED}."
        )
    others = once.scatter(1, labels[:, None], 0.0)
    # Without the others' share in it, it falls for ever unless somebody else normalises.
    takes = "logits" if bool(others.any()) else "log-probabilities"
    return CriterionScale(factor, sums, frozenset(labels.tolist()), takes)


def _gradient(criterion: Criterion, logits: Tensor, labels: Tensor) -> Tensor:
    try:
        loss = criterion(logits, labels)
    except Exception as error:
        # What a user's own function runs into can be anything.
        raise _UndefinedError(
            f"{_name(criterion)} fails for logits of shape {tuple(logits.shape)} and labels of"
            f" shape {tuple(labels.shape)}: {type(error).__name__}: {error}. {_NEEDED}."
        ) from error
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        kind = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else repr(loss)
        raise ConfigError(f"{_name(criterion)} returns {kind}, not a scalar. {_NEEDED}.")
    found: Tensor | None = None
    if loss.requires_grad:
        (found,) = torch.autograd.grad(loss.sum(), logits, allow_unused=True)
    if found is None:
        raise ConfigError(f"{_name(criterion)} does not depend on the logits. {_NEEDED}.")
    if not bool(torch.isfinite(found).all() and torch.isfinite(loss).all()):
        raise _UndefinedError(
            f"{_name(criterion)} is not finite where all {logits.shape[1]} classes are rated"
            f" alike. {_NEEDED}."
        )
    return found.detach()


def _cross_entropy_gradient(found: Tensor, labels: Tensor) -> Tensor:
    """That of the sum, where all classes are rated alike, among those that were compared."""
    active = found.abs().sum(dim=0) > 0
    if int(active.sum()) < 2:
        active = torch.ones_like(active)
    target = torch.zeros_like(found).scatter_(1, labels[:, None], 1.0)
    return active / active.sum() - target


def _name(criterion: Criterion) -> str:
    name = getattr(criterion, "__name__", type(criterion).__name__)
    return f"The criterion {name}"


class UserCriterion:
    """A criterion of any scale, a mean or a sum over samples; cross-entropy until `set` is called.

    Args:
        weighed: Whether a method weighs anything against it; otherwise any criterion will do.
        soft_labels: Whether replayed samples are labelled by the softmax of a classifier's logits.

    Attributes:
        criterion: From logits (n, K) and labels (n,) to a scalar.
        scale: How it compares with the mean cross-entropy.
    """

    def __init__(self, *, weighed: bool = True, soft_labels: bool = False) -> None:
        self._weighed, self._soft_labels = weighed, soft_labels
        self.criterion: Criterion = F.cross_entropy
        self.scale = CriterionScale()
        self._judged: frozenset[int] = frozenset()
        self._ignored: frozenset[int] = frozenset()

    def __deepcopy__(self, memo: dict[int, Any]) -> UserCriterion:
        # The criterion is the user's: copies refer to the same one.
        other = UserCriterion()
        other.__dict__.update(self.__dict__)
        return other

    def __getstate__(self) -> dict[str, Any]:
        # Nor need it be picklable; it is set again before anything is trained.
        return {**self.__dict__, "criterion": F.cross_entropy}

    def set(
        self, criterion: Criterion, learner: nn.Module, *, width: int, classes: Iterable[int]
    ) -> None:
        """Measures a criterion and goes on with it.

        Args:
            criterion: From logits (n, K) and labels (n,) to a scalar.
            learner: The classifier; its logits are taken to be of the type of its parameters.
            width: Number of its outputs.
            classes: Labels of the experience.

        Raises:
            ConfigError: Nothing can be weighed against it, see `measure_criterion`; or it takes
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
                "The criterion takes probabilities, and soft labels are made of logits or"
                " log-probabilities. Let the model return one of these (CrossEntropyLoss, or"
                " LogSoftmax with NLLLoss), or use labels='hard'."
            )
        self.criterion, self.scale = criterion, scale
        self._ignored = self._judged & {*known} - scale.judged
        self._judged |= scale.judged

    def of_replay(self, logits: Tensor, labels: Tensor, n: int) -> Tensor:
        """What it says of replayed samples, as large as of new ones.

        Args:
            logits: Tensor (m, K).
            labels: int64 tensor (m,).
            n: Number of new samples that they are weighed against.

        Raises:
            ConfigError: It has no gradient for a class that it had one for when it was learned.
        """
        loss = self._judge(logits, labels)
        return loss * (n / len(labels)) if self.scale.sums else loss

    def scaled(self, loss: Tensor, n: int) -> Tensor:
        """Gives another loss this criterion's scale.

        Args:
            loss: A mean over samples, of the size of their cross-entropy.
            n: Number of new samples that it is weighed against.
        """
        size = self.scale.factor * (n if self.scale.sums else 1)
        return loss if size == 1 else size * loss

    def mean(self, logits: Tensor, labels: Tensor) -> Tensor:
        """What it says of samples, as a mean of the size of their cross-entropy.

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
                " which were learned before, so replaying them would do nothing. Use one that"
                " judges all classes, such as MaskedCrossEntropy(mask='seen'), or soft labels."
            )
        return self.criterion(logits, labels)


def soft_targets(logits: Tensor, *, allowed: Tensor, temperature: float) -> Tensor:
    """Turns a teacher's logits into probabilities over the classes that it knows.

    Args:
        logits: Tensor (n, K).
        allowed: bool tensor (n, K) or (K,), true where the teacher has learned the class; each row
            holds at least one.
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
        temperature: Above 0, the one with which the targets were made. The factor of its square
            keeps the gradient's size independent of it (Hinton et al. 2015, Sec. 2).

    Returns:
        Tensor (n,).
    """
    logits = at_least_single(logits)
    log_probabilities = F.log_softmax(logits / temperature, dim=1)[:, : targets.shape[1]]
    # A class without a target may have no output at all, a logit of minus infinity.
    parts = (targets * log_probabilities).masked_fill(targets == 0, 0.0)
    return -parts.sum(dim=1) * temperature**2
