"""Class-conditional generative adversarial networks (AC-GAN, WGAN-GP)."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avalanche_dgm.acceleration import accelerate
from avalanche_dgm.data import ExperienceData, SamplePool, even_weights
from avalanche_dgm.errors import required
from avalanche_dgm.fitting import OptimizationStep, Phase
from avalanche_dgm.generators.base import Generator, Known
from avalanche_dgm.generators.discriminators import Discriminator, build_discriminator
from avalanche_dgm.generators.gan_settings import GANSettings
from avalanche_dgm.generators.growing import MaskedGenerator
from avalanche_dgm.generators.keeping import Batch, KeepOld
from avalanche_dgm.generators.masked_networks import build_generator
from avalanche_dgm.generators.ranges import check_scale, check_variety, first_range
from avalanche_dgm.generators.resemblance import LEAST_ROUNDS, MOST_COMPARED, unlike
from avalanche_dgm.generators.scaler import Scaler
from avalanche_dgm.losses import discriminator_loss, generator_loss, gradient_penalty
from avalanche_dgm.modules import copied, in_chunks
from avalanche_dgm.randomness import seeded_init
from avalanche_dgm.settings import make_settings

if TYPE_CHECKING:
    from typing_extensions import Unpack

#: Batch size of generation.
CHUNK = 512


class GAN(Generator, ABC):
    """A class-conditional generator and its discriminator.

    The calls for an experience are `open`, `learn`, `end`; `learn` calls `open` if needed. An
    unfinished experience is dropped by the next `open`.

    A subclass defines how classes are encoded in the network's inputs, and the network's masks.

    Args:
        settings: Hyper-parameters; ``None`` for the defaults.
        keep: How old classes are retained.
        all_classes: Whether the discriminator has a logit for all classes, which a classifier
            needs, or only for those of the experience.
        **changes: Hyper-parameters that replace those of ``settings``, by name.

    Attributes:
        discriminator: The discriminator during training; kept between experiences only with
            ``keeps_discriminator``.
        learned: Number of learned classes; further ones belong to the current experience.
        experiences: Number of learned experiences.
        opened: int64 tensor (k,), rows of the current experience's classes; empty without one.
        opened_rows: int64 tensor (N,), rows of the current experience's samples.
        old: Generated samples of old classes: scaled samples (M, *padded) and their rows (M,);
            ``None`` before `learn`.
    """

    rehearses = False
    spec_type: ClassVar = Scaler
    settings_type: ClassVar[type[GANSettings]] = GANSettings
    keeps_discriminator: bool = False
    opened: Tensor = torch.empty(0, dtype=torch.int64)
    opened_rows: Tensor = opened

    def __init__(
        self,
        settings: GANSettings | None = None,
        *,
        keep: KeepOld,
        all_classes: bool = False,
        **changes: Any,
    ) -> None:
        super().__init__()
        if settings is None or changes:
            settings = make_settings(self.settings_type, changes, base=settings)
        self.settings: Any = settings
        self.keep = keep
        self.all_classes = all_classes
        self.learned = self.experiences = 0
        self.discriminator: Discriminator | None = None
        self._network: MaskedGenerator | None = None
        self._rounds = 1
        self._close()

    def _close(self) -> None:
        self.opened = self.opened_rows = torch.empty(0, dtype=torch.int64)
        self.old: tuple[Tensor, Tensor] | None = None

    @property
    def scaler(self) -> Scaler:
        """The scaler of the networks' samples; an error before `build`."""
        return required(self.spec, "network", "build")

    @property
    def network(self) -> MaskedGenerator:
        """The generator network; an error before `build`."""
        return required(self._network, "network", "build")

    @property
    def opponent(self) -> Discriminator:
        """``discriminator``; an error without one."""
        return required(self.discriminator, "discriminator", "learn")

    def check(self, data: ExperienceData) -> None:
        super().check(data)
        s = self.settings
        s.architecture_for(tuple(data.images.shape[1:]))
        given = s.value_range is not None
        if not given:
            check_variety(data.images, first=self.spec is None)
        scaler = self.spec or self._spec_for(data.images)
        check_scale(data.images, scaler.low, scaler.high, bounded=scaler.bounded, given=given)

    def known_pairs(self) -> set[tuple[int, int]]:
        """Task label and label of each learned class."""
        return {(task, label) for _, task, label in self.classes.rows[: self.learned].tolist()}

    def _spec_for(self, samples: Tensor) -> Scaler:
        shape = tuple(int(side) for side in samples.shape[1:])
        return Scaler(shape, *first_range(samples, self.settings.value_range))

    def make_networks(self, shape: tuple[int, ...]) -> None:
        self._network = self.new_network()

    def new_network(self) -> MaskedGenerator:
        """Returns a new generator network."""
        return build_generator(self.settings, self.scaler)

    def new_discriminator(self, n_classes: int) -> Discriminator:
        """Returns a new discriminator with ``n_classes`` logits."""
        scaler, width = self.scaler, self.settings.discriminator_width
        architecture = self.settings.architecture_for(scaler.shape)
        return build_discriminator(architecture, scaler.padded, width=width, n_classes=n_classes)

    # Learning

    def open(self, data: ExperienceData, *, groups: Tensor | None = None) -> None:
        """Starts an experience: adds its classes.

        Initial weights are drawn from PyTorch's global generator, which the caller has seeded.

        Args:
            data: The experience, after `check` and `build`.
            groups: See `Known`.
        """
        self.classes.rows = self.classes.rows[: self.learned]
        self.opened_rows = self._add_classes(data, groups)
        self.opened = self.opened_rows.unique()

    def real_shares(self) -> Tensor:
        """The fraction (K,) of real samples of each class; the rest are generated.

        It is 1 for a new class, 0 for an old one, 1/2 for an old one that is learned again.
        """
        shares = torch.ones(len(self.classes), dtype=torch.float64, device=self.opened.device)
        shares[: self.learned] = 0
        shares[self.opened] = (1 + shares[self.opened]) / 2
        return shares

    def learn(
        self, data: ExperienceData, rng: torch.Generator, **known: Unpack[Known]
    ) -> Iterator[Phase]:
        """See `Generator.learn`; without ``old``, it generates samples of old classes itself."""
        if not len(self.opened):
            with seeded_init(rng):
                self.open(data, groups=known.get("groups"))
        old = known.get("old")
        if old is None:
            per_class = self.settings.replay_per_class or -(-len(data) // len(self.opened))
            rows = torch.arange(self.learned, device=self.opened.device)
            rows = rows.repeat_interleave(per_class)
            self.old = self.generate(rows, rng), rows
        else:
            self.old = self.scaler.transform(old[0]), old[1]
        yield from self.fit(data.images, self.opened_rows, rng)
        self.keep.after_training(self, rng)

    def fit(self, samples: Tensor, rows: Tensor, rng: torch.Generator) -> Iterator[Phase]:
        """See `Generator.fit`, for an experience after `open`."""
        samples = self.scaler.transform(samples)
        self._rounds = self.rounds(len(samples))
        start, previous = copied(self.network).state_dict(), self.discriminator
        for repeated in (False, True):
            if repeated:
                self.network.load_state_dict(start)
                self.discriminator = previous
            with seeded_init(rng):
                self._prepare(samples.device)
            self.keep.begin(self, samples, rows)
            yield self.accelerated(self._phase(samples, rows))
            failed = self._failed(samples, rows, rng)
            if not failed:
                return
            labels = ", ".join(str(label) for label in self.classes.labels[failed].tolist())
            remedy = "It is repeated once, with other random numbers."
            if repeated:
                remedy = "Take more generator steps, or a smaller learning rate (gan_optimizer)."
            warnings.warn(
                f"The generated samples of class {labels} do not resemble the real ones: the"
                f" training of the GAN failed. {remedy}",
                stacklevel=2,
            )

    def _failed(self, samples: Tensor, rows: Tensor, rng: torch.Generator) -> list[int]:
        """Classes whose generated samples are unlike the real ones, after a whole training."""
        if self._rounds < LEAST_ROUNDS:
            return []
        # A copy, so that a training that went well is not changed by being checked.
        rng = rng.clone_state()
        drawn = rows[torch.randperm(len(rows), generator=rng, device=rows.device)[:MOST_COMPARED]]
        return unlike(samples, rows, self.generate(drawn, rng), drawn)

    def rounds(self, n_samples: int) -> int:
        """Training steps of the network on an experience with ``n_samples`` samples."""
        return int(self.settings.rounds(n_samples))

    def _prepare(self, device: torch.device) -> None:
        """Creates the discriminator."""
        previous = self.discriminator
        self.discriminator = self.new_discriminator(len(self.classes) - self.first_class).to(device)
        if self.keeps_discriminator and previous is not None:
            self.discriminator.take_over(previous)

    def accelerated(self, phase: Phase) -> Phase:
        """The phase, accelerated if the setting ``accelerate`` is on."""
        return accelerate(phase) if self.settings.accelerate else phase

    @property
    def first_class(self) -> int:
        """The row of the discriminator's first logit."""
        return 0 if self.all_classes else self.learned

    @property
    def has_aux_loss(self) -> bool:
        """Whether the generator has the auxiliary classifier's loss."""
        guide = self.settings.aux_classifier_loss
        return guide == "always" or (guide == "auto" and len(self.opened) > 1)

    def scale(self, number: int) -> float:
        """The scale of the masks' sigmoid in a round, see `GANSettings.scale`."""
        return float(self.settings.scale(number, self._rounds))

    def _phase(self, samples: Tensor, rows: Tensor) -> Phase:
        s, discriminator, network = self.settings, self.opponent, self.network
        trained = [*discriminator.trunk.parameters(), *discriminator.score_head.parameters()]
        trained += discriminator.class_head.parameters() if self.has_aux_loss else []
        weights = [p for p in network.parameters() if p.requires_grad]
        kinds = [
            *self._class_steps(samples, rows),
            *[OptimizationStep("discriminator", trained, self.discriminator_loss)]
            * s.discriminator_steps,
            OptimizationStep(
                "generator", weights, self.generator_loss, partial(self.keep.protect, self)
            ),
        ]
        both = nn.ModuleDict({"discriminator": discriminator, "generator": network})
        steps = self._rounds * len(kinds)
        data = (samples, rows)
        return Phase("generator", both, kinds, s.gan_optimizer, steps, s.batch_size, data)

    def discriminator_loss(self, batch: Batch, rng: torch.Generator, number: int) -> Tensor:
        """Wasserstein loss, the auxiliary classifier's loss on real samples, gradient penalty."""
        discriminator, every = self.opponent, self.settings.penalty_every
        penalty = 0.0 if number % every else every * self.settings.penalty
        total = torch.zeros((), device=batch[0].device)
        for real, rows, weight, penalised in self.keep.shown(batch, rng):
            with torch.no_grad():
                generated = self._training_samples(rows, rng, number)
            scores, loss = self._judged(real, rows)
            loss = loss + discriminator_loss(scores, discriminator.score(generated))
            if penalised and penalty:
                shares = torch.rand(len(real), generator=rng, device=real.device)
                slope = gradient_penalty(discriminator.score, real, generated, shares)
                loss = loss + penalty * slope
            total = total + weight * loss
        return total

    def generator_loss(self, batch: Batch, rng: torch.Generator, number: int) -> Tensor:
        """Wasserstein loss, the auxiliary classifier's loss, and the term of ``keep``."""
        total = self.keep.loss(self, rng, number)
        for _, rows, weight, _ in self.keep.shown(batch, rng):
            generated = self._training_samples(rows, rng, number)
            scores, loss = self._judged(generated, rows)
            total = total + weight * (generator_loss(scores) + loss)
        return total

    def _judged(self, samples: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The discriminator's scores (n,), and the auxiliary classifier's loss or 0."""
        if not self.has_aux_loss:
            scores = self.opponent.score(samples)
            return scores, scores.new_zeros(())
        scores, logits = self.opponent(samples)
        return scores, F.cross_entropy(logits, rows - self.first_class)

    def _class_steps(self, samples: Tensor, rows: Tensor) -> list[OptimizationStep]:
        """Classification steps of the discriminator (Ostapenko et al., Sec. 4.1)."""
        discriminator, first = self.opponent, self.first_class
        n = self.settings.class_steps
        n = discriminator.class_head.out_features if n is None else n
        if not n:
            return []
        real, weights = self.real_shares(), [even_weights(rows)]
        if self.old is not None and not first:
            old, old_rows = self.old
            weights = [
                even_weights(old_rows) * (1 - real[old_rows]),
                even_weights(rows) * real[rows],
            ]
            samples, rows = torch.cat([old, samples]), torch.cat([old_rows, rows])
        pool = SamplePool(samples, rows, torch.cat(weights))

        def loss(batch: Batch, rng: torch.Generator, number: int) -> Tensor:
            drawn, classes = pool.sample(len(batch[0]), rng)
            return F.cross_entropy(discriminator.classify(drawn), classes - first)

        trained = [*discriminator.trunk.parameters(), *discriminator.class_head.parameters()]
        return [OptimizationStep("classes", trained, loss)] * n

    def _training_samples(self, rows: Tensor, rng: torch.Generator, number: int) -> Tensor:
        """Scaled samples (n, *padded) of the current experience's classes, with gradients."""
        return self.network(self.inputs(rows, rng), scale=self.scale(number))

    @abstractmethod
    def inputs(self, rows: Tensor, rng: torch.Generator) -> Tensor:
        """The network's inputs (n, latent) for classes (n,), see `noise_with_class`."""

    def end(self, rng: torch.Generator) -> None:
        # A user's `KeepOld` may draw from PyTorch's global generator.
        with seeded_init(rng):
            self.keep.end(self)
        self.learned, self.experiences = len(self.classes), self.experiences + 1
        self._close()
        if not self.keeps_discriminator:
            self.discriminator = None

    # Generating

    @abstractmethod
    def _generate(self, rows: Tensor, rng: torch.Generator) -> Tensor:
        """Generates a batch of scaled samples (n, *padded), see `generate`."""

    def generate(self, rows: Tensor, rng: torch.Generator) -> Tensor:
        """Generates scaled samples in batches, without gradients.

        Args:
            rows: int64 tensor (n,), their classes, which may be those of the current experience.
            rng: Generator on the generator's device.

        Returns:
            Float tensor (n, *padded), in [-1, 1] if the scaler is bounded.
        """
        if not len(rows):
            return torch.empty(0, *self.scaler.padded, device=self.classes.rows.device)
        return in_chunks(lambda part: self._generate(part, rng), rows, size=CHUNK)

    def sample(self, rows: Tensor, rng: torch.Generator) -> Tensor:
        return self.scaler.inverse_transform(self.generate(rows, rng))

    # State

    def get_extra_state(self) -> dict[str, Any]:
        """Sizes from which the networks are rebuilt, and counters, for ``state_dict``."""
        discriminator = self.discriminator
        n_logits = discriminator.class_head.out_features if discriminator is not None else None
        return {
            **super().get_extra_state(),
            "discriminator": n_logits,
            "learned": self.learned,
            "experiences": self.experiences,
        }

    def _restore(self, state: dict[str, Any]) -> None:
        self.learned, self.experiences = state["learned"], state["experiences"]
        self._close()
        self.discriminator = None
        if state["spec"] is None:
            self._network = None
        super()._restore(state)
        if state["discriminator"] is not None:
            discriminator = self.new_discriminator(state["discriminator"])
            self.discriminator = discriminator.to(self.classes.rows.device)
