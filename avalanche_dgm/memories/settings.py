"""Hyper-parameters of the generative memories: checked once, never changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from avalanche_dgm.errors import ConfigError
from avalanche_dgm.fitting import OptimizerSpec
from avalanche_dgm.generators.base import Generator
from avalanche_dgm.generators.default import VAESettings
from avalanche_dgm.memories.budget import check_capacity
from avalanche_dgm.settings import positive


@dataclass(frozen=True, kw_only=True)
class MemorySettings(VAESettings):
    """Settings of one deep generative memory, and of its generator if that is the autoencoder.

    The defaults are ours, not the paper's.

    Attributes:
        generator: What generates: ``"vae"``, the autoencoder that the settings above are of; or a
            `Generator` that has learned nothing, which is copied.
        labels: ``"soft"`` replays the old learner's softened answers, ``"hard"`` its decisions.
        temperature: Softness of soft labels, above 0.
        kappa: Smallest share of the memory for each new task (Sec. 3.1).
        n_max: Most samples, generated and incoming, that one consolidation holds at once; ``None``
            for no limit. Aligned consolidation holds generated samples for one step only.
        count: ``"tasks"`` weighs new against old by tasks met, repetitions counted (the paper);
            ``"classes"`` by the classes that each holds, so that a large first experience keeps
            its share.
    """

    generator: Generator | str = "vae"
    labels: Literal["soft", "hard"] = "soft"
    temperature: float = 2.0
    kappa: float = 0.0
    n_max: int | None = None
    count: Literal["classes", "tasks"] = "classes"

    def __post_init__(self) -> None:
        super().__post_init__()
        positive("temperature", self.temperature)
        check_capacity(n_max=self.n_max, kappa=self.kappa, new=1)
        if self.generator != "vae":
            self._check_foreign(self._vae_settings_given())

    def _vae_settings_given(self) -> list[str]:
        """Names of the autoencoder's settings that are not the default ones."""
        # The learner is trained in batches of this size, too.
        return [name for name in self.part(VAESettings).given() if name != "batch_size"]

    def _check_foreign(self, given: Sequence[str]) -> None:
        if given:
            raise ConfigError(
                f"{', '.join(given)} is for generator='vae'. Give settings of another generator to"
                " that generator, where it is made."
            )


def _adam() -> OptimizerSpec:
    return OptimizerSpec("adam", 1e-3)


@dataclass(frozen=True, kw_only=True)
class DualMemorySettings(MemorySettings):
    """Settings of a dual memory (Kamra et al., Sec. 3.2); the base class holds the LTM's.

    Attributes:
        stm_size: Tasks that the short-term memory holds before it sleeps, n_STM.
        short_term: ``False`` keeps the real samples of ``stm_size`` tasks until sleep instead of
            learning them in short-term memories (Sec. 5.1).
        routing: Who answers at test time. ``"oracle"`` asks the short-term memory that holds the
            experience's task, else the LTM (the paper; it tells the method which task an image is
            from). ``"elbo"`` asks, for each image, the memory whose generator explains it best.
            ``"sleep"`` consolidates before every evaluation. ``"auto"`` is ``"elbo"``, and goes by
            task labels where the model itself is given them; it is ``"sleep"`` with a generator
            that has no score.
        unknown_task: With an oracle, a task that was never learned goes to the ``"ltm"``, or is an
            ``"error"``.
        reconstruct: Whether learners see images as their generator reconstructs them, in training
            and prediction (the paper). Robust to noise, and a little less accurate.
        ltm_help: Whether the LTM adds its view of a task that it knows to the task's short-term
            memory, if its generator reconstructs.
        learner_steps: Optimiser steps of the long-term learner in one sleep.
        learner_epochs: Passes over the data instead of ``learner_steps``.
        learner_optimizer: How the long-term learner is trained in sleep.
        stm_hidden: Widths of the short-term generators; ``None`` for half of the LTM's.
        stm_latent: Their latent dimensions; ``None`` for the LTM's.
        stm_learner_hidden: Widths of the short-term learners.
        stm_generator_steps: Optimiser steps of a short-term generator; ``None`` for twice
            ``generator_steps``: what it misses of a task, no later sleep can bring back.
    """

    kappa: float = 0.05
    stm_size: int = 2
    short_term: bool = True
    routing: Literal["auto", "oracle", "elbo", "sleep"] = "auto"
    unknown_task: Literal["ltm", "error"] = "ltm"
    reconstruct: bool = False
    ltm_help: bool = True
    learner_steps: int = 800
    learner_epochs: int | None = None
    learner_optimizer: OptimizerSpec = field(default_factory=_adam)
    stm_hidden: tuple[int, ...] | None = None
    stm_latent: int | None = None
    stm_learner_hidden: tuple[int, ...] = (64, 64)
    stm_generator_steps: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_capacity(n_max=self.n_max, kappa=self.kappa, new=self.stm_size)

    def _vae_settings_given(self) -> list[str]:
        own = ("stm_hidden", "stm_latent", "stm_generator_steps")
        given = [name for name in own if getattr(self, name) is not None]
        return [*super()._vae_settings_given(), *given]

    def of_the_short_term_vae(self) -> VAESettings:
        """Settings of a short-term generator; its sizes may be left to the long-term one."""
        settings = self.part(VAESettings, hidden=self.stm_hidden, latent=self.stm_latent)
        if self.stm_generator_steps is not None:
            steps = self.stm_generator_steps
            return replace(settings, generator_steps=steps, generator_epochs=None)
        return replace(settings, generator_steps=2 * self.generator_steps)
