"""The protocol of generators: what a model must do to stand for old samples.

A memory has the autoencoder of `VAESettings` unless it is given another generator.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypedDict

import torch
from torch import Tensor

from avalanche_dgm.classes import ClassTable
from avalanche_dgm.data import ExperienceData, check_experience
from avalanche_dgm.errors import CapacityError, ConfigError
from avalanche_dgm.fitting import OptimizerSpec, Phase
from avalanche_dgm.modules import Frozen, GrowingBuffers, in_chunks, size_in_bytes
from avalanche_dgm.settings import Plain, Settings

if TYPE_CHECKING:
    from typing_extensions import Unpack


@dataclass(frozen=True)
class SampleSpec(Plain):
    """What a generator's networks are made for.

    Attributes:
        shape: Shape of one sample, (C, H, W) or (D,).
    """

    shape: tuple[int, ...]


class Known(TypedDict, total=False):
    """What `Generator.learn` may be told beside the experience; ``None`` is as if left out.

    Attributes:
        groups: int64 tensor (N,), the group in ``classes`` of each sample, by which a memory tells
            apart the same class of several tasks; 0 if left out.
        previous: A frozen copy of the generator from before the experience, if it has learned
            anything.
        old: What ``previous`` has generated to be learned again: samples (M, *shape) and their
            rows (M,). If left out, the generator decides how many it needs.
        share: Weight in (0, 1] of the new samples' loss, where it is a sum of a new and an old one;
            if left out, the share of the new classes.
    """

    groups: Tensor | None
    previous: Generator | None
    old: tuple[Tensor, Tensor] | None
    share: float | None


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
        spec: What its networks are made for, or ``None`` before the first samples.
        conditional: Whether a class can be asked for. Otherwise a classifier has to label what is
            generated.
        rehearses: Whether it keeps old classes by learning generated samples of them, together
            with the new ones. A generator that keeps them by itself says no.
    """

    conditional: bool = True
    rehearses: bool = True
    spec_type: ClassVar[type[SampleSpec]] = SampleSpec

    def __init__(self) -> None:
        super().__init__()
        self.classes = ClassTable()
        self.spec: Any = None

    @property
    def shape(self) -> Any:
        """Shape of one sample, a tuple, or ``None`` before the first."""
        return self.spec.shape if self.spec is not None else None

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
        if self.spec is None:
            self._make(self._spec_for(samples), samples.device)

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
        self, data: ExperienceData, rng: torch.Generator, **known: Unpack[Known]
    ) -> Iterator[Phase]:
        """Yields what is trained to learn an experience and keep what was learned before.

        Args:
            data: The experience, or several joined, after `check` and `build`.
            rng: Generator of random numbers on the samples' device.
            **known: See `Known`.
        """
        rows = self._add_classes(data, known.get("groups"))
        samples, old = data.images, self._old(data, rng, known)
        if old is not None:
            samples, rows = torch.cat([samples, old[0]]), torch.cat([rows, old[1]])
        yield from self.fit(samples, rows, rng)

    def _add_classes(self, data: ExperienceData, groups: Tensor | None) -> Tensor:
        """The row (N,) of each sample of an experience, whose classes are known from now on."""
        return self.classes.add(data.tasks, data.labels, group=0 if groups is None else groups)

    @staticmethod
    def _old(
        data: ExperienceData, rng: torch.Generator, known: Known
    ) -> tuple[Tensor, Tensor] | None:
        """Old samples to learn again: those given, or as many a class as there are new ones."""
        old, previous = known.get("old"), known.get("previous")
        if old is not None or previous is None or not len(previous.classes):
            return old
        former = previous
        rows = torch.arange(len(former.classes), device=former.classes.rows.device)
        rows = rows.repeat_interleave(-(-len(data) // len(data.pairs)))
        return in_chunks(lambda r: former.sample(r, rng), rows), rows

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
        """Whether it makes networks, whose initial weights are random."""
        return type(self).make_networks is not Generator.make_networks

    @property
    def scores(self) -> bool:
        """Whether it has a `score`."""
        return type(self).score is not Generator.score

    @property
    def reconstructs(self) -> bool:
        """Whether it has `reconstruct`."""
        return type(self).reconstruct is not Generator.reconstruct

    def bytes_of(self, n_classes: int, d: int) -> int:
        """Bytes of all that it keeps, once it has learned so many classes.

        Args:
            n_classes: How many, at least those that are known.
            d: Values of a sample.
        """
        return size_in_bytes(self)

    def check_budget(self, budget: int | None, n_classes: int, d: int) -> None:
        """Checks, after `build`, that some classes fit into a budget.

        Args:
            budget: Bytes; ``None`` for no limit.
            n_classes: How many there will be.
            d: Values of a sample.

        Raises:
            CapacityError: They do not.
        """
        if budget is not None and (needed := self.bytes_of(n_classes, d)) > budget:
            raise CapacityError(
                f"The {type(self).__name__} takes {needed} bytes with {n_classes} classes, more"
                f" than memory_budget={budget}. Give more, or smaller networks (hidden=, latent=),"
                " or a density of classes (make_density) in its place."
            )

    def snapshot(self) -> Frozen[Generator]:
        """A frozen copy, to sample from while this one changes."""
        return Frozen(self)

    # State

    def get_extra_state(self) -> dict[str, Any]:
        """What ``state_dict`` needs to make the networks again."""
        return {"spec": self.spec.to_dict() if self.spec is not None else None}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Makes the networks before their weights are loaded."""
        # Their initial weights are not drawn from the caller's random numbers.
        with torch.random.fork_rng(devices=[]):
            self._restore(state)

    def _restore(self, state: dict[str, Any]) -> None:
        spec = self.spec_type.from_dict(state["spec"]) if state["spec"] is not None else None
        if spec is None:
            self.spec = None
        elif spec != self.spec:
            self._make(spec, self.classes.rows.device)

    def _spec_for(self, samples: Tensor) -> SampleSpec:
        """What networks for first samples (N, *shape) are made for."""
        return SampleSpec(tuple(int(side) for side in samples.shape[1:]))

    def _make(self, spec: SampleSpec, device: torch.device) -> None:
        self.spec = spec
        self.make_networks(spec.shape)
        self.to(device)


@dataclass(frozen=True, kw_only=True)
class VAESettings(Settings):
    """Settings of a variational autoencoder that remembers classes.

    The defaults are ours, not the papers'.

    Attributes:
        architecture: ``"auto"``, ``"dense"`` or ``"conv"``; ``"auto"`` chooses by the images.
        hidden: Widths of the generator's dense layers, or channels of its convolutions.
        latent: Latent dimensions of the generator.
        likelihood: ``"auto"``, ``"bernoulli"`` or ``"gaussian"``.
        value_range: Smallest and largest possible intensity; ``None`` infers it from the first
            experience if its samples look like pixels, and sets no bounds otherwise.
        kl_weight: Weight of the KL divergence from the prior in the generator's loss, above 0. The
            evidence lower bound has 1 (the papers). Smaller weights give sharper images, which
            suits latents that are sampled from a fitted density instead of the prior.
        sampling: ``"class"`` samples latents from a density fitted to each class's posteriors,
            ``"prior"`` from the standard normal (the papers).
        components: Maximum number of Gaussians in the density of each class's latents; their
            covariances are shrunk halfway to their pooled covariance.
        consolidation: How the generator keeps old classes. ``"aligned"`` trains it to decode their
            latents to the same images as its predecessor; ``"rehearsal"`` trains it on generated
            images as if they were data (the papers).
        generator_steps: Optimiser steps of the generator per experience.
        generator_epochs: Epochs instead of ``generator_steps``.
        generator_optimizer: Optimiser of the generator.
        batch_size: New samples per step when the memory is trained; as many are replayed.
    """

    architecture: Literal["auto", "dense", "conv"] = "auto"
    hidden: tuple[int, ...] | None = None
    latent: int | None = None
    likelihood: Literal["auto", "bernoulli", "gaussian"] = "auto"
    value_range: tuple[float, float] | None = None
    kl_weight: float = field(default=0.3, metadata={"above": 0})
    sampling: Literal["class", "prior"] = "class"
    components: int = 10
    consolidation: Literal["aligned", "rehearsal"] = "aligned"
    generator_steps: int = 700
    generator_epochs: int | None = None
    generator_optimizer: OptimizerSpec = OptimizerSpec("adam", 1e-3, "one-cycle")
    batch_size: int = 128

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.sampling, self.consolidation) == ("prior", "aligned"):
            raise ConfigError(
                "sampling='prior' with consolidation='aligned' would tie every code to an old image"
                " and leave none for new classes. Use consolidation='rehearsal' or"
                " sampling='class'."
            )


#: Names of densities of classes that a memory may have for a generator, see `make_density`.
DENSITIES = ("full", "shared", "low-rank", "diagonal", "mixture")
