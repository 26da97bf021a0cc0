"""How a GAN retains old classes: `JointReplay` and `Alignment` (Wu et al. 2018), `EWC`, or not.

`EWC` is that of Seff et al. 2017.
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
    """A batch of samples on which both networks are trained.

    Attributes:
        samples: Float tensor (n, *padded), scaled samples that count as real.
        rows: int64 tensor (n,), their classes.
        weight: Weight of the loss on them.
        penalised: Whether the gradient penalty is computed between them and generated samples.
    """

    samples: Tensor
    rows: Tensor
    weight: float = 1.0
    penalised: bool = True


class KeepOld(GrowingBuffers):
    """How a `GAN` retains old classes during an experience; this base class does not.

    Its methods are called in this order; a subclass overrides those that it needs. Rounds are
    counted from 0; each ends with a step of the generator network.
    """

    def begin(self, gan: GAN, samples: Tensor, rows: Tensor) -> None:
        """Called before the training.

        Args:
            gan: The GAN.
            samples: Float tensor (N, *padded), the experience's scaled samples.
            rows: int64 tensor (N,), their classes.
        """

    def shown(self, batch: Batch, rng: torch.Generator) -> list[Shown]:
        """The batches on which both networks are trained in a step, for one of the experience."""
        return [Shown(batch[0], batch[1])]

    def loss(self, gan: GAN, rng: torch.Generator, number: int = 0) -> Tensor:
        """The term, a scalar, that is added to the generator network's loss in a round."""
        return torch.zeros((), device=gan.opened.device)

    def protect(self, gan: GAN, number: int) -> None:
        """Changes the generator network's gradients before its step in a round."""

    def after_training(self, gan: GAN, rng: torch.Generator) -> None:
        """Called after the training, before the discriminator is dropped."""

    def end(self, gan: GAN) -> None:
        """Called at the end of the experience."""


class JointReplay(KeepOld):
    """Trains on generated samples of old classes as if they were data (Wu et al. 2018, JTR).

    All classes have equal weights. An old class that is learned again has half real and half
    generated samples.
    """

    _old: SamplePool | None = None
    _real: SamplePool | None = None
    _weights: tuple[float, float] = (1.0, 0.0)

    def begin(self, gan: GAN, samples: Tensor, rows: Tensor) -> None:
        self.end(gan)
        if gan.old is None or not gan.learned:
            return
        (old, old_rows), real, n_now = gan.old, gan.real_shares(), len(gan.opened)
        self._old = SamplePool(old, old_rows, even_weights(old_rows) * (1 - real[old_rows]))
        n_back = int((gan.opened < gan.learned).sum())
        # The authors' code sums over classes.
        self._weights = (n_now - n_back / 2) / n_now, (gan.learned - n_back / 2) / n_now
        if n_back:
            self._real = SamplePool(samples, rows, even_weights(rows) * real[rows])

    def shown(self, batch: Batch, rng: torch.Generator) -> list[Shown]:
        """See `KeepOld.shown`: as many old samples as new ones."""
        if self._old is None:
            return super().shown(batch, rng)
        n, (new, old) = len(batch[0]), self._weights
        new_samples = self._real.sample(n, rng) if self._real is not None else (batch[0], batch[1])
        return [Shown(*new_samples, new), Shown(*self._old.sample(n, rng), old, penalised=False)]

    def end(self, gan: GAN) -> None:
        self._old, self._real = None, None


class Alignment(KeepOld):
    """Aligns samples with those of the previous network for the same noise (Wu et al. 2018, RA).

    Classes that are learned again are not aligned.

    Args:
        weight: Weight of the squared distance, summed over a batch and its pixels, above 0.
    """

    _former: tuple[MaskedGenerator, Tensor] | None = None

    def __init__(self, weight: float = 1e-3) -> None:
        super().__init__()
        number("weight", weight, above=0)
        self.weight = weight

    def begin(self, gan: GAN, samples: Tensor, rows: Tensor) -> None:
        held = torch.arange(gan.learned, device=gan.opened.device)
        held = held[~torch.isin(held, gan.opened)]
        former = None
        if len(held):
            # In training mode, so that both networks use batch statistics.
            former = copied(gan.network).requires_grad_(False).train(), held
        self._former = former

    def loss(self, gan: GAN, rng: torch.Generator, number: int = 0) -> Tensor:
        """The squared distance to the previous network's samples of old classes (Eq. 6)."""
        if self._former is None:
            return super().loss(gan, rng, number)
        former, held = self._former
        rows = held.repeat_interleave(max(gan.settings.batch_size // len(held), 1))
        inputs = gan.inputs(rows, rng)
        # In half precision small differences would be lost in rounding.
        with torch.autocast(rows.device.type, enabled=False):
            with torch.no_grad():
                targets = former(inputs, scale=1.0)
            difference = gan.network(inputs, scale=1.0) - targets
        # The authors' code: half of the sum over samples and pixels, mean over classes.
        return self.weight * 0.5 * difference.square().sum() / len(held)

    def end(self, gan: GAN) -> None:
        self._former = None


class EWC(KeepOld):
    """Penalises changes of weights by their Fisher information (Seff et al. 2017).

    Args:
        weight: Factor lambda of the penalty, above 0.
        n_samples: Samples of each class for estimating the Fisher information.

    Attributes:
        penalty: The quadratic penalty of all learned experiences.
    """

    _found: dict[str, Tensor] | None = None

    def __init__(self, weight: float = 1e7, n_samples: int = 128) -> None:
        super().__init__()
        number("weight", weight, above=0)
        whole("n_samples", n_samples)
        self.weight, self.n_samples = weight, n_samples
        self.penalty = ElasticPenalty()

    def loss(self, gan: GAN, rng: torch.Generator, number: int = 0) -> Tensor:
        """Lambda / 2 times the squared change of weights, weighted by the Fisher information."""
        return self.weight * self.penalty(gan.network)

    def after_training(self, gan: GAN, rng: torch.Generator) -> None:
        self._found = self.information(gan, rng)

    def information(self, gan: GAN, rng: torch.Generator) -> dict[str, Tensor]:
        """The diagonal of the Fisher information of the experience's classes, summed over classes.

        As there is no likelihood, it is the mean squared per-sample gradient of the network's loss.

        Args:
            gan: The GAN after training, with its discriminator.
            rng: Generator on its device.

        Returns:
            Tensor of each network parameter's shape, by the parameter's name.
        """
        discriminator = gan.opponent
        inputs = gan.inputs(gan.opened.repeat_interleave(self.n_samples), rng)

        def loss(network: Callable[..., Any], one: Tensor) -> Tensor:
            return -discriminator.score(network(one[None], scale=1.0)).sum()

        with evaluating(discriminator):
            squares = squared_gradients(gan.network, loss, inputs)
        return {name: total / self.n_samples for name, total in squares.items()}

    def end(self, gan: GAN) -> None:
        """See `KeepOld.end`: adds the experience to the penalty."""
        if self._found is not None:
            self.penalty.add(gan.network, self._found)
        self._found = None
