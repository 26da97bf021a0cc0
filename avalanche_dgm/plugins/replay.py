"""Replay beside the user's training loop: DGR and pseudo-rehearsal."""

from __future__ import annotations

from typing import Any

from avalanche_dgm.methods import DGR, PseudoRehearsal
from avalanche_dgm.plugins.base import MethodPlugin
from avalanche_dgm.plugins.experiences import TaskOracle
from avalanche_dgm.signatures import takes_arguments_of


@takes_arguments_of(DGR)
class DGRPlugin(MethodPlugin):
    """Deep generative replay (Shin et al. 2017) for any strategy, without an argument.

    It owns, trains, moves and saves its generator. Add it to the strategy's plugins::

        strategy = Naive(model=net, optimizer=optimizer, plugins=[DGRPlugin()])

    Args:
        replay_size: Replayed samples a step; ``None`` for as many as are new, and at least 128.
        seed: Seed of the memory; ``None`` follows ``torch.manual_seed``.
        oracle: How tasks are told apart in training; see `MethodPlugin`. Nothing is told to the
            model, neither in training nor at test time.
        progress: Whether to show progress bars.
        **hyper: Any field of `avalanche_dgm.memories.MemorySettings`.

    Raises:
        ConfigError: A hyper-parameter is unknown or cannot work.
    """

    method: DGR

    def __init__(
        self,
        *,
        replay_size: int | None = None,
        seed: int | None = None,
        oracle: str | TaskOracle = "auto",
        progress: bool = False,
        **hyper: Any,
    ) -> None:
        method = DGR(replay_size=replay_size, seed=seed, **hyper)
        super().__init__(method, oracle=oracle, progress=progress)


class PseudoRehearsalPlugin(MethodPlugin):
    """Pseudopattern rehearsal (Robins 1995) for any strategy: a baseline, without a generator.

    Args:
        memory_size: Samples in memory, new and random together; ``None`` for as many random ones
            as new.
        labels: ``"hard"`` (the paper) or ``"soft"``.
        temperature: Softness of soft labels.
        seed: Seed of the random inputs; ``None`` follows ``torch.manual_seed``.
        oracle: See `MethodPlugin`.
        progress: Whether to show progress bars.

    Raises:
        ConfigError: A hyper-parameter cannot work.
    """

    method: PseudoRehearsal

    def __init__(
        self,
        *,
        memory_size: int | None = None,
        labels: str = "hard",
        temperature: float = 2.0,
        seed: int | None = None,
        oracle: str | TaskOracle = "auto",
        progress: bool = False,
    ) -> None:
        method = PseudoRehearsal(
            memory_size=memory_size, labels=labels, temperature=temperature, seed=seed
        )
        super().__init__(method, oracle=oracle, progress=progress)
