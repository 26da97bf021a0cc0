"""Base class of methods whose memory is a generative adversarial network.

The generator learns an experience against its discriminator. Samples of old classes are generated
once and replayed to the classifier: the user's model, or the discriminator's class head.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avalanche_dgm.data import ExperienceData, Replay, SamplePool, even_weights
from avalanche_dgm.errors import UnknownTaskError, required
from avalanche_dgm.fitting import OptimizationStep, Phase, epochs_to_steps
from avalanche_dgm.losses import UserCriterion
from avalanche_dgm.memories.classifiers import spread
from avalanche_dgm.methods.abilities import ReplaySource, Routing
from avalanche_dgm.methods.base import Needs
from avalanche_dgm.methods.finetuning import FinetunedMethod, FinetuningSettings
from avalanche_dgm.modules import copied, evaluating, size_in_bytes
from avalanche_dgm.optimizers import OptimizerSpec
from avalanche_dgm.settings import MethodSettings

if TYPE_CHECKING:
    from avalanche_dgm.generators.discriminators import Discriminator
    from avalanche_dgm.generators.gan import GAN

#: Batch size of the finetuning of the discriminator as the classifier.
FINETUNE_BATCH = 64
#: Minimum number of its steps.
LEAST_FINETUNE_STEPS = 60

#: Settings for smoke tests.
FAST = {
    "generator_steps": 5,
    "width": 4,
    "discriminator_width": 4,
    "batch_size": 16,
    "replay_per_class": 16,
    "discriminator_finetune_epochs": 1,
}


@dataclass(frozen=True, kw_only=True)
class GANMethodSettings(FinetuningSettings, MethodSettings):
    """Settings of a classifier with a generative adversarial network as its memory.

    Attributes:
        classifier: What predicts: ``"learner"``, the user's model, which is trained with replay; or
            ``"discriminator"``, the discriminator's class head (the paper), and the user's model is
            not trained.
        replay_size: Replayed samples per step; ``None`` for as many as give all classes the same
            weight, but at most four times the new ones.
        own_fake_fraction: Fraction of generated samples among those of the experience's own
            classes, from 0 to below 1. With real samples only, "real or generated" would separate
            new from old classes, and nothing else would be learned.
        discriminator_finetune_epochs: If the discriminator is the classifier: epochs on samples of
            all classes at the end of an experience, at least 60 steps; 0 for none.
        discriminator_finetune_optimizer: Optimiser of this training.
        shift: Maximum random shift of images in this training, along both sides, as a fraction of a
            side; 0 for none. Generated samples, the only ones of old classes, differ from real ones
            by small shifts, so without it real images of old classes are misclassified.
    """

    deprecated: ClassVar[Mapping[str, str]] = {
        "own_share": "own_fake_fraction",
        "closing_epochs": "discriminator_finetune_epochs",
        "closing_optimizer": "discriminator_finetune_optimizer",
    }
    deprecated_values: ClassVar[Mapping[str, Mapping[Any, Any]]] = {
        "classifier": {"critic": "discriminator"}
    }

    classifier: Literal["learner", "discriminator"] = "learner"
    replay_size: int | None = None
    own_fake_fraction: float = field(default=0.5, metadata={"least": 0, "below": 1})
    discriminator_finetune_epochs: int = field(default=2, metadata={"least": 0})
    discriminator_finetune_optimizer: OptimizerSpec = OptimizerSpec("adam", 1e-3, "cosine")
    shift: float = field(default=0.07, metadata={"least": 0, "below": 0.5})


class GANMethod(ReplaySource, Routing, FinetunedMethod):
    """A generative adversarial network beside a classifier.

    A subclass makes its generator, and sets ``settings_type``, which includes the generator's
    settings.

    Attributes:
        generator: The generator of all classes.
        candidate: The discriminator that becomes the classifier at the end of this experience.
        deployed: The discriminator that is the classifier.
    """

    settings_type: ClassVar[type[GANMethodSettings]] = GANMethodSettings
    source_settings: ClassVar = {
        "classifier": "learner",
        "own_fake_fraction": 0.0,
        "finetune_steps": 0,
    }

    def __init__(self, settings: GANMethodSettings | None = None, **changes: Any) -> None:
        super().__init__(settings, **changes)
        self.needs = Needs(tasks=self.needs.tasks, learner=not self.routes)
        self.criterion = UserCriterion(weighed=not self.routes)
        self.generator = self._make_generator()
        self.candidate: Discriminator | None = None
        self.deployed: Discriminator | None = None
        self._pool: SamplePool | None = None

    @abstractmethod
    def _make_generator(self) -> GAN:
        """Returns an untrained generator."""

    @property
    def routes(self) -> bool:
        """See `Routing.routes`: whether the discriminator is the classifier."""
        return bool(self.settings.classifier == "discriminator")

    @property
    def active(self) -> nn.Module | None:
        """See `Method.active`: none if the discriminator is the classifier."""
        return None if self.routes else self.learner

    def check(self, data: ExperienceData) -> None:
        self.generator.check(data)

    def _begin(self, data: ExperienceData) -> None:
        """See `Method.begin`.

        Raises:
            CapacityError: The networks do not fit into ``memory_budget``.
        """
        super()._begin(data)
        with self.random.seeded_init():
            self.generator.build(data.images)
            self.generator.open(data)
        self._check_networks()

    def _check_networks(self) -> None:
        """Checks the current size of the networks; at the end a discriminator may be added."""
        kept = [self.generator, self.deployed]
        needed = sum(size_in_bytes(module) for module in kept if module is not None)
        self._check_budget(
            needed,
            "Give more, or smaller networks (width=, discriminator_width=), or replay from"
            " densities of classes (generator='low-rank' of DGR).",
        )

    def before_learning(self, data: ExperienceData) -> Iterator[Phase]:
        """Yields the training of the GAN, and that of the discriminator as the classifier."""
        gan, s = self.generator, self.settings
        yield from gan.learn(data, self.rng)
        (old, old_rows), fakes = required(gan.old, "replay", "learn"), s.own_fake_fraction
        per_class = s.replay_per_class or -(-len(data) // len(gan.opened))
        own_rows = gan.opened.repeat_interleave(per_class if fakes else 0)
        own = gan.generate(own_rows, self.rng)
        # Each class weighs 1. An old class has generated samples; a new one has real samples and
        # those of the current generator; a class seen again is half old and half new.
        real = gan.real_shares()
        generated = torch.cat(
            [
                even_weights(old_rows) * (1 - real[old_rows]),
                fakes * even_weights(own_rows) * real[own_rows],
            ]
        )
        if self.routes:
            self.candidate = copied(gan.opponent) if gan.keeps_discriminator else gan.opponent
            samples, rows = gan.scaler.transform(data.images), gan.opened_rows
            pool = SamplePool(
                torch.cat([old, own, samples]),
                torch.cat([old_rows, own_rows, rows]),
                torch.cat([generated, (1 - fakes) * even_weights(rows) * real[rows]]),
            )
            yield gan.accelerated(self._finetuning(pool, len(old) + len(samples)))
        elif gan.learned:
            # Scaled back once, not in each step of the user's classifier.
            made = gan.scaler.inverse_transform(torch.cat([old, own]))
            self._pool = SamplePool(made, torch.cat([old_rows, own_rows]), generated)
            self._new_weight = (1 - fakes) * float(real.sum()) / len(real)

    def _finetuning(self, pool: SamplePool, n: int) -> Phase:
        """The training of the candidate as the classifier of all classes.

        The pool has real new samples and generated ones, scaled; n are an epoch.
        """
        candidate, s = required(self.candidate, "discriminator", "learn"), self.settings

        def loss(batch: tuple[Tensor, ...], rng: torch.Generator, number: int) -> Tensor:
            # Of the batch only the size is used, as several devices share it.
            samples, rows = pool.sample(len(batch[0]), rng)
            samples = shifted(samples, s.shift, rng)
            return F.cross_entropy(candidate.classify(samples), rows)

        steps = epochs_to_steps(s.discriminator_finetune_epochs, n, FINETUNE_BATCH)
        steps = max(steps, LEAST_FINETUNE_STEPS) if steps else 0
        # DDP must know that the head of the real-or-fake score has no gradient.
        trained = [*candidate.trunk.parameters(), *candidate.class_head.parameters()]
        kinds, spec = [OptimizationStep("loss", trained, loss)], s.discriminator_finetune_optimizer
        return Phase("classifier", candidate, kinds, spec, steps, FINETUNE_BATCH, (pool.rows,))

    def replay(self, n: int) -> Replay | None:
        """See `Method.replay`: balanced over old classes."""
        if self._pool is None:
            return None
        size = self.settings.replay_size
        if size is None:
            size = min(4 * n, round(n * (1 - self._new_weight) / self._new_weight))
        return self.sample_old(max(size, 1))

    def sample_old(self, n: int) -> Replay | None:
        """See `ReplaySource.sample_old`; includes new classes, see ``own_fake_fraction``."""
        return self._labelled(*self._pool.sample(n, self.rng)) if self._pool is not None else None

    def _labelled(self, images: Tensor, rows: Tensor) -> Replay:
        classes = self.generator.classes
        return Replay(images, classes.labels[rows], classes.tasks[rows])

    def predict(self, images: Tensor, tasks: Tensor, *, key: str | None = None) -> Tensor:
        """See `Method.predict`: the logits of the learner or of the discriminator."""
        if self.deployed is None:
            return super().predict(images, tasks, key=key)
        with evaluating(self.deployed):
            scaled = self.generator.scaler.transform(images, clip=False)
            logits = self.deployed.classify(scaled)
        classes = self.generator.classes.rows[: logits.shape[1]]
        width = self._width(images, tasks)
        return spread(logits, classes, tasks, width, by_task=self.task_aware)

    def end(self, data: ExperienceData) -> None:
        """Ends the experience: its networks become part of the memory."""
        self.generator.end(self.rng)
        self._pool, self._new_weight = None, 1.0
        if self.candidate is not None:
            self.deployed, self.candidate = self.candidate, None
        self._check_networks()
        super().end(data)

    def sample(self, n: int) -> Replay:
        """See `Inspectable.sample`: balanced over classes."""
        gan = self.generator
        if not gan.learned:
            raise UnknownTaskError("Nothing was learned yet: train on an experience first.")
        rows = torch.arange(n, device=gan.classes.rows.device) * gan.learned // n
        return self._labelled(gan.sample(rows, self.rng), rows)

    def sample_class(self, label: int, n: int, *, task: int = 0) -> Tensor:
        """Generates samples of one class.

        Args:
            label: The class.
            n: Number of samples.
            task: The class's task label.

        Returns:
            Float tensor (n, *shape), in the user's units.

        Raises:
            UnknownTaskError: The class was not learned.
        """
        gan = self.generator
        classes = gan.classes.rows[: gan.learned].tolist()
        rows = [row for row, (_, t, c) in enumerate(classes) if (t, c) == (task, label)]
        if not rows:
            known = ", ".join(str(c) for _, t, c in classes if t == task)
            raise UnknownTaskError(
                f"Class {label} was not learned; learned classes: {known or 'none'}. Train on it"
                " first."
            )
        return gan.sample(torch.full((n,), rows[0], device=gan.classes.rows.device), self.rng)

    def get_extra_state(self) -> dict[str, Any]:
        kept = {"candidate": self.candidate, "deployed": self.deployed}
        return {
            **super().get_extra_state(),
            "discriminators": {
                name: kept.class_head.out_features
                for name, kept in kept.items()
                if kept is not None
            },
            "generator": self.generator.get_extra_state(),
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Builds the discriminators before their weights are loaded."""
        super().set_extra_state(state)
        device = self.rng.device
        self.generator.set_extra_state(state["generator"])
        for name in ("candidate", "deployed"):
            n_classes = state["discriminators"].get(name)
            discriminator = self.generator.new_discriminator(n_classes) if n_classes else None
            setattr(self, name, discriminator.to(device) if discriminator is not None else None)


def shifted(samples: Tensor, share: float, rng: torch.Generator) -> Tensor:
    """Shifts each image (n, C, H, W) at random, at most by a share of each side.

    The border is filled with -1. Vectors (n, D) are returned unchanged.
    """
    if samples.ndim != 4 or not share:
        return samples
    n, _, height, width = samples.shape
    far = [round(share * height), round(share * width)]
    padded = F.pad(samples, (far[1], far[1], far[0], far[0]), value=-1.0)
    device = samples.device
    places = [
        torch.randint(0, 2 * most + 1, (n, 1), generator=rng, device=device)
        + torch.arange(side, device=device)
        for most, side in zip(far, (height, width), strict=True)
    ]
    each = torch.arange(n, device=device)[:, None, None]
    # Advanced indexing puts the indexed dimensions first, hence channels last.
    picked = padded.permute(0, 2, 3, 1)[each, places[0][:, :, None], places[1][:, None, :]]
    return picked.permute(0, 3, 1, 2).contiguous()
