"""The protocol of generators: what a model must do to stand for old samples."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from avalanche_dgm.classes import ClassTable
from avalanche_dgm.data import ExperienceData, check_experience
from avalanche_dgm.fitting import Phase
from avalanche_dgm.modules import Frozen, GrowingBuffers, in_chunks


class Generator(GrowingBuffers, ABC):
    """A model that learns labelled samples, one experience after the other, and generates them.

    A subclass writes `fit` and `sample`, and `make_networks` if it has networks that depend on the
    samples' shape. All that it has learned is in its parameters, its buffers and its submodules.
    A buffer of its own may change its shape, and is replaced rather than written into: an
    experience that is undone puts the tensor from before it back.

    By default it keeps old classes by generative replay (Shin et al. 2017): `learn` fits new
    samples together with those that its former self generates. A generator with another way of
    its own overrides `learn`.

    Attributes:
        classes: The classes that it has learned, or learns now; a *row* is a position in it.
        shape: Shape of one sample, or ``None`` before the first.
        conditional: Whether a class can be asked for. Otherwise a classifier has to label what is
            generated.
        rehearses: Whether it keeps old classes by learning generated samples of them, together
            with the new ones. A generator that keeps them by itself says no.
    """

    conditional: bool = True
    rehearses: bool = True

    def __init__(self) -> None:
        super().__init__()
        self.classes = ClassTable()
        self.shape: tuple[int, ...] | None = None

    def check(self, data: ExperienceData) -> None:
        """Checks that an experience can be learned; changes nothing.

        Args:
            data: The experience.

        Raises:
            DataError: It cannot be learned.
        """
        check_experience(data, shape=self.shape)

    def build(self, samples: Tensor) -> None:
        """Makes the networks for the first samples; does nothing for later ones.

        Args:
            samples: Float tensor (N, *shape).
        """
        if self.shape is None:
            self._make(tuple(samples.shape[1:]), samples.device)

    def make_networks(self, shape: tuple[int, ...]) -> None:
        """Makes the networks, as attributes; called before the first samples are learned.

        Also called before a ``state_dict`` is loaded. Initial weights come from PyTorch's global
        generator, which is seeded.

        Args:
            shape: Shape of one sample.
        """

    @abstractmethod
    def fit(self, samples: Tensor, rows: Tensor, rng: torch.Generator) -> Iterable[Phase]:
        """Returns what is trained, one after the other, to generate samples like these only.

        What needs no training by steps is computed here, and the result is empty.

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
        self,
        data: ExperienceData,
        rng: torch.Generator,
        *,
        groups: Tensor | None = None,
        previous: Generator | None = None,
        old: tuple[Tensor, Tensor] | None = None,
        share: float | None = None,
    ) -> Iterator[Phase]:
        """Yields what is trained to learn an experience and keep what was learned before.

        Args:
            data: The experience, or several joined, after `check` and `build`.
            rng: Generator of random numbers on the samples' device.
            groups: int64 tensor (N,), the group in ``classes`` of each sample, by which a memory
                tells apart the same class of several tasks; ``None`` for 0.
            previous: A frozen copy of the generator from before the experience; ``None`` if it has
                learned nothing yet.
            old: What ``previous`` has generated to be learned again: samples (M, *shape) and their
                rows (M,). ``None`` leaves their number to the generator.
            share: Weight in (0, 1] of the new samples' loss, where it is a sum of a new and an old
                one; ``None`` for the share of the new classes.
        """
        rows = self.classes.add(data.tasks, data.labels, group=0 if groups is None else groups)
        samples = data.images
        if old is None and previous is not None and len(previous.classes):
            old = self._generate_old(previous, -(-len(data) // len(data.pairs)), rng)
        if old is not None:
            samples, rows = torch.cat([samples, old[0]]), torch.cat([rows, old[1]])
        yield from self.fit(samples, rows, rng)

    @staticmethod
    def _generate_old(
        previous: Generator, per_class: int, rng: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """As many of each old class as there are of a new one in the mean."""
        rows = torch.arange(len(previous.classes), device=previous.classes.rows.device)
        rows = rows.repeat_interleave(per_class)
        return in_chunks(lambda r: previous.sample(r, rng), rows), rows

    def end(self, rng: torch.Generator) -> None:
        """Ends the experience that was learned, once the classifier has learned it, too.

        Args:
            rng: Generator of random numbers on the generator's device.
        """

    def adapt_to(self, larger: Generator) -> None:
        """Takes over what is left open here from a generator that is built for such samples.

        A dual memory calls it on each short-term generator, before `build`.

        Args:
            larger: The long-term memory's generator, of the same class or another.
        """

    def score(self, samples: Tensor) -> Tensor | None:
        """How badly the generator explains samples, without gradients.

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

    @property
    def builds(self) -> bool:
        """Whether it has networks to `build`, whose initial weights are random."""
        return type(self).build is not Generator.build

    @property
    def scores(self) -> bool:
        """Whether it has a `score`."""
        return type(self).score is not Generator.score

    @property
    def reconstructs(self) -> bool:
        """Whether it has `reconstruct`."""
        return type(self).reconstruct is not Generator.reconstruct

    def get_extra_state(self) -> dict[str, Any]:
        """What ``state_dict`` needs to build the networks again."""
        return {"shape": self.shape}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Builds the networks before their weights are loaded."""
        if state["shape"] is not None and tuple(state["shape"]) != self.shape:
            self._make(tuple(state["shape"]), self.classes.rows.device)

    def _load_from_state_dict(self, *args: Any) -> None:
        # The initial weights of networks that are built for a state are not drawn from the
        # caller's random numbers.
        with torch.random.fork_rng(devices=[]):
            super()._load_from_state_dict(*args)

    def _make(self, shape: tuple[int, ...], device: torch.device) -> None:
        self.make_networks(shape)
        self.shape = shape
        self.to(device)

    def snapshot(self) -> Frozen[Generator]:
        """A frozen copy, to sample from while this one changes."""
        return Frozen(self)
