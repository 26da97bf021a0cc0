"""A GAN that is told the class and learns all of them with the same weights.

What keeps old classes is an object: `JointReplay` and `Alignment` (Wu et al. 2018), `EWC` (Seff et
al. 2017), or nothing.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call, grad, vmap

from avalanche_dgm.data import ExperienceData, SamplePool, even_weights
from avalanche_dgm.errors import ConfigError
from avalanche_dgm.generators.gan import GAN, Batch, Shown
from avalanche_dgm.generators.gan_settings import ConditionalGANSettings
from avalanche_dgm.generators.growing import MaskedGenerator, MaskedSpec
from avalanche_dgm.generators.masked_networks import build_generator
from avalanche_dgm.generators.scaler import Scaler
from avalanche_dgm.modules import GrowingBuffers, copied, evaluating
from avalanche_dgm.settings import positive, whole

#: Samples whose gradients are held at once: each has as many numbers as the network.
_AT_ONCE = 32


class KeepOld(GrowingBuffers):
    """How a `ConditionalGAN` keeps old classes while it learns an experience; here: not at all.

    The verbs are called in this order; a subclass overrides those that it needs.
    """

    def begin(self, gan: ConditionalGAN, samples: Tensor, rows: Tensor) -> None:
        """Called before the training.

        Args:
            gan: What learns.
            samples: Float tensor (N, *padded), the experience's scaled samples.
            rows: int64 tensor (N,), their classes.
        """

    def shown(self, batch: Batch, rng: torch.Generator) -> list[Shown]:
        """What both networks learn from in a step, for a batch of the experience."""
        return [Shown(batch[0], batch[1])]

    def loss(self, gan: ConditionalGAN, rng: torch.Generator) -> Tensor:
        """What is added to the generating network's loss: a scalar."""
        return torch.zeros((), device=gan.opened.device)

    def after_training(self, gan: ConditionalGAN, rng: torch.Generator) -> None:
        """Called after the training, while the discriminator is what the network learned by."""

    def end(self, gan: ConditionalGAN) -> None:
        """Called at the end of the experience."""


class JointReplay(KeepOld):
    """Trains on generated samples of old classes as if they were data (Wu et al. 2018, JTR).

    Each class weighs the same. One that comes back is learned half by its new samples, half by
    generated ones.
    """

    _old: SamplePool | None = None
    _real: SamplePool | None = None
    _weights: tuple[float, float] = (1.0, 0.0)

    def begin(self, gan: ConditionalGAN, samples: Tensor, rows: Tensor) -> None:
        """See `KeepOld.begin`."""
        self.end(gan)
        if gan.old is None or not gan.learned:
            return
        (old, old_rows), real, n_now = gan.old, gan.real_shares(), len(gan.opened)
        self._old = SamplePool(old, old_rows, even_weights(old_rows) * (1 - real[old_rows]))
        n_back = int((gan.opened < gan.learned).sum())
        # A sum over classes, in the authors' code.
        self._weights = (n_now - n_back / 2) / n_now, (gan.learned - n_back / 2) / n_now
        if n_back:
            self._real = SamplePool(samples, rows, even_weights(rows) * real[rows])

    def shown(self, batch: Batch, rng: torch.Generator) -> list[Shown]:
        """See `KeepOld.shown`: as many of all old classes together as there are new ones."""
        if self._old is None:
            return super().shown(batch, rng)
        n, (new, old) = len(batch[0]), self._weights
        mine = self._real.sample(n, rng) if self._real is not None else (batch[0], batch[1])
        return [Shown(*mine, new), Shown(*self._old.sample(n, rng), old, penalised=False)]

    def end(self, gan: ConditionalGAN) -> None:
        """See `KeepOld.end`."""
        self._old, self._real = None, None


class Alignment(KeepOld):
    """Holds the network to what its former self makes of the same noise (Wu et al. 2018, RA).

    A class that comes back is not held: it is learned again.

    Args:
        weight: Of the squared distance, summed over a batch and its pixels, above 0.
    """

    _former: tuple[MaskedGenerator, Tensor] | None = None

    def __init__(self, weight: float = 1e-3) -> None:
        super().__init__()
        positive("weight", weight)
        self.weight = weight

    def begin(self, gan: ConditionalGAN, samples: Tensor, rows: Tensor) -> None:
        """See `KeepOld.begin`."""
        held = torch.arange(gan.learned, device=gan.opened.device)
        held = held[~torch.isin(held, gan.opened)]
        former = None
        if len(held):
            # In training mode, as the network is: both normalise by the batch.
            former = copied(gan.network).requires_grad_(False).train(), held
        self._former = former

    def loss(self, gan: ConditionalGAN, rng: torch.Generator) -> Tensor:
        """The squared distance to the former self's samples of old classes (Eq. 6 there)."""
        if self._former is None:
            return super().loss(gan, rng)
        former, held = self._former
        rows = held.repeat_interleave(max(gan.settings.batch_size // len(held), 1))
        noise = torch.randn(len(rows), gan.settings.latent, generator=rng, device=rows.device)
        # In half precision a small difference would be nothing but its rounding.
        with torch.autocast(rows.device.type, enabled=False):
            with torch.no_grad():
                wanted = former(gan.condition(rows, noise), scale=1.0)
            difference = gan.decode(rows, noise) - wanted
        # The authors' code: half of the sum over samples and pixels, mean over classes.
        return self.weight * 0.5 * difference.square().sum() / len(held)

    def end(self, gan: ConditionalGAN) -> None:
        """See `KeepOld.end`."""
        self._former = None


class EWC(KeepOld):
    """Holds each weight by how much old classes need it (Seff et al. 2017).

    Args:
        weight: Factor lambda of the penalty, above 0.
        n_samples: Samples of each class that the Fisher information is estimated from.

    Attributes:
        fisher: Float tensor (P,), the diagonal of the Fisher information, summed over experiences;
            empty at first.
        anchor: Float tensor (P,), where the weights were at the end of the last experience.
    """

    fisher: Tensor
    anchor: Tensor
    _found: Tensor | None = None

    def __init__(self, weight: float = 1e3, n_samples: int = 128) -> None:
        super().__init__()
        positive("weight", weight)
        whole("n_samples", n_samples)
        self.weight, self.n_samples = weight, n_samples
        self.register_buffer("fisher", torch.empty(0))
        self.register_buffer("anchor", torch.empty(0))

    def loss(self, gan: ConditionalGAN, rng: torch.Generator) -> Tensor:
        """Half of lambda times the squared way from where the weights were, weighed."""
        if not len(self.fisher):
            return super().loss(gan, rng)
        way = torch.cat([p.flatten() for p in gan.network.parameters()]) - self.anchor
        return self.weight / 2 * (self.fisher * way.square()).sum()

    def after_training(self, gan: ConditionalGAN, rng: torch.Generator) -> None:
        """See `KeepOld.after_training`."""
        self._found = self.information(gan, rng)

    def information(self, gan: ConditionalGAN, rng: torch.Generator) -> Tensor:
        """The diagonal of the Fisher information of the experience's classes, summed over them.

        The mean of each sample's squared gradient of the network's loss, as there is no likelihood.

        Args:
            gan: What has learned the experience, with its discriminator.
            rng: Generator on its device.

        Returns:
            Float tensor (P,), in the order of the network's parameters.
        """
        network, discriminator = gan.network, gan.discriminator
        if discriminator is None:
            raise RuntimeError("There is no discriminator; learn an experience first.")
        rows = gan.opened.repeat_interleave(self.n_samples)
        noise = torch.randn(len(rows), gan.settings.latent, generator=rng, device=rows.device)
        inputs = gan.condition(rows, noise)
        weights = {name: p.detach() for name, p in network.named_parameters()}
        score = discriminator.score

        def loss(weights: dict[str, Tensor], one: Tensor) -> Tensor:
            return -score(functional_call(network, weights, (one[None],), {"scale": 1.0})).sum()

        total = torch.zeros(sum(p.numel() for p in weights.values()), device=rows.device)
        each = vmap(grad(loss), in_dims=(None, 0))
        with evaluating(network), evaluating(discriminator):
            for part in inputs.split(_AT_ONCE):
                gradients = each(weights, part)
                squares = [gradients[name].square().sum(dim=0).flatten() for name in weights]
                total += torch.cat(squares).detach()
        return total / len(rows) * len(gan.opened)

    def end(self, gan: ConditionalGAN) -> None:
        """See `KeepOld.end`; from now on the network is held here."""
        if self._found is not None:
            self.fisher = self.fisher + self._found if len(self.fisher) else self._found
            self.anchor = torch.cat([p.detach().flatten() for p in gan.network.parameters()])
        self._found = None


class ConditionalGAN(GAN):
    """The network of `MaskedGAN` without masks; nothing is reserved and nothing grows.

    Classes may come back.

    Args:
        settings: See `GAN`.
        keep: How old classes are kept; ``None`` for not at all.
        begins_anew: Whether both networks are new in each experience (deep generative replay, Shin
            et al. 2017), or go on.
        **changes: Fields of `ConditionalGANSettings`.
    """

    settings_type: ClassVar[type[ConditionalGANSettings]] = ConditionalGANSettings

    def __init__(
        self,
        settings: ConditionalGANSettings | None = None,
        *,
        keep: KeepOld | None = None,
        begins_anew: bool = False,
        **changes: Any,
    ) -> None:
        super().__init__(settings, all_classes=True, **changes)
        self.keep = keep if keep is not None else KeepOld()
        self.keeps_discriminator = not begins_anew

    def check(self, data: ExperienceData) -> None:
        """See `GAN.check`.

        Raises:
            ConfigError: There is no room among the inputs that say the class.
        """
        super().check(data)
        known = {(task, label) for _, task, label in self.classes.rows[: self.learned].tolist()}
        needed = self.learned + len({tuple(pair) for pair in data.pairs.tolist()} - known)
        if needed > self.settings.class_inputs:
            raise ConfigError(
                f"The generator is told a class by {self.settings.class_inputs} inputs, and there"
                f" are {needed} classes now. Set class_inputs to the number of all classes to come."
            )

    def _build(self, scaler: Scaler) -> MaskedGenerator:
        s = self.settings
        spec = MaskedSpec(
            architecture=s.architecture_for(scaler.shape),
            shape=scaler.padded,
            width=s.width,
            latent=s.latent,
            masking="none",
            bounded=scaler.bounded,
        )
        network = build_generator(spec)
        network.begin_task()
        return network

    def condition(self, rows: Tensor, noise: Tensor) -> Tensor:
        """The network's inputs (n, latent): the class in place of the noise's first entries.

        Args:
            rows: int64 tensor (n,).
            noise: Float tensor (n, latent).
        """
        n = self.settings.class_inputs
        return torch.cat([F.one_hot(rows, n).to(noise), noise[:, n:]], dim=1)

    def decode(self, rows: Tensor, noise: Tensor) -> Tensor:
        """Makes scaled samples (n, *padded) of classes and noise, with a gradient.

        Args:
            rows: int64 tensor (n,).
            noise: Float tensor (n, latent).
        """
        return self.network(self.condition(rows, noise), scale=1.0)

    def _training_samples(self, rows: Tensor, rng: torch.Generator, number: int) -> Tensor:
        noise = torch.randn(len(rows), self.settings.latent, generator=rng, device=rows.device)
        return self.decode(rows, noise)

    def _generate(self, rows: Tensor, rng: torch.Generator) -> Tensor:
        with evaluating(self.network):
            return self._training_samples(rows, rng, 0)

    def _prepare(self, device: torch.device) -> None:
        super()._prepare(device)
        if not self.keeps_discriminator:
            self._network = self._build(self.scaler).to(device)

    def _before_training(self, samples: Tensor, rows: Tensor) -> None:
        self.keep.begin(self, samples, rows)

    def _shown(self, batch: Batch, rng: torch.Generator) -> list[Shown]:
        return self.keep.shown(batch, rng)

    def _extra_loss(self, rng: torch.Generator, number: int) -> Tensor:
        return self.keep.loss(self, rng)

    def _after_training(self, rng: torch.Generator) -> None:
        self.keep.after_training(self, rng)

    def _close(self) -> None:
        self.keep.end(self)
