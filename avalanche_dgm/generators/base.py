"""The protocol of generators: what a model must do to stand for old samples."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor

from avalanche_dgm.classes import ClassTable
from avalanche_dgm.data import ExperienceData
from avalanche_dgm.fitting import Phase
from avalanche_dgm.modules import Frozen, GrowingBuffers, in_chunks


class Generator(GrowingBuffers, ABC):
    """A model that learns labelled samples, one experience after the other, and generates them.

    A subclass writes `fit` and `sample`, and `build` if its networks depend on the samples' shape.
    All that it has learned is in its ``state_dict``; what must exist before a state can be loaded
    is described by ``get_extra_state`` and built by ``set_extra_state``.

    By default it keeps old classes by generative replay (Shin et al. 2017): `learn` fits new
    samples together with those that its former self generates. A generator with another way of
    its own overrides `learn`.

    Attributes:
        classes: The classes that it has learned, or learns now; a *row* is a position in it.
        conditional: Whether a class can be asked for. Otherwise a classifier has to label what is
            generated.
    """

    conditional: bool = True

    def __init__(self) -> None:
        super().__init__()
        self.classes = ClassTable()

    def check(self, data: ExperienceData) -> None:
        """Checks that an experience can be learned; changes nothing.

        Args:
            data: The experience.

        Raises:
            DataError: It cannot be learned.
        """

    def build(self, samples: Tensor) -> None:
        """Makes the networks for the first samples; called again for later ones, does nothing.

        Initial weights come from PyTorch's global generator, which the caller has seeded.

        Args:
            samples: Float tensor (N, *shape).
        """

    @abstractmethod
    def fit(self, samples: Tensor, rows: Tensor, rng: torch.Generator) -> Iterator[Phase]:
        """Yields what is trained to generate samples like these, and no others.

        Args:
            samples: Float tensor (N, *shape), in the user's units.
            rows: int64 tensor (N,), the row in ``classes`` of each.
            rng: Generator of random numbers on the samples' device.
        """

    @abstractmethod
    def sample(self, rows: Tensor, rng: torch.Generator) -> Tensor:
        """Generates samples, without gradients.

        Args:
            rows: int64 tensor (n,), the row in ``classes`` of each; where the generator is not
                ``conditional``, only their number counts.
            rng: Generator of random numbers on the generator's device.

        Returns:
            Float tensor (n, *shape), in the user's units.
        """

    def learn(
        self, data: ExperienceData, rng: torch.Generator, *, previous: Generator | None = None
    ) -> Iterator[Phase]:
        """Yields what is trained to learn an experience and keep what was learned before.

        Args:
            data: The experience, after `check` and `build`.
            rng: Generator of random numbers on the samples' device.
            previous: A frozen copy of the generator from before the experience; ``None`` if it has
                learned nothing yet.
        """
        rows = self.classes.add(data.tasks, data.labels)
        samples = data.images
        if previous is not None and len(previous.classes):
            # As many of each old class as there are of a new one in the mean.
            per_class = -(-len(data) // len(data.pairs))
            old = torch.arange(len(previous.classes), device=rows.device)
            old = old.repeat_interleave(per_class)
            samples = torch.cat([samples, in_chunks(lambda r: previous.sample(r, rng), old)])
            rows = torch.cat([rows, old])
        yield from self.fit(samples, rows, rng)

    def score(self, samples: Tensor) -> Tensor | None:
        """How badly the generator explains samples.

        Args:
            samples: Float tensor (n, *shape).

        Returns:
            Float tensor (n,), nats: the negative log-likelihood, or a bound on it; ``None`` if the
            generator has none.
        """
        return None

    def encode(self, samples: Tensor) -> Tensor | None:
        """Latent codes of samples (n, *shape): a float tensor (n, D), or ``None`` without any."""
        return None

    def reconstruct(self, samples: Tensor) -> Tensor | None:
        """Samples (n, *shape) as the generator sees them; ``None`` if it does not reconstruct."""
        return None

    def snapshot(self) -> Frozen[Generator]:
        """A frozen copy, to sample from while this one changes."""
        return Frozen(self)
