"""A copy that stays as it was."""

from __future__ import annotations

import copy
from typing import Any, Generic, TypeVar

from torch import nn

from avalanche_dgm.errors import UnsupportedModelError

M = TypeVar("M", bound=nn.Module)


class Frozen(nn.Module, Generic[M]):
    """A deep copy of a module without gradients, in evaluation mode for ever.

    ``train()`` does not thaw it, so that its BatchNorm statistics and dropout stay off even when
    it is a part of something that is put into training mode.

    Args:
        module: What to copy; the original is left alone.
    """

    def __init__(self, module: M) -> None:
        super().__init__()
        self.frozen: M = copy.deepcopy(module)
        self.frozen.requires_grad_(False)
        self.train(False)

    @property
    def module(self) -> M:
        """The copy."""
        return self.frozen

    def train(self, mode: bool = True) -> Frozen[M]:
        """Stays in evaluation mode."""
        return super().train(False)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the copy."""
        return self.frozen(*args, **kwargs)


def frozen_copy(learner: M, need: str) -> Frozen[M]:
    """A frozen copy of the user's model.

    Args:
        learner: The model.
        need: What it is needed for and what to do without it, in sentences.

    Raises:
        UnsupportedModelError: The model cannot be copied.
    """
    try:
        return Frozen(learner)
    except Exception as error:
        # What a copy of a user's model runs into can be anything.
        raise UnsupportedModelError(
            f"The model cannot be copied by copy.deepcopy ({error}). {need}"
        ) from error
