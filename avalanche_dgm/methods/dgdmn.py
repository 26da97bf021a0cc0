"""Deep generative dual memory network (Kamra et al. 2017, Section 3).

==========================================  =======================================================
paper (Kamra et al. 2017)                   code
==========================================  =======================================================
deep generative memory, Sec. 3.1, Fig. 1    `DeepGenerativeMemory`: generator, learner, dictionary
eta, the share of new samples, and N_max    `new_fraction`, `replay_budget`
learning with replay, Sec. 3.1              `DeepGenerativeMemory.learn`, `sample`
reconstruction before learning and          `DualMemory.logits`, ``reconstruct=True``
predicting
LTM, STM, STTM, Sec. 3.2, Fig. 2            `DualMemory`, `ShortTermTaskMemory`
a new task, Sec. 3.2                        `DGDMN.begin`, `DualMemory.open`, `extra_samples`
STTM learns its task                        `DGDMN.before_learning`, then the user's optimiser
sleep: STTMs teach the LTM, Sec. 3.2        `DGDMN.after_learning`, `Sleep`
prediction, with a task oracle              `DGDMN.predict`, `DGDMN.test_key`
variant without STM, Sec. 5.1               ``short_term=False``, `StoredTask`
DGR, Sec. 4.1                               ``short_term=False, stm_size=1``
==========================================  =======================================================
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor, nn

from avalanche_dgm.data import ExperienceData, Replay, append_replay, check_experience
from avalanche_dgm.errors import ConfigError, UnknownTaskError
from avalanche_dgm.fitting import Phase
from avalanche_dgm.losses import UserCriterion
from avalanche_dgm.memories.dual import DualMemory, DualMemorySettings
from avalanche_dgm.memories.short_term import ShortTermTaskMemory, widen
from avalanche_dgm.memories.sleep import Sleep
from avalanche_dgm.methods.abilities import Inspectable, Routing
from avalanche_dgm.methods.base import Method, Needs
from avalanche_dgm.methods.registry import register
from avalanche_dgm.optimizers import OptimizerSpec
from avalanche_dgm.settings import MethodSettings

_FAST = {"generator_steps": 30, "learner_steps": 30}
#: Keras' RMSProp with learning rate 0.001, rho 0.9, epsilon 1e-8, no decay (appendix B.2).
_RMSPROP = OptimizerSpec("rmsprop", 1e-3, options={"alpha": 0.9, "eps": 1e-8})


@dataclass(frozen=True, kw_only=True)
class DGDMNSettings(MethodSettings, DualMemorySettings):
    """Settings of the dual memory network."""


@dataclass(frozen=True)
class PaperStream:
    """Hyper-parameters that the paper tuned for one data set.

    Attributes:
        learner_hidden: Widths of every learner's hidden layers (appendix B.3).
        latent: Latent dimensions of the generator (B.3).
        stm_size: n_STM (B.4).
        n_max: Samples that the memory holds: all of the data set, or half for TDigits (B.4).
        kappa: Smallest share of a new task (B.4).
    """

    learner_hidden: tuple[int, ...]
    latent: int
    stm_size: int
    n_max: int
    kappa: float


PAPER: dict[str, PaperStream] = {
    "digits": PaperStream((24, 24), 32, 2, 60_000, 0.0),
    "permnist": PaperStream((48, 48), 64, 2, 180_000, 0.0),
    "tdigits": PaperStream((36, 36), 96, 5, 120_000, 0.05),
}


def paper_settings(stream: str, *, scale: float = 1.0) -> dict[str, Any]:
    """The hyper-parameters of the paper (appendix B).

    DGR in the paper is the same with ``short_term=False, stm_size=1``: every task is learned
    directly by the long-term memory (Sec. 4.1).

    Not given in the paper, and chosen here: the generators' hidden layers (400, 400), the
    short-term networks ("smaller": generators 200-200 with the same latent size, learners 16-16),
    and kappa where it "does not come into play" (0).

    Args:
        stream: ``"digits"``, ``"permnist"`` or ``"tdigits"``.
        scale: Fraction of the data set that is used; the memory is scaled with it.

    Raises:
        ConfigError: The paper has no such data set.
    """
    if stream not in PAPER:
        raise ConfigError(f"The paper has no stream {stream!r}; it has {', '.join(PAPER)}.")
    s = PAPER[stream]
    return {
        "architecture": "dense",
        "hidden": (400, 400),
        "latent": s.latent,
        "likelihood": "bernoulli",
        "value_range": (0.0, 1.0),
        "kl_weight": 1.0,
        "sampling": "prior",
        "components": 1,
        "consolidation": "rehearsal",
        "labels": "hard",
        "count": "tasks",
        "reconstruct": True,
        "routing": "oracle",
        "kappa": s.kappa,
        "n_max": max(1, round(s.n_max * scale)),
        "stm_size": s.stm_size,
        "batch_size": 128,
        # Epochs of autoencoders, and of classifiers trained sequentially (B.2).
        "generator_epochs": 25,
        "learner_epochs": 6,
        # Gradients of autoencoders are clipped (B.2).
        "generator_optimizer": replace(_RMSPROP, clip_norm=1.0, clip_value=0.5),
        "learner_optimizer": _RMSPROP,
        "stm_hidden": (200, 200),
        "stm_learner_hidden": (16, 16),
    }


@register(
    "dgdmn-direct",
    "dual memory that sleeps after every task: DGR as in the DGDMN paper",
    fixed={"short_term": False, "stm_size": 1},
    fast=_FAST,
    paper=paper_settings,
)
@register(
    "dgdmn-no-stm",
    "dual memory that stores the data of n_STM tasks until sleep",
    fixed={"short_term": False},
    fast=_FAST,
    paper=paper_settings,
)
@register(
    "dgdmn",
    "dual memory: short-term generative memories, sleep, a long-term one",
    fast=_FAST,
    paper=paper_settings,
)
class DGDMN(Inspectable, Routing, Method):
    """DGDMN: a dual memory of generators; the user's classifier is the long-term learner.

    The current experience is learned by a small classifier in the short-term memory; the user's
    classifier is trained during sleep.

    Attributes:
        dual: The short-term and the long-term memory.
    """

    settings_type: ClassVar[type[MethodSettings]] = DGDMNSettings

    paper = staticmethod(paper_settings)
    #: Each task has a short-term memory of its own.
    needs = Needs(tasks=True, copies="A copy labels what is replayed in sleep.")

    def __init__(self, settings: DGDMNSettings | None = None, **changes: Any) -> None:
        super().__init__(settings, **changes)
        self.dual = DualMemory(self.settings)
        self._active: ShortTermTaskMemory | None
        self._hold("_active", None)
        self._pool: Replay | None = None
        self._warned = False
        self.criterion = UserCriterion(soft_labels=self.settings.soft_labels)

    @property
    def routes(self) -> bool:
        return True

    def attach(self, learner: nn.Module, *, task_aware: bool) -> None:
        super().attach(learner, task_aware=task_aware)
        self.dual.ltm.attach(learner, task_aware=task_aware)

    @property
    def active(self) -> nn.Module | None:
        """The short-term learner of the current experience, if there is one."""
        return self._active.task_learner if self._active is not None else None

    def networks(self) -> dict[str, nn.Module]:
        """See `Routing.networks`: the short-term learners in use."""
        return {str(memory.number): memory.task_learner for memory in self.dual.sttms()}

    def check(self, data: ExperienceData) -> None:
        check_experience(data, shape=self.dual.ltm.shape)
        self.dual.ltm.generator.check(data)

    def _begin(self, data: ExperienceData) -> None:
        super()._begin(data)
        with self.random.seeded_init():
            self.dual.build(data.images)
        self.dual.ltm.check_budget(data.images.shape[1:], data.labels, data.tasks)
        self._rest()
        if self.settings.short_term:
            self._pool = self.dual.extra_samples(data, self.rng)
            # If the task was seen before, new and old samples have equal weights.
            self._new_weight = 1.0 if self._pool is None else 0.5
            with self.random.seeded_init():
                self._hold("_active", self.dual.open(data))

    def make_room(self, key: str) -> Iterator[Phase]:
        """Sleeps if the short-term memory is full, which it is after an interrupted sleep."""
        self.undo()
        if self.dual.full and self.dual.find(key) is None:
            yield from self.consolidate()

    def _unchanged(self, key: str) -> list[nn.Module]:
        others = [memory for memory in self.dual.sttms() if memory.key != key]
        # The long-term memory is only trained in sleep, but its generator is built in the first
        # experience, which may fail.
        ltm = [self.dual.ltm.generator] if self.dual.ltm.tasks else []
        return [*others, *ltm]

    def before_learning(self, data: ExperienceData) -> Iterator[Phase]:
        """Yields the short-term generator's training."""
        memory = self._active
        if memory is None:
            return
        incoming, pool = [data], self._pool
        if pool is not None:
            known = ExperienceData(pool.images, pool.labels, pool.tasks, data.key, data.name)
            incoming.append(known)
        # The pool contains the memory's replay already, hence no previous generator.
        merged, name = ExperienceData.cat(incoming), "generator (short-term)"
        yield from memory.learn([merged], self.rng, previous=None, name=name)
        memory.n_seen += len(data)

    def replay(self, n: int) -> Replay | None:
        """Draws from old samples of the current task."""
        return self._pool.draw(n, self.rng) if self._pool is not None else None

    def forward(
        self, images: Tensor, tasks: Tensor, *, width: int, replay: Replay | None = None
    ) -> Tensor:
        """See `Method.forward`: outputs of the short-term learner, as the criterion takes them."""
        images, tasks = append_replay(images, tasks, replay)
        if self._active is None:
            return widen(self.dual.logits(self.dual.ltm, images, tasks), width)
        logits = widen(self.dual.logits(self._active, images, tasks), width)
        takes = self.criterion.scale.takes
        if takes == "logits":
            return logits
        logs = logits.log_softmax(dim=1)
        return logs if takes == "log-probabilities" else logs.exp()

    def predict(self, images: Tensor, tasks: Tensor, *, key: str | None = None) -> Tensor:
        """See `DualMemory.predict`.

        Raises:
            UnknownTaskError: The task was never learned, and ``unknown_task="error"``.
        """
        if key is not None and self.settings.unknown_task == "error" and not self.dual.knows(key):
            known = [m.key for m in self.dual.sttms()] + list(self.dual.ltm.tasks)
            raise UnknownTaskError(
                f"Task {key} was never learned; learned tasks: {'; '.join(known) or 'none'}."
                " Evaluate learned experiences only, or set unknown_task='ltm'."
            )
        return self.dual.predict(images, tasks, key=key)

    def after_learning(self, data: ExperienceData) -> Iterator[Phase]:
        """Yields the phases of sleep if the short-term memory is full."""
        self._rest()
        if not self.settings.short_term:
            # Not before, so that a failed experience stores nothing.
            self.dual.store(data)
        # If sleep is interrupted, the task stays learned.
        self._keep()
        if self.dual.full:
            yield from self.consolidate()

    def consolidate(self) -> Iterator[Phase]:
        """Yields the phases of sleep, if the short-term memory holds a task.

        An interrupted sleep is rolled back and can be repeated.
        """
        if not self.dual.occupancy:
            return
        self._save([*self.dual.sttms(), *self.dual.stored])
        sleep = Sleep(
            self.dual, self.rng, on_replay=self.stats.count, hard_loss=self.criterion.mean
        )
        yield from sleep.phases()
        sleep.wake()
        self._count_tasks()
        self._keep()

    def end(self, data: ExperienceData) -> None:
        self._rest()
        self._count_tasks()
        super().end(data)

    def _count_tasks(self) -> None:
        self.stats.stm_occupancy, self.stats.sleeps = self.dual.occupancy, self.dual.sleeps

    def _rest(self) -> None:
        """Drops the data and the active memory of the current task."""
        self._hold("_active", None)
        self._pool, self._new_weight = None, 1.0

    def before_predicting(self) -> Iterator[Phase]:
        """Yields the phases of sleep, with ``routing="sleep"``."""
        if self.dual.routing == "sleep":
            yield from self.consolidate()

    def test_key(self, key: str, classes: Sequence[int]) -> str | None:
        """See `Routing.test_key`: the key, with ``routing="oracle"``.

        For a test set of several tasks it is ``None``: its images are routed one by one.
        """
        if self.dual.routing != "oracle":
            return None
        learned = self.dual.classes_of(key)
        if learned is not None and not set(classes) <= learned:
            return None
        if learned is None and self.settings.unknown_task == "ltm" and not self._warned:
            self._warned = True
            warnings.warn(
                f"Test task {key} was never learned: it is predicted by the long-term memory. This"
                " is reported once; unknown_task='error' makes it an error.",
                stacklevel=2,
            )
        return key

    def sample(self, n: int) -> Replay:
        """See `Inspectable.sample`: from all memories, in proportion to their numbers of tasks."""
        members: list[tuple[Any, int]] = [(m, 1) for m in self.dual.sttms() if m.tasks]
        members += [(task, 1) for task in self.dual.stored]
        if len(self.dual.ltm.tasks):
            members.append((self.dual.ltm, len(self.dual.ltm.tasks)))
        total = sum(share for _, share in members)
        if not total:
            raise UnknownTaskError("Nothing was learned yet: train on an experience first.")
        counts = [n * share // total for _, share in members]
        counts[-1] += n - sum(counts)
        drawn = [m.sample(c, self.rng) for (m, _), c in zip(members, counts, strict=True) if c]
        return Replay.cat(drawn)

    def encode(self, images: Tensor, tasks: Tensor) -> Tensor | None:
        """See `Inspectable.encode`: means of the long-term generator's posterior."""
        return self.dual.ltm.encode(images)

    def reconstruct(self, images: Tensor, tasks: Tensor) -> Tensor | None:
        """See `Inspectable.reconstruct`: by the memory to which an image is routed."""
        return self.dual.reconstruct(images, tasks)

    def stored_samples(self) -> int:
        """See `Inspectable.stored_samples`: without an STM, those of tasks that wait for sleep."""
        waiting: list[Any] = list(self.dual.stored)
        return sum(len(task.images) for task in waiting)
