"""What methods have in common that remember by a generative adversarial network.

A discriminator and a generator learn an experience; samples of old classes are generated once and
replayed to a classifier: the user's, or the discriminator itself, with a logit for each class.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor, nn

from avalanche_dgm.acceleration import accelerate
from avalanche_dgm.data import MASKED_LOGIT, ExperienceData, Replay, check_experience
from avalanche_dgm.errors import ConfigError, UnknownTaskError
from avalanche_dgm.fitting import OptimizationStep, Phase
from avalanche_dgm.generators.discriminators import Discriminator, build_discriminator
from avalanche_dgm.generators.scaler import Scaler
from avalanche_dgm.losses import UserCriterion
from avalanche_dgm.memories.adversarial import GANMemory, SamplePool, even_weights
from avalanche_dgm.memories.adversarial_settings import GANSettings
from avalanche_dgm.methods.abilities import Inspectable, ReplaySource, Routing
from avalanche_dgm.methods.base import Method, Needs
from avalanche_dgm.methods.games import AdversarialTrainer, class_step, classification
from avalanche_dgm.modules import copied, evaluating
from avalanche_dgm.settings import make_settings, present

G = TypeVar("G", bound=GANMemory)

CLASSIFIERS = ("learner", "discriminator")

#: For runs that only show that everything works.
FAST = {
    "generator_steps": 5,
    "width": 4,
    "discriminator_width": 4,
    "batch_size": 16,
    "replay_per_class": 16,
    "discriminator_finetune_epochs": 1,
}

_DISCRIMINATORS = ("discriminator", "candidate", "deployed")


class GANMethod(Inspectable, ReplaySource, Routing, Method, Generic[G]):
    """A memory of labelled samples beside a classifier.

    A subclass names its memory in ``memory_kind`` and the class of its hyper-parameters in
    ``settings_kind``, and says by `takes_arguments_of` that it takes them.

    Args:
        classifier: Who answers: ``"learner"``, the user's classifier, to which old samples are
            replayed; ``"discriminator"``, the discriminator's own logits (the paper), and nothing
            else learns.
        replay_size: Replayed samples a step; ``None`` for as many as make classes weigh alike, and
            at most four times as many as are new.
        seed: See `Method`.
        **hyper: Fields of ``settings_kind``.

    Raises:
        ConfigError: A hyper-parameter is unknown or cannot work.
    """

    #: What remembers.
    memory_kind: type[G]
    #: The hyper-parameters that it is made of.
    settings_kind: ClassVar[type[GANSettings]]
    #: Whether the discriminator of an experience goes on in the next one.
    keeps_discriminator: ClassVar[bool] = False

    def __init__(
        self,
        *,
        classifier: str = "learner",
        replay_size: int | None = None,
        seed: int | None = None,
        **hyper: Any,
    ) -> None:
        settings = make_settings(self.settings_kind, hyper)
        classifier = present(self.settings_kind, {"classifier": classifier})["classifier"]
        super().__init__(seed=seed)
        if classifier not in CLASSIFIERS:
            raise ConfigError(
                f"classifier={classifier!r} is not known; use one of {', '.join(CLASSIFIERS)}."
            )
        if replay_size is not None and replay_size < 1:
            raise ConfigError(f"replay_size={replay_size} must be at least 1, or None.")
        self.classifier, self.replay_size = classifier, replay_size
        # All samples of a class must come in one task.
        self.needs = Needs(tasks=True, learner=classifier == "learner")
        self.criterion = UserCriterion(weighed=classifier == "learner")
        self.settings = settings
        self.generative = self.memory_kind(settings)
        #: What the generator learns against; kept between experiences with ``keeps_discriminator``
        #: only.
        self.discriminator: Discriminator | None = None
        #: A discriminator that becomes the classifier when its experience ends.
        self.candidate: Discriminator | None = None
        #: The discriminator that is the classifier.
        self.deployed: Discriminator | None = None
        self._pool: SamplePool | None = None

    @property
    def routes(self) -> bool:
        """See `Routing.routes`: the discriminator may be the classifier."""
        return self.discriminator_classifies

    @property
    def discriminator_classifies(self) -> bool:
        """Whether the discriminator is the classifier."""
        return self.classifier == "discriminator"

    @property
    def active(self) -> nn.Module | None:
        """See `Method.active`: none by batches, where the discriminator is the classifier."""
        return None if self.discriminator_classifies else self.learner

    def check(self, data: ExperienceData) -> None:
        """See `Method.check`."""
        check_experience(data, shape=self.generative.shape)
        self.generative.check(data)

    def _begin(self, data: ExperienceData) -> None:
        """See `Method.begin`."""
        memory = self.generative
        super()._begin(data)
        with self.random.seeded_init():
            memory.build(data.images)
            memory.open(data)

    def before_learning(self, data: ExperienceData) -> Iterator[Phase]:
        """Yields the training of the GAN, and that of the discriminator as the classifier."""
        memory, s = self.generative, self.settings
        samples, rows = memory.ready.transform(data.images), memory.rows_of(data)
        n_old, n_all = memory.learned, len(memory.entries)
        per_class = s.replay_per_class or -(-len(data) // (n_all - n_old))
        known = torch.arange(n_all, device=rows.device).repeat_interleave(per_class)
        old_rows, own_rows = known.split([n_old * per_class, (n_all - n_old) * per_class])
        old = memory.generate(old_rows, self.rng)
        with self.random.seeded_init():
            self._begin_training(data.images.device)
        trainer = self._trainer(rows, old, old_rows)
        yield self._ready(
            trainer.phase(samples, rows, self._class_steps(samples, rows, old, old_rows))
        )
        self._after_training()
        if not s.own_fake_fraction:
            own_rows = own_rows[:0]
        own = memory.generate(own_rows, self.rng)
        if self.discriminator_classifies:
            self.candidate = (
                copied(self._discriminator) if self.keeps_discriminator else self._discriminator
            )
        if not self.keeps_discriminator:
            self.discriminator = None
        # Each class weighs 1, and the experience's own are partly real and partly generated.
        generated = torch.cat(
            [even_weights(old_rows), s.own_fake_fraction * even_weights(own_rows)]
        )
        if self.candidate is not None:
            real = (1 - s.own_fake_fraction) * even_weights(rows)
            pool = SamplePool(
                torch.cat([old, own, samples]),
                torch.cat([old_rows, own_rows, rows]),
                torch.cat([generated, real]),
            )
            yield self._ready(classification(self.candidate, pool, s, len(old) + len(samples)))
        elif n_old:
            # Scaled back here, once: a step of the user's classifier only picks some of them.
            made = memory.ready.inverse_transform(torch.cat([old, own]))
            self._pool = SamplePool(made, torch.cat([old_rows, own_rows]), generated)
            self._new_weight = (1 - s.own_fake_fraction) * (n_all - n_old) / n_all

    def _ready(self, phase: Phase) -> Phase:
        return accelerate(phase) if self.settings.accelerate else phase

    def _begin_training(self, device: torch.device) -> None:
        """Makes the discriminator and prepares the generator; replay was generated before."""
        memory, former = self.generative, self.discriminator
        n_classes = len(memory.entries) - self._first_class()
        self.discriminator = self._new_discriminator(memory.ready, n_classes).to(device)
        if self.keeps_discriminator and former is not None:
            self.discriminator.take_over(former)

    def _new_discriminator(self, scaler: Scaler, n_classes: int) -> Discriminator:
        architecture = self.generative.architecture_for(scaler.shape)
        width = self.settings.discriminator_width
        return build_discriminator(architecture, scaler.padded, width=width, n_classes=n_classes)

    @property
    def _discriminator(self) -> Discriminator:
        if self.discriminator is None:
            raise RuntimeError("There is no discriminator yet; call before_learning() first.")
        return self.discriminator

    def _first_class(self) -> int:
        """The row of ``entries`` that is the discriminator's first logit."""
        return (
            0
            if self.discriminator_classifies or self.keeps_discriminator
            else self.generative.learned
        )

    def _has_aux_loss(self) -> bool:
        """Whether the generator learns from the discriminator's answers on classes."""
        guide = self.settings.aux_classifier_loss
        n_classes = len(self.generative.entries) - self.generative.learned
        return guide == "always" or (guide == "auto" and n_classes > 1)

    @abstractmethod
    def _trainer(self, rows: Tensor, old: Tensor, old_rows: Tensor) -> AdversarialTrainer:
        """How discriminator and generator learn an experience.

        Args:
            rows: int64 tensor (N,), the classes of its samples.
            old: Float tensor (M, *padded), generated samples of old classes.
            old_rows: int64 tensor (M,), their classes.
        """

    def _class_steps(
        self, samples: Tensor, rows: Tensor, old: Tensor, old_rows: Tensor
    ) -> list[OptimizationStep]:
        s, discriminator = self.settings, self._discriminator
        n = discriminator.class_head.out_features if s.class_steps is None else s.class_steps
        if not n:
            return []
        first = self._first_class()
        if first:
            # Where another classifier answers, the discriminator has logits of the new classes
            # only.
            old, old_rows = old[:0], old_rows[:0]
        weights = torch.cat([even_weights(old_rows), even_weights(rows)])
        pool = SamplePool(torch.cat([old, samples]), torch.cat([old_rows, rows]), weights)
        return [class_step(discriminator, pool, first=first)] * n

    def _after_training(self) -> None:
        """Called when discriminator and generator have learned the experience."""

    def replay(self, n: int) -> Replay | None:
        """See `Method.replay`: each old class as often as any other."""
        pool = self._pool
        if pool is None:
            return None
        size = self.replay_size
        if size is None:
            size = min(4 * n, round(n * (1 - self._new_weight) / self._new_weight))
        return self.sample_old(max(size, 1))

    def sample_old(self, n: int) -> Replay | None:
        """See `ReplaySource.sample_old`; new classes are among them, see ``own_fake_fraction``."""
        pool = self._pool
        return self.generative.replay(*pool.draw(n, self.rng)) if pool is not None else None

    def predict(self, images: Tensor, tasks: Tensor, *, key: str | None = None) -> Tensor:
        """See `Method.predict`: the learner's answers, or the discriminator's."""
        memory = self.generative
        if self.deployed is None:
            return super().predict(images, tasks, key=key)
        with evaluating(self.deployed):
            logits = self.deployed.classify(memory.ready.transform(images))
        entries = memory.entries[: logits.shape[1]]
        if self.task_aware:
            other = tasks[:, None] != entries[None, :, 1]
            logits = logits.masked_fill(other, MASKED_LOGIT)
        # As wide as the user's classifier, whose labels the answers are compared with.
        with evaluating(self.learner):
            width = self._logits(images[:1], tasks[:1]).shape[1]
        wide = logits.new_full((len(logits), width), MASKED_LOGIT)
        index = entries[None, :, 2].expand(len(logits), -1)
        return wide.scatter_reduce(1, index, logits, "amax")

    def end(self, data: ExperienceData) -> None:
        """Ends the experience: what was learned of it is remembered."""
        # It may grow, and new weights are random.
        with self.random.seeded_init():
            self.generative.close()
        self._pool, self._new_weight = None, 1.0
        if self.candidate is not None:
            self.deployed, self.candidate = self.candidate, None
        super().end(data)

    def sample(self, n: int) -> Replay:
        """Draws labelled samples of everything learned, as many of each class.

        Args:
            n: How many.

        Raises:
            UnknownTaskError: Nothing was learned yet.
        """
        memory = self.generative
        if not memory.learned:
            raise UnknownTaskError("Nothing was learned yet: train on an experience first.")
        device = memory.entries.device
        rows = torch.arange(n, device=device) * memory.learned // n
        return memory.replay(memory.ready.inverse_transform(memory.generate(rows, self.rng)), rows)

    def sample_class(self, label: int, n: int, *, task: int = 0) -> Tensor:
        """Draws samples of one class.

        Args:
            label: The class.
            n: How many.
            task: Its task label.

        Returns:
            Float tensor (n, *shape), in the user's units.

        Raises:
            UnknownTaskError: It was not learned.
        """
        memory = self.generative
        entries = memory.entries[: memory.learned].tolist()
        found = [row for row, (_, t, c) in enumerate(entries) if (t, c) == (task, label)]
        if not found:
            known = ", ".join(str(c) for _, t, c in entries if t == task)
            raise UnknownTaskError(
                f"Class {label} was not learned; known are: {known or 'none'}. Train on it first."
            )
        rows = torch.full((n,), found[0], device=memory.entries.device)
        return memory.ready.inverse_transform(memory.generate(rows, self.rng))

    def memory(self) -> list[nn.Module]:
        """The generator, and the discriminators that are kept: to train on, and to classify."""
        kept: list[nn.Module | None] = [self.generative, self.discriminator, self.deployed]
        return [module for module in kept if module is not None]

    def get_extra_state(self) -> dict[str, Any]:
        """See `Method.get_extra_state`."""
        discriminators = {name: getattr(self, name) for name in _DISCRIMINATORS}
        return {
            **super().get_extra_state(),
            "discriminators": {
                name: discriminator.class_head.out_features if discriminator is not None else None
                for name, discriminator in discriminators.items()
            },
            "scaler": self.generative.get_extra_state()["scaler"],
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Builds the discriminators before their weights are loaded."""
        super().set_extra_state(state)
        device = self.rng.device
        for name, n_classes in state["discriminators"].items():
            discriminator = None
            if n_classes is not None:
                scaler = Scaler.from_dict(state["scaler"])
                discriminator = self._new_discriminator(scaler, n_classes).to(device)
            setattr(self, name, discriminator)
