"""The dual memory as an Avalanche plugin."""

from __future__ import annotations

from typing import Any

from avalanche_dgm.methods import DGDMN
from avalanche_dgm.methods.paper_settings import dgdmn_hyper
from avalanche_dgm.plugins.experiences import TaskOracle
from avalanche_dgm.plugins.wrapping import WrappingPlugin
from avalanche_dgm.signatures import takes_arguments_of


@takes_arguments_of(DGDMN)
class DGDMNPlugin(WrappingPlugin):
    """Deep generative dual memory (Kamra et al. 2017) for any strategy, without an argument.

    The strategy's optimiser and epochs train the small short-term learner of each task. The
    user's model is the long-term learner: it is trained in sleep, after every ``stm_size`` tasks,
    on what the memories generate, and stays the object that the user made. ``strategy.model``
    becomes a `WrappedModel` that holds both; `finish` puts the user's model back::

        strategy = Naive(model=net, optimizer=optimizer, plugins=[DGDMNPlugin()])

    Args:
        seed: Seed of the memory; ``None`` follows ``torch.manual_seed``.
        oracle: How tasks are told apart; see `MethodPlugin`. Used at test time only with
            ``routing="oracle"``.
        progress: Whether to show progress bars.
        **hyper: Any field of `avalanche_dgm.memories.DualMemorySettings`.

    Raises:
        ConfigError: A hyper-parameter is unknown or cannot work.
    """

    method: DGDMN

    def __init__(
        self,
        *,
        seed: int | None = None,
        oracle: str | TaskOracle = "auto",
        progress: bool = False,
        **hyper: Any,
    ) -> None:
        super().__init__(DGDMN(seed=seed, **hyper), oracle=oracle, progress=progress)

    @classmethod
    def paper(cls, stream: str, *, scale: float = 1.0, **overrides: Any) -> DGDMNPlugin:
        """The paper's settings (appendix B); see `avalanche_dgm.methods.paper_settings`.

        DGR as in the paper is ``paper(stream, short_term=False, stm_size=1)``.

        Args:
            stream: ``"digits"``, ``"permnist"`` or ``"tdigits"``.
            scale: Share of the data set that is used; the memory shrinks with it.
            **overrides: Arguments of the plugin that shall differ.
        """
        return cls(**{**dgdmn_hyper(stream, scale=scale), **overrides})

    def sleep(self) -> None:
        """Consolidates now, whether the short-term memory is full or not."""
        self.consolidate()
