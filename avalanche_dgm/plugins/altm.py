"""A-LTM as an Avalanche plugin."""

from __future__ import annotations

from typing import Any

from avalanche_dgm.methods import ALTM
from avalanche_dgm.plugins.experiences import TaskOracle
from avalanche_dgm.plugins.wrapping import WrappingPlugin
from avalanche_dgm.signatures import takes_arguments_of


@takes_arguments_of(ALTM)
class ALTMPlugin(WrappingPlugin):
    """Active long-term memory (Furlanello et al. 2016) for any strategy, without an argument.

    A frozen copy of the model, made after each experience, holds the model near its old answers
    while it learns the next one::

        strategy = Naive(model=net, optimizer=optimizer, plugins=[ALTMPlugin()])

    With ``replay="latent-replay"`` ``strategy.model`` is wrapped, see `WrappingPlugin`; with any
    other it stays the object that it was.

    Args:
        seed: Seed of what is drawn; ``None`` follows ``torch.manual_seed``.
        oracle: How tasks are told apart in training; see `MethodPlugin`.
        progress: Whether to show progress bars.
        **hyper: Any argument of `avalanche_dgm.methods.ALTM`.

    Raises:
        ConfigError: A hyper-parameter is unknown or cannot work.
    """

    method: ALTM

    def __init__(
        self,
        *,
        seed: int | None = None,
        oracle: str | TaskOracle = "auto",
        progress: bool = False,
        **hyper: Any,
    ) -> None:
        super().__init__(ALTM(seed=seed, **hyper), oracle=oracle, progress=progress)
