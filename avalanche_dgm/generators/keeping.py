"""How a generative adversarial network keeps old classes, as an object that it is given.

`JointReplay` and `Alignment` (Wu et al. 2018), `EWC` (Seff et al. 2017), or nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from avalanche_dgm.checks import number, whole
from avalanche_dgm.data import SamplePool, even_weights
from avalanche_dgm.elastic import ElasticPenalty, squared_gradients
from avalanche_dgm.modules import GrowingBuffers, copied, evaluating

if TYPE_CHECKING:
    from avalanche_dgm.generators.gan import GAN
    from avalanche_dgm.generators.growing import MaskedGenerator

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


class KeepOld(GrowingBuffers):
    """How a `GAN` keeps old classes while it learns an experience; here: not at all.

    Its methods are called in this order; a subclass overrides those that it needs. Rounds are
    counted from 0; each ends with a step of the generating network.
    """

    def begin(self, gan: GAN, samples: Tensor, rows: Tensor) -> None:
        """Called before the training.

        Args:
            gan: What learns.
            samples: Float tensor (N, *padded), the experience's scaled samples.
            rows: int64 tensor (N,), their classes.
        """

    def shown(self, batch: Batch, rng: torch.Generator) -> list[Shown]:
        """What both networks learn from in a step, for a batch of the experience."""
        return [Shown(batch[0], batch[1])]

    def loss(self, gan: GAN, rng: torch.Generator, number: int = 0) -> Tensor:
        """What is added to the generating network's loss in a round: a scalar."""
        return torch.zeros((), device=gan.opened.device)

    def protect(self, gan: GAN, number: int) -> None:
        """Changes the generating network's gradients before its step in a round."""

    def after_training(self, gan: GAN, rng: torch.Generator) -> None:
        """Called after the training, while the discriminator is what the network learned by."""

    def end(self, gan: GAN) -> None:
        """Called at the end of the experience."""


class JointReplay(KeepOld):
    """Trains on generated samples of old classes as if they were data (Wu et al. 2018, JTR).

    Each class weighs the same. One that comes back is learned half by its new samples, half by
    generated ones.
    """

    _old: SamplePool | None = None
    _real: SamplePool | None = None
    _weights: tuple[float, float] = (1.0, 0.0)

    def begin(self, gan: GAN, samples: Tensor, rows: Tensor) -> None:
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

    def end(self, gan: GAN) -> None:
        """See `KeepOld.end`."""
        self._old, self._real = None, None


class Alignment(KeepOld):
    """Holds samples to those of the previous network for the same noise (Wu et al. 2018, RA).

    A class that comes back is not held: it is learned again.

    Args:
        weight: Of the squared distance, summed over a batch and its pixels, above 0.
    """

    _former: tuple[MaskedGenerator, Tensor] | None = None

    def __init__(self, weight: float = 1e-3) -> None:
        super().__init__()
        number("weight", weight, above=0)
        self.weight = weight

    def begin(self, gan: GAN, samples: Tensor, rows: Tensor) -> None:
        """See `KeepOld.begin`."""
        held = torch.arange(gan.learned, device=gan.opened.device)
        held = held[~torch.isin(held, gan.opened)]
        former = None
        if len(held):
            # In training mode, as the network is: both normalise by the batch.
            former = copied(gan.network).requires_grad_(False).train(), held
        self._former = former

    def loss(self, gan: GAN, rng: torch.Generator, number: int = 0) -> Tensor:
        """The squared distance to the former self's samples of old classes (Eq. 6 there)."""
        if self._former is None:
            return super().loss(gan, rng, number)
        former, held = self._former
        rows = held.repeat_interleave(max(gan.settings.batch_size // len(held), 1))
        inputs = gan.inputs(rows, rng)
        # In half precision a small difference would be nothing but its rounding.
        with torch.autocast(rows.device.type, enabled=False):
            with torch.no_grad():
                wanted = former(inputs, scale=1.0)
            difference = gan.network(inputs, scale=1.0) - wanted
        # The authors' code: half of the sum over samples and pixels, mean over classes.
        return self.weight * 0.5 * difference.square().sum() / len(held)

    def end(self, gan: GAN) -> None:
        """See `KeepOld.end`."""
        self._former = None


class EWC(KeepOld):
    """Penalises changes of weights by their Fisher information (Seff et al. 2017).

    Args:
        weight: Factor lambda of the penalty, above 0.
        n_samples: Samples of each class that the Fisher information is estimated from.

    Attributes:
        penalty: What is held.
    """

    _found: dict[str, Tensor] | None = None

    def __init__(self, weight: float = 1e7, n_samples: int = 128) -> None:
        super().__init__()
        number("weight", weight, above=0)
        whole("n_samples", n_samples)
        self.weight, self.n_samples = weight, n_samples
        self.penalty = ElasticPenalty()

    def loss(self, gan: GAN, rng: torch.Generator, number: int = 0) -> Tensor:
        """Half of lambda times the squared way from where the weights were, weighed."""
        return self.weight * self.penalty(gan.network)

    def after_training(self, gan: GAN, rng: torch.Generator) -> None:
        """See `KeepOld.after_training`."""
        self._found = self.information(gan, rng)

    def information(self, gan: GAN, rng: torch.Generator) -> dict[str, Tensor]:
        """The diagonal of the Fisher information of the experience's classes, summed over them.

        The mean of each sample's squared gradient of the network's loss, as there is no likelihood.

        Args:
            gan: What has learned the experience, with its discriminator.
            rng: Generator on its device.

        Returns:
            Tensor of the parameter's shape for each of the network's, by its name.
        """
        discriminator = gan.opponent
        inputs = gan.inputs(gan.opened.repeat_interleave(self.n_samples), rng)

        def loss(network: Callable[..., Any], one: Tensor) -> Tensor:
            return -discriminator.score(network(one[None], scale=1.0)).sum()

        with evaluating(discriminator):
            found = squared_gradients(gan.network, loss, inputs)
        return {name: total / self.n_samples for name, total in found.items()}

    def end(self, gan: GAN) -> None:
        """See `KeepOld.end`; from now on the network is held here."""
        if self._found is not None:
            self.penalty.add(gan.network, self._found)
        self._found = None
