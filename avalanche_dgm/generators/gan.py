"""A generator of labelled samples that learns against a discriminator (AC-GAN, WGAN-GP)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avalanche_dgm.acceleration import accelerate
from avalanche_dgm.data import ExperienceData, SamplePool, even_weights
from avalanche_dgm.errors import ShapeError
from avalanche_dgm.fitting import OptimizationStep, Phase
from avalanche_dgm.generators.base import Generator
from avalanche_dgm.generators.discriminators import Discriminator, build_discriminator
from avalanche_dgm.generators.gan_settings import GANSettings
from avalanche_dgm.generators.growing import MaskedGenerator
from avalanche_dgm.generators.ranges import (
    check_intensities,
    check_scale,
    check_variety,
    intensity_range,
    known_range,
    standard_range,
)
from avalanche_dgm.generators.scaler import Scaler
from avalanche_dgm.losses import discriminator_loss, generator_loss, gradient_penalty
from avalanche_dgm.randomness import seeded_init
from avalanche_dgm.settings import make_settings

#: Samples that are generated at once.
CHUNK = 512

Batch = tuple[Tensor, ...]


class Shown(NamedTuple):
    """Samples that both networks learn from in a step.

    Attributes:
        samples: Float tensor (n, *padded), scaled: real, or taken for real.
        rows: int64 tensor (n,), their classes.
        weight: Of their loss.
        penalised: Whether the discriminator's gradient is penalised between them and generated
            samples.
    """

    samples: Tensor
    rows: Tensor
    weight: float = 1.0
    penalised: bool = True


class GAN(Generator, ABC):
    """A network that makes samples of a class, and the discriminator that it learns against.

    An experience is opened, learned and ended: `open`, `learn`, `end`. `learn` and `end` open and
    end it themselves where that was not done. What was opened and not ended is dropped by the next
    `open`.

    A subclass builds ``network`` and says how it makes samples while it learns; it may add to the
    loss, show further samples, and change gradients.

    Args:
        settings: Hyper-parameters; ``None`` for the defaults.
        all_classes: Whether the discriminator tells all classes, and not those of the experience
            alone: it is needed where it is the classifier.
        **changes: Hyper-parameters that shall differ, by name.

    Attributes:
        discriminator: What the network learns against, while it learns; kept between experiences
            with ``keeps_discriminator`` only.
        learned: Number of classes that are learned; further ones belong to the open experience.
        current: int64 tensor (k,), the rows of the open experience's classes, or ``None``.
        rows: int64 tensor (N,), the row of each of its samples, or ``None``.
        old: Scaled samples (M, *padded) of the classes learned before and their rows (M,), made
            when the open experience began to be learned.
    """

    rehearses = False
    settings_type: ClassVar[type[GANSettings]] = GANSettings
    keeps_discriminator: bool = False

    def __init__(
        self, settings: GANSettings | None = None, *, all_classes: bool = False, **changes: Any
    ) -> None:
        super().__init__()
        if settings is None or changes:
            settings = make_settings(self.settings_type, changes, base=settings)
        self.settings: Any = settings
        self.all_classes = all_classes
        self.learned = self.experiences = 0
        self.current: Tensor | None = None
        self.rows: Tensor | None = None
        self.old: tuple[Tensor, Tensor] | None = None
        self.discriminator: Discriminator | None = None
        self._network: MaskedGenerator | None = None
        self._scaler: Scaler | None = None
        self._rounds = 1

    @property
    def scaler(self) -> Scaler:
        """Scales samples to what the networks work on.

        Raises:
            RuntimeError: Nothing was built yet.
        """
        if self._scaler is None:
            raise RuntimeError("There are no networks yet; call build() first.")
        return self._scaler

    @property
    def network(self) -> MaskedGenerator:
        """What makes samples.

        Raises:
            RuntimeError: Nothing was built yet.
        """
        if self._network is None:
            raise RuntimeError("There are no networks yet; call build() first.")
        return self._network

    # Building

    def check(self, data: ExperienceData) -> None:
        """See `Generator.check`.

        Raises:
            RangeError: Intensities that it cannot make.
            ShapeError: Samples that it cannot make.
        """
        super().check(data)
        s, shape = self.settings, tuple(data.images.shape[1:])
        if (s.architecture == "dense") != (len(shape) == 1) and s.architecture != "auto":
            needed = "flat samples (features,)"
            if s.architecture != "dense":
                needed = "images (channels, height, width)"
            raise ShapeError(
                f"architecture={s.architecture!r} makes {needed}, but the samples are of shape"
                f" {shape}. Use architecture='auto'."
            )
        scaler = self._scaler if self._scaler is not None else self._scaler_for(data.images)
        if scaler.bounded:
            given = s.value_range is not None
            check_intensities(data.images, scaler.low, scaler.high, given=given, what="a generator")
        if s.value_range is None:
            check_variety(data.images, first=self._scaler is None)
            check_scale(data.images, scaler.low, scaler.high)

    def _scaler_for(self, images: Tensor) -> Scaler:
        """The scaler for first samples: with bounds if there are any, see `known_range`."""
        shape, given = tuple(int(side) for side in images.shape[1:]), self.settings.value_range
        if given is not None:
            return Scaler(shape, *intensity_range(images, given))
        pixels = known_range(images)
        if pixels is not None:
            return Scaler(shape, *pixels)
        scale = standard_range(images) if len(shape) == 1 else intensity_range(images, None)
        return Scaler(shape, *scale, bounded=False)

    def build(self, samples: Tensor) -> None:
        """See `Generator.build`; later samples are checked against the first ones by `check`."""
        if self._scaler is None:
            self.build_for(self._scaler_for(samples))
            self.to(samples.device)

    def build_for(self, scaler: Scaler) -> None:
        """Builds the network for samples that are scaled in a known way.

        Args:
            scaler: What scales them; nothing happens if it is the present one.
        """
        if scaler != self._scaler:
            self._scaler, self.shape = scaler, scaler.shape
            self._network = self._build(scaler)

    @abstractmethod
    def _build(self, scaler: Scaler) -> MaskedGenerator:
        """Returns a new network for samples (*scaler.padded)."""

    def new_discriminator(self, n_classes: int) -> Discriminator:
        """Returns a new discriminator for the samples that were built for.

        Args:
            n_classes: Number of its logits.
        """
        scaler, width = self.scaler, self.settings.discriminator_width
        architecture = self.settings.architecture_for(scaler.shape)
        return build_discriminator(architecture, scaler.padded, width=width, n_classes=n_classes)

    # Learning

    def open(self, data: ExperienceData, *, groups: Tensor | None = None) -> None:
        """Takes the classes of an experience in, so that they can be learned.

        Initial weights come from PyTorch's global generator, which the caller has seeded.

        Args:
            data: The experience, after `check` and `build`.
            groups: See `Generator.learn`.
        """
        self.classes.rows = self.classes.rows[: self.learned]
        self.rows = self.classes.add(data.tasks, data.labels, group=0 if groups is None else groups)
        self.current = self.rows.unique()

    @property
    def opened(self) -> Tensor:
        """``current``, of an experience that was opened.

        Raises:
            RuntimeError: None is.
        """
        if self.current is None:
            raise RuntimeError("No experience was opened; call open() first.")
        return self.current

    @property
    def opened_rows(self) -> Tensor:
        """``rows``, of an experience that was opened.

        Raises:
            RuntimeError: None is.
        """
        if self.rows is None:
            raise RuntimeError("No experience was opened; call open() first.")
        return self.rows

    def real_shares(self) -> Tensor:
        """The share (K,) of each class that real samples stand for; generated ones are the rest.

        All of a new class, nothing of an old one, half of one that comes back.
        """
        shares = torch.ones(len(self.classes), dtype=torch.float64, device=self.opened.device)
        shares[: self.learned] = 0
        shares[self.opened] = (1 + shares[self.opened]) / 2
        return shares

    def learn(
        self,
        data: ExperienceData,
        rng: torch.Generator,
        *,
        groups: Tensor | None = None,
        previous: Generator | None = None,
        old: tuple[Tensor, Tensor] | None = None,
        share: float | None = None,
    ) -> Iterator[Phase]:
        """See `Generator.learn`; samples of old classes are generated by itself, unless given."""
        if self.rows is None:
            with seeded_init(rng):
                self.open(data, groups=groups)
        if old is None:
            per_class = self.settings.replay_per_class or -(-len(data) // len(self.opened))
            rows = torch.arange(self.learned, device=self.opened.device)
            rows = rows.repeat_interleave(per_class)
            self.old = self.generate(rows, rng), rows
        else:
            self.old = self.scaler.transform(old[0]), old[1]
        yield from self.fit(data.images, self.opened_rows, rng)
        self._after_training(rng)

    def fit(self, samples: Tensor, rows: Tensor, rng: torch.Generator) -> Iterator[Phase]:
        """See `Generator.fit`; of an experience that was opened."""
        samples = self.scaler.transform(samples)
        with seeded_init(rng):
            self._prepare(samples.device)
        self._rounds = self.settings.rounds(len(samples))
        self._before_training(samples, rows)
        yield self.accelerated(self._phase(samples, rows))

    def _prepare(self, device: torch.device) -> None:
        """Makes the discriminator; subclasses extend it."""
        former = self.discriminator
        self.discriminator = self.new_discriminator(len(self.classes) - self.first_class).to(device)
        if self.keeps_discriminator and former is not None:
            self.discriminator.take_over(former)

    def _before_training(self, samples: Tensor, rows: Tensor) -> None:
        """Called when the networks are ready to learn scaled samples."""

    def _after_training(self, rng: torch.Generator) -> None:
        """Called when the networks have learned the experience."""

    def accelerated(self, phase: Phase) -> Phase:
        """The phase as the setting ``accelerate`` asks for."""
        return accelerate(phase) if self.settings.accelerate else phase

    @property
    def first_class(self) -> int:
        """The row that is the discriminator's first logit."""
        return 0 if self.all_classes else self.learned

    @property
    def has_aux_loss(self) -> bool:
        """Whether the network learns from the discriminator's logits as well."""
        guide = self.settings.aux_classifier_loss
        return guide == "always" or (guide == "auto" and len(self.opened) > 1)

    def _phase(self, samples: Tensor, rows: Tensor) -> Phase:
        s, discriminator, network = self.settings, self._against, self.network
        trained = [*discriminator.trunk.parameters(), *discriminator.score_head.parameters()]
        trained += discriminator.class_head.parameters() if self.has_aux_loss else []
        made = [p for p in network.parameters() if p.requires_grad]
        kinds = [
            *self._class_steps(samples, rows),
            *[OptimizationStep("discriminator", trained, self.discriminator_loss)]
            * s.discriminator_steps,
            OptimizationStep("generator", made, self.generator_loss, self._protect),
        ]
        both = nn.ModuleDict({"discriminator": discriminator, "generator": network})
        steps = self._rounds * len(kinds)
        data = (samples, rows)
        return Phase("generator", both, kinds, s.gan_optimizer, steps, s.batch_size, data)

    def discriminator_loss(self, batch: Batch, rng: torch.Generator, number: int) -> Tensor:
        """Wasserstein loss, the auxiliary classifier's on real samples, and gradient penalty."""
        discriminator, penalty = self._against, self.settings.penalty
        total = torch.zeros((), device=batch[0].device)
        for real, rows, weight, penalised in self._shown(batch, rng):
            with torch.no_grad():
                generated = self._training_samples(rows, rng, number)
            if self.has_aux_loss:
                scores, logits = discriminator(real)
                loss = F.cross_entropy(logits, rows - self.first_class)
            else:
                scores, loss = discriminator.score(real), torch.zeros_like(total)
            loss = loss + discriminator_loss(scores, discriminator.score(generated))
            if penalised and penalty:
                shares = torch.rand(len(real), generator=rng, device=real.device)
                slope = gradient_penalty(discriminator.score, real, generated, shares)
                loss = loss + penalty * slope
            total = total + weight * loss
        return total

    def generator_loss(self, batch: Batch, rng: torch.Generator, number: int) -> Tensor:
        """Scores of generated samples, the auxiliary classifier's loss, and what is added."""
        total = self._extra_loss(rng, number)
        for _, rows, weight, _ in self._shown(batch, rng):
            generated = self._training_samples(rows, rng, number)
            if self.has_aux_loss:
                scores, logits = self._against(generated)
                loss = generator_loss(scores) + F.cross_entropy(logits, rows - self.first_class)
            else:
                loss = generator_loss(self._against.score(generated))
            total = total + weight * loss
        return total

    def _class_steps(self, samples: Tensor, rows: Tensor) -> list[OptimizationStep]:
        """Steps of the discriminator on classes alone (Ostapenko et al., Sec. 4.1)."""
        discriminator, first = self._against, self.first_class
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
            some, classes = pool.sample(len(batch[0]), rng)
            return F.cross_entropy(discriminator.classify(some), classes - first)

        trained = [*discriminator.trunk.parameters(), *discriminator.class_head.parameters()]
        return [OptimizationStep("classes", trained, loss)] * n

    @property
    def _against(self) -> Discriminator:
        if self.discriminator is None:
            raise RuntimeError("There is no discriminator; begin to learn an experience first.")
        return self.discriminator

    @abstractmethod
    def _training_samples(self, rows: Tensor, rng: torch.Generator, number: int) -> Tensor:
        """Makes scaled samples (n, *padded) of the open experience's classes, with a gradient.

        Args:
            rows: int64 tensor (n,).
            rng: Generator on the device of ``rows``.
            number: Number of the round, counted from 0.
        """

    def _shown(self, batch: Batch, rng: torch.Generator) -> list[Shown]:
        """What both networks learn from in a step, for a batch of the experience."""
        return [Shown(batch[0], batch[1])]

    def _extra_loss(self, rng: torch.Generator, number: int) -> Tensor:
        """What is added to the network's loss in a round: a scalar."""
        return torch.zeros((), device=self.opened.device)

    def _protect(self, number: int) -> None:
        """Changes the network's gradients before its step, in a round of that number."""

    def end(self, rng: torch.Generator) -> None:
        """See `Generator.end`: its classes are learned."""
        # It may grow, and new weights are random.
        with seeded_init(rng):
            self._close()
        self.learned, self.experiences = len(self.classes), self.experiences + 1
        self.current = self.rows = self.old = None
        if not self.keeps_discriminator:
            self.discriminator = None

    def _close(self) -> None:
        """Called when the open experience ends."""

    # Generating

    @abstractmethod
    def _generate(self, rows: Tensor, rng: torch.Generator) -> Tensor:
        """Generates some scaled samples (n, *padded), see `generate`."""

    @torch.no_grad()
    def generate(self, rows: Tensor, rng: torch.Generator) -> Tensor:
        """Generates scaled samples, a chunk at a time.

        Args:
            rows: int64 tensor (n,), the class of each; those of the open experience are made as
                they are learned so far.
            rng: Generator on the generator's device.

        Returns:
            Float tensor (n, *padded), in [-1, 1] if the scaler is bounded.
        """
        if not len(rows):
            return torch.empty(0, *self.scaler.padded, device=self.classes.rows.device)
        return torch.cat([self._generate(part, rng) for part in rows.split(CHUNK)])

    def sample(self, rows: Tensor, rng: torch.Generator) -> Tensor:
        """See `Generator.sample`."""
        return self.scaler.inverse_transform(self.generate(rows, rng))

    # State

    def get_extra_state(self) -> dict[str, Any]:
        """What ``state_dict`` needs to build the networks again."""
        known = self.discriminator
        return {
            "scaler": self._scaler.to_dict() if self._scaler is not None else None,
            "discriminator": known.class_head.out_features if known is not None else None,
            "learned": self.learned,
            "experiences": self.experiences,
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Builds the networks before their weights are loaded."""
        self.learned, self.experiences = state["learned"], state["experiences"]
        self.current = self.rows = self.old = self.discriminator = None
        device = self.classes.rows.device
        # What is drawn for new weights is loaded over.
        with torch.random.fork_rng(devices=[]):
            if state["scaler"] is None:
                self._scaler = self._network = self.shape = None
            else:
                self.build_for(Scaler.from_dict(state["scaler"]))
            if state["discriminator"] is not None:
                self.discriminator = self.new_discriminator(state["discriminator"])
        self.to(device)
