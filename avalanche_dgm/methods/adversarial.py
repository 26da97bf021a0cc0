"""What methods have in common that remember by a generative adversarial network.

A critic and a generator learn an experience; samples of old classes are generated once and replayed
to a classifier: the user's, or the critic itself, with a logit for each class.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Generic, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avalanche_dgm.data import ExperienceData, Replay, check_experience
from avalanche_dgm.errors import ConfigError, UnknownTaskError
from avalanche_dgm.fitting import Phase, Turn, epochs_to_steps
from avalanche_dgm.generators.canvas import Canvas
from avalanche_dgm.generators.critics import Critic, build_critic
from avalanche_dgm.losses import critic_loss, generator_loss, gradient_penalty
from avalanche_dgm.memories.adversarial import GANMemory, SamplePool, even_weights
from avalanche_dgm.memories.adversarial_settings import GANSettings
from avalanche_dgm.memories.answers import evaluating
from avalanche_dgm.methods.base import Method
from avalanche_dgm.models import NO_OUTPUT

G = TypeVar("G", bound=GANMemory)

CLASSIFIERS = ("learner", "critic")

#: Real samples, their classes, their weight in the loss, and whether the slope is penalised there.
Shown = tuple[Tensor, Tensor, float, bool]


class GANMethod(Method, Generic[G]):
    """A memory of labelled samples beside a classifier.

    Args:
        generative: The memory.
        classifier: Who answers: ``"learner"``, the user's classifier, to which old samples are
            replayed; ``"critic"``, the critic's own logits (the paper), and nothing else learns.
        replay_size: Replayed samples a step; ``None`` for as many as make classes weigh alike, and
            at most four times as many as are new.
        seed: See `Method`.

    Raises:
        ConfigError: A hyper-parameter cannot work.
    """

    #: Whether the critic of an experience goes on in the next one.
    keeps_critic: ClassVar[bool] = False

    def __init__(
        self,
        generative: G,
        *,
        classifier: str = "learner",
        replay_size: int | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__(seed=seed)
        if classifier not in CLASSIFIERS:
            raise ConfigError(
                f"classifier={classifier!r} is not known; use one of {', '.join(CLASSIFIERS)}."
            )
        if replay_size is not None and replay_size < 1:
            raise ConfigError(f"replay_size={replay_size} must be at least 1, or None.")
        self.classifier, self.replay_size = classifier, replay_size
        self.generative = generative
        self.critic: Critic | None = None
        self._pool: SamplePool | None = None
        self._new_weight = 1.0

    @property
    def settings(self) -> GANSettings:
        """The memory's hyper-parameters."""
        return self.generative.settings

    @property
    def answers_itself(self) -> bool:
        """Whether the critic is the classifier."""
        return self.classifier == "critic"

    @property
    def active(self) -> nn.Module | None:
        """See `Method.active`: none by batches, where the critic is the classifier."""
        return None if self.answers_itself else self.learner

    def begin(self, data: ExperienceData) -> None:
        """See `Method.begin`."""
        memory = self.generative
        check_experience(data, shape=memory.shape)
        memory.check(data)
        super().begin(data)
        self._pool, self._new_weight = None, 1.0
        with self.random.governing():
            memory.build(data.images)
            memory.open(data)

    def before_learning(self, data: ExperienceData) -> Iterator[Phase]:
        """Yields the training of critic and generator, and the critic's as the classifier."""
        memory, s = self.generative, self.settings
        samples = memory.ready.put(data.images)
        rows = memory.rows_of(data)
        n_new = len(memory.entries) - memory.learned
        per_class = s.replay_per_class or -(-len(data) // n_new)
        old_rows = torch.arange(memory.learned, device=rows.device).repeat_interleave(per_class)
        old = memory.generate(old_rows, self.rng)
        with self.random.governing():
            self.critic = self._make_critic(data.images.device)
            self._begin_training()
        yield self._adversarial(samples, rows, old, old_rows)
        own_rows = torch.arange(memory.learned, len(memory.entries), device=rows.device)
        own_rows = own_rows.repeat_interleave(per_class)
        own = memory.generate(own_rows, self.rng) if s.own_share else samples[:0]
        own_rows = own_rows if s.own_share else own_rows[:0]
        yield from self._consolidation()
        if self.answers_itself:
            yield self._closing(samples, rows, (old, own), (old_rows, own_rows))
            return
        if not self.keeps_critic:
            self.critic = None
        if memory.learned:
            self._remember((old, own), (old_rows, own_rows))

    def _begin_training(self) -> None:
        """Puts the generator in order, after it has made what is replayed."""

    def _consolidation(self) -> Iterator[Phase]:
        """What follows on the training of critic and generator."""
        yield from ()

    def _remember(self, samples: tuple[Tensor, Tensor], rows: tuple[Tensor, Tensor]) -> None:
        """Keeps generated samples, old and own, to be replayed beside the experience's."""
        n_old = self.generative.learned
        n_new, share = len(self.generative.entries) - n_old, self.settings.own_share
        weights = torch.cat([even_weights(rows[0]), share * even_weights(rows[1])])
        self._pool = SamplePool(torch.cat(samples), torch.cat(rows), weights)
        # Each class counts 1; of the new ones the share that is real.
        self._new_weight = (1 - share) * n_new / (n_old + n_new)

    def _make_critic(self, device: torch.device) -> Critic:
        """A critic of the current experience's classes, or of all if it goes on with them."""
        memory = self.generative
        n_classes = len(memory.entries) - self._first_class()
        critic = self._new_critic(memory.ready.padded, n_classes).to(device)
        if self.keeps_critic and self.critic is not None:
            critic.take_over(self.critic)
        return critic

    def _new_critic(self, shape: tuple[int, ...], n_classes: int) -> Critic:
        width, architecture = self.settings.critic_width, self.generative.architecture
        return build_critic(architecture, shape, width=width, n_classes=n_classes)

    def _first_class(self) -> int:
        """The row of ``entries`` that is the critic's first logit."""
        return 0 if self.answers_itself or self.keeps_critic else self.generative.learned

    def _guides(self) -> bool:
        """Whether the generator learns from the critic's answers on classes."""
        guide = self.settings.classes_guide
        n_classes = len(self.generative.entries) - self.generative.learned
        return guide == "always" or (guide == "auto" and n_classes > 1)

    def _adversarial(self, samples: Tensor, rows: Tensor, old: Tensor, old_rows: Tensor) -> Phase:
        """The training of critic and generator on an experience.

        Args:
            samples: Float tensor (N, *padded), the experience on the canvas.
            rows: int64 tensor (N,), its classes.
            old: Float tensor (M, *padded), generated samples of old classes.
            old_rows: int64 tensor (M,), their classes.
        """
        s, critic, generator = self.settings, self._critic, self._generator
        rounds = s.rounds(len(samples))
        guided, first = self._guides(), self._first_class()
        shown = self._shown(old, old_rows)
        extra = self._extra_loss()

        def judge(batch: tuple[Tensor, ...], rng: torch.Generator, number: int) -> Tensor:
            total = torch.zeros((), device=batch[0].device)
            for real, mine, weight, penalised in shown(batch, rng):
                with torch.no_grad():
                    fake = self._make(mine, rng, number, rounds)
                classes = mine - first if guided else None
                loss = self._judge(real, fake, classes, rng, penalised=penalised)
                total = total + weight * loss
            return total

        def deceive(batch: tuple[Tensor, ...], rng: torch.Generator, number: int) -> Tensor:
            total = extra(rng, number, rounds)
            for _, mine, weight, _ in shown(batch, rng):
                fake = self._make(mine, rng, number, rounds)
                if guided:
                    scores, logits = critic(fake)
                    loss = generator_loss(scores) + F.cross_entropy(logits, mine - first)
                else:
                    loss = generator_loss(critic.score(fake))
                total = total + weight * loss
            return total

        judged = [*critic.trunk.parameters(), *critic.score_head.parameters()]
        judged += critic.class_head.parameters() if guided else []
        made = [p for p in generator.parameters() if p.requires_grad]
        turns = [
            *self._class_turns((samples, old), (rows, old_rows)),
            *[Turn("critic", judged, judge)] * s.critic_steps,
            Turn("generator", made, deceive, lambda number: self._protect(number, rounds)),
        ]
        return Phase(
            "generator",
            nn.ModuleDict({"critic": critic, "generator": generator}),
            turns,
            s.optimizer,
            rounds * len(turns),
            s.batch_size,
            (samples, rows),
        )

    @property
    def _critic(self) -> Critic:
        if self.critic is None:
            raise RuntimeError("There is no critic yet; call before_learning() first.")
        return self.critic

    @property
    @abstractmethod
    def _generator(self) -> nn.Module:
        """The network that generates."""

    @abstractmethod
    def _make(self, rows: Tensor, rng: torch.Generator, number: int, rounds: int) -> Tensor:
        """Generates samples to learn from.

        Args:
            rows: int64 tensor (n,), their classes.
            rng: Generator of random numbers.
            number: Number of the round, counted from 0.
            rounds: How many there are.

        Returns:
            Float tensor (n, *padded) in [-1, 1], with a gradient.
        """

    def _shown(self, old: Tensor, old_rows: Tensor) -> Callable[..., list[Shown]]:
        """What critic and generator are trained on in a step: the experience's batch alone."""
        return lambda batch, rng: [(batch[0], batch[1], 1.0, True)]

    def _extra_loss(self) -> Callable[[torch.Generator, int, int], Tensor]:
        """What is added to the generator's loss; from numbers, the round and all rounds."""
        zero = torch.zeros((), device=self.generative.entries.device)
        return lambda rng, number, rounds: zero

    def _protect(self, number: int, rounds: int) -> None:
        """Changes the generator's gradients before its step."""

    def _class_turns(
        self, samples: tuple[Tensor, Tensor], rows: tuple[Tensor, Tensor]
    ) -> list[Turn]:
        """Steps of the critic on classes: real new samples and generated old ones (Sec. 4.1)."""
        s, critic = self.settings, self._critic
        n_classes = critic.class_head.out_features
        n = n_classes if s.class_steps is None else s.class_steps
        pool = SamplePool(
            torch.cat(samples), torch.cat(rows), torch.cat([even_weights(r) for r in rows])
        )
        first = self._first_class()

        def loss(batch: tuple[Tensor, ...], rng: torch.Generator, number: int) -> Tensor:
            images, mine = pool.draw(len(batch[0]), rng)
            return F.cross_entropy(critic.classify(images), mine - first)

        parameters = [*critic.trunk.parameters(), *critic.class_head.parameters()]
        return [Turn("classes", parameters, loss)] * n

    def _judge(
        self,
        real: Tensor,
        generated: Tensor,
        classes: Tensor | None,
        rng: torch.Generator,
        *,
        penalised: bool,
    ) -> Tensor:
        """The critic's loss: real against generated, its slope, and classes of real samples."""
        critic = self._critic
        if classes is None:
            scores, total = critic.score(real), real.new_zeros(())
        else:
            scores, logits = critic(real)
            total = F.cross_entropy(logits, classes)
        total = total + critic_loss(scores, critic.score(generated))
        if penalised and self.settings.penalty:
            shares = torch.rand(len(real), generator=rng, device=real.device)
            slope = gradient_penalty(critic.score, real, generated, shares)
            total = total + self.settings.penalty * slope
        return total

    def _closing(
        self,
        samples: Tensor,
        rows: Tensor,
        generated: tuple[Tensor, Tensor],
        generated_rows: tuple[Tensor, Tensor],
    ) -> Phase:
        """The critic's training as the classifier of all classes, each shown as often."""
        s, critic = self.settings, self._critic
        shares = (1.0, s.own_share)
        weights = [w * even_weights(r) for w, r in zip(shares, generated_rows, strict=True)]
        pool = SamplePool(
            torch.cat([samples, *generated]),
            torch.cat([rows, *generated_rows]),
            torch.cat([(1 - s.own_share) * even_weights(rows), *weights]),
        )

        def loss(batch: tuple[Tensor, ...], rng: torch.Generator) -> Tensor:
            images, mine = pool.draw(s.batch_size, rng)
            return F.cross_entropy(critic.classify(images), mine)

        # An epoch shows as many samples as there would be without the experience's own generated.
        n_samples = len(samples) + len(generated[0])
        steps = epochs_to_steps(s.closing_epochs, n_samples, s.batch_size)
        optimizer = s.closing_optimizer
        return Phase("classifier", critic, loss, optimizer, steps, s.batch_size)

    def replay(self, n: int) -> Replay | None:
        """See `Method.replay`: each old class as often as any other."""
        pool = self._pool
        if pool is None:
            return None
        size = self.replay_size
        if size is None:
            size = min(4 * n, round(n * (1 - self._new_weight) / self._new_weight))
        samples, rows = pool.draw(max(size, 1), self.rng)
        return self.generative.replay(samples, rows)

    @property
    def new_weight(self) -> float:
        """The share of the experience's real samples where each class counts the same."""
        return self._new_weight

    def predict(self, images: Tensor, tasks: Tensor, *, key: str | None = None) -> Tensor:
        """See `Method.predict`: the learner's answers, or the critic's."""
        memory = self.generative
        if not self.answers_itself or self.critic is None or not memory.learned:
            return super().predict(images, tasks, key=key)
        with evaluating(self.critic):
            logits = self.critic.classify(memory.ready.put(images))
        entries = memory.entries[: logits.shape[1]]
        if self.task_aware:
            other = tasks[:, None] != entries[None, :, 1]
            logits = logits.masked_fill(other, NO_OUTPUT)
        # As wide as the user's classifier, whose labels the answers are compared with.
        with evaluating(self.learner):
            width = self._ask(images[:1], tasks[:1]).shape[1]
        wide = logits.new_full((len(logits), width), NO_OUTPUT)
        index = entries[None, :, 2].expand(len(logits), -1)
        return wide.scatter_reduce(1, index, logits, "amax")

    def end(self, data: ExperienceData) -> None:
        """Ends the experience: what was learned of it is remembered."""
        # It may grow, and new weights are random.
        with self.random.governing():
            self.generative.close()
        self._pool, self._new_weight = None, 1.0
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
        return memory.replay(memory.generate(rows, self.rng), rows)

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
        return memory.ready.take(memory.generate(rows, self.rng))

    def memory(self) -> list[nn.Module]:
        """The generator, and the critic if it is the classifier or goes on."""
        kept: list[nn.Module | None] = [self.generative, self.critic]
        return [module for module in kept if module is not None]

    def get_extra_state(self) -> dict[str, Any]:
        """See `Method.get_extra_state`."""
        critic = self.critic
        n_classes = critic.class_head.out_features if critic is not None else None
        canvas = self.generative.get_extra_state()["canvas"]
        return {**super().get_extra_state(), "critic": n_classes, "canvas": canvas}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Builds the critic before its weights are loaded."""
        super().set_extra_state(state)
        self.critic = None
        if state["critic"] is not None:
            canvas = Canvas.from_dict(state["canvas"])
            architecture = self.generative.architecture_for(canvas.shape)
            self.critic = build_critic(
                architecture,
                canvas.padded,
                width=self.settings.critic_width,
                n_classes=state["critic"],
            ).to(self.rng.device)
