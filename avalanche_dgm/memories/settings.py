"""Hyper-parameters of the generative memories: checked once, never changed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar

from avalanche_dgm.errors import ConfigError
from avalanche_dgm.fitting import OptimizerSpec
from avalanche_dgm.generators.ranges import check_range
from avalanche_dgm.memories.budget import check_capacity
from avalanche_dgm.settings import Settings, one_of, positive, whole, widths

S = TypeVar("S", bound="Settings")


def _one_cycle() -> OptimizerSpec:
    return OptimizerSpec("adam", 1e-3, "one-cycle")


def _adam() -> OptimizerSpec:
    return OptimizerSpec("adam", 1e-3)


@dataclass(frozen=True, kw_only=True)
class MemorySettings(Settings):
    """Settings of one deep generative memory. The defaults are ours, not the paper's.

    Attributes:
        architecture: ``"auto"``, ``"dense"`` or ``"conv"``; ``"auto"`` looks at the images.
        hidden: Widths of the generator's dense layers, or channels of its convolutions.
        latent: Latent dimensions of the generator.
        likelihood: ``"auto"``, ``"bernoulli"`` or ``"gaussian"``.
        value_range: Smallest and largest possible intensity; ``None`` finds it out where the first
            experience's samples look like pixels, and sets no bounds to others.
        kl_weight: Weight of the divergence from the prior in the generator's training, above 0.
            The bound has 1 (the papers). Less gives sharper images, and costs nothing where codes
            are drawn from a fitted density instead of the prior.
        sampling: ``"class"`` draws codes from a Gaussian fitted to each class's posterior,
            ``"prior"`` from the standard normal (the papers).
        consolidation: How the generator keeps what it knows. ``"aligned"`` teaches it to decode
            the codes of old classes to the very images that its predecessor made of them;
            ``"rehearsal"`` trains it on generated images as if they were data (the papers).
        labels: ``"soft"`` replays the old learner's softened answers, ``"hard"`` its decisions.
        temperature: Softness of soft labels, above 0.
        generator_steps: Optimiser steps of the generator an experience.
        generator_epochs: Passes over the data instead of ``generator_steps``.
        generator_optimizer: How the generator is trained.
        batch_size: New samples a step in fits of the memory; as many are replayed.
        kappa: Smallest share of the memory for each new task (Sec. 3.1).
        n_max: Most samples, generated and incoming, that one consolidation holds at once; ``None``
            for no limit. Aligned consolidation holds generated samples for one step only.
        count: ``"tasks"`` weighs new against old by tasks met, repetitions counted (the paper);
            ``"classes"`` by the classes that each holds, so that a large first experience keeps
            its share.
    """

    architecture: str = "auto"
    hidden: tuple[int, ...] | None = None
    latent: int | None = None
    likelihood: str = "auto"
    value_range: tuple[float, float] | None = None
    kl_weight: float = 0.3
    sampling: str = "class"
    consolidation: str = "aligned"
    labels: str = "soft"
    temperature: float = 2.0
    generator_steps: int = 800
    generator_epochs: int | None = None
    generator_optimizer: OptimizerSpec = field(default_factory=_one_cycle)
    batch_size: int = 128
    kappa: float = 0.0
    n_max: int | None = None
    count: str = "classes"

    def __post_init__(self) -> None:
        one_of("sampling", self.sampling, "class", "prior")
        one_of("consolidation", self.consolidation, "aligned", "rehearsal")
        one_of("labels", self.labels, "soft", "hard")
        one_of("count", self.count, "classes", "tasks")
        one_of("architecture", self.architecture, "auto", "dense", "conv")
        one_of("likelihood", self.likelihood, "auto", "bernoulli", "gaussian")
        positive("temperature", self.temperature)
        positive("kl_weight", self.kl_weight)
        self._read_optimizers()
        for name in ("generator_steps", "generator_epochs", "batch_size", "latent"):
            whole(name, getattr(self, name), optional=name in ("generator_epochs", "latent"))
        if (self.sampling, self.consolidation) == ("prior", "aligned"):
            raise ConfigError(
                "sampling='prior' with consolidation='aligned' would tie every code to an old image"
                " and leave none for new classes. Use consolidation='rehearsal' or"
                " sampling='class'."
            )
        check_capacity(n_max=self.n_max, kappa=self.kappa, new=1)
        whole("n_max", self.n_max, optional=True)
        widths("hidden", self.hidden)
        check_range(self.value_range)


@dataclass(frozen=True, kw_only=True)
class DualMemorySettings(MemorySettings):
    """Settings of a dual memory (Kamra et al., Sec. 3.2); the base class holds the LTM's.

    Attributes:
        stm_size: Tasks that the short-term memory holds before it sleeps, n_STM.
        short_term: ``False`` keeps the real samples of ``stm_size`` tasks until sleep instead of
            learning them in short-term memories (Sec. 5.1).
        routing: Who answers at test time. ``"oracle"`` asks the short-term memory that holds the
            experience's task, else the LTM (the paper; it tells the method which task an image is
            from). ``"elbo"`` asks, for each image, the memory that explains it best. ``"sleep"``
            consolidates before every evaluation. ``"auto"`` is ``"elbo"``, and goes by task labels
            where the model itself is given them.
        unknown_task: With an oracle, a task that was never learned goes to the ``"ltm"``, or is an
            ``"error"``.
        reconstruct: Whether learners see images as their generator reconstructs them, in training
            and prediction (the paper). Robust to noise, and a little less accurate.
        ltm_help: Whether the LTM adds its view of a task that it knows to the task's short-term
            memory.
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
    routing: str = "auto"
    unknown_task: str = "ltm"
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
        one_of("routing", self.routing, "auto", "oracle", "elbo", "sleep")
        one_of("unknown_task", self.unknown_task, "ltm", "error")
        for name in ("stm_size", "learner_steps"):
            whole(name, getattr(self, name))
        for name in ("learner_epochs", "stm_latent", "stm_generator_steps"):
            whole(name, getattr(self, name), optional=True)
        widths("stm_hidden", self.stm_hidden)
        widths("stm_learner_hidden", self.stm_learner_hidden)
        check_capacity(n_max=self.n_max, kappa=self.kappa, new=self.stm_size)
