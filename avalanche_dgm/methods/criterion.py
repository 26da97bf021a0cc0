"""The user's criterion, as methods weigh their own losses against it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avalanche_dgm.errors import ConfigError
from avalanche_dgm.losses import Criterion, CriterionScale, measure_criterion


class UserCriterion:
    """A criterion of any scale, a mean or a sum over samples; cross-entropy until `set` is called.

    Attributes:
        criterion: From logits (n, K) and labels (n,) to a scalar.
        scale: How it compares with the mean cross-entropy.
    """

    def __init__(self) -> None:
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
            ConfigError: Nothing can be weighed against it, see `measure_criterion`.
        """
        known = [c for c in dict.fromkeys([*classes, *sorted(self._judged)]) if c < width]
        own = next((p for p in learner.parameters() if p.is_floating_point()), torch.empty(0))
        like = own.new_empty((), dtype=torch.promote_types(own.dtype, torch.float32))
        scale = measure_criterion(criterion, width=width, classes=known, like=like)
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
