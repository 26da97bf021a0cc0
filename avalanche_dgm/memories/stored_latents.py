"""Stored latents that are replayed with noise."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import prod
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from avalanche_dgm.checks import number
from avalanche_dgm.data import ExperienceData, Replay
from avalanche_dgm.errors import ConfigError
from avalanche_dgm.fitting import Phase
from avalanche_dgm.generators import ClassDensity, make_density
from avalanche_dgm.generators.class_gaussians import Precision
from avalanche_dgm.memories.stored import Encode, StoredMemory
from avalanche_dgm.randomness import RandomSource
from avalanche_dgm.settings import Settings

#: Noise without covariances.
JITTER = 0.5
#: With covariances, the noise is this power of the number of stored latents of a class: the
#: bandwidth exponent -1 / (d + 4) (Scott 1992) for d = 6; tested with 63 to 1,575 latents of 36
#: dimensions.
JITTER_POWER = -0.1
#: Largest dimension of latents for which covariances are kept by default: each step reads them.
SMALL_LATENT = 256
#: Largest dimension of latents for which covariance matrices can be kept: 8 MiB a class.
LARGEST_COVARIANCE = 2048


@dataclass(frozen=True, kw_only=True)
class StoredLatentsSettings(Settings):
    """Settings of stored latents.

    Attributes:
        share: Fraction of each experience's samples whose latents are stored, in (0, 1]. If no size
            is given, it is 0.05, with at least 10 per class, and a class that is learned again
            needs no further space.
        per_class: Number of stored latents per class, instead of ``share``.
        per_experience: Number of stored latents per experience, instead of ``share``.
        total: Total number of stored latents, instead of ``share``.
        dtype: Type of the stored latents: ``"float32"``, ``"float16"`` or ``"uint8"``, see
            `CompactSamples`.
        covariance: Whether mean and covariance of each class's latents are kept as well, for the
            noise, or their kind: ``"full"``, ``"shared"``, ``"low-rank"``, ``"diagonal"`` or
            ``"mixture"``, see `make_density`. ``None`` for ``"full"`` if they take no more bytes
            than the first stored latents of a class, a latent has at most 256 values, and neither
            ``total`` nor ``memory_budget`` is given.
        at_rest: Data type in which the covariances are stored, see `ClassDensity`.
        memory_budget: Maximum bytes, including covariances and counters, instead of another size;
            a number or text such as ``"1MB"``.
        jitter: Noise on each replayed latent, relative to the spread of its class, from 0 (none) to
            1; ``None`` for 0.5, or with covariances n ** -0.1 for on average n stored latents per
            class. See `StoredMemory.draw` and `ClassDensity.jitter`.
    """

    share: float | None = None
    per_class: int | None = None
    per_experience: int | None = None
    total: int | None = None
    dtype: Literal["float32", "float16", "uint8"] = "float32"
    covariance: bool | Literal["full", "shared", "low-rank", "diagonal", "mixture"] | None = None
    at_rest: Precision | None = None
    memory_budget: int | str | None = field(default=None, metadata={"bytes": True})
    jitter: float | None = None

    def make(self) -> StoredLatents:
        """Makes an empty memory; raises a `ConfigError` if a setting cannot work."""
        return StoredLatents(**{name: getattr(self, name) for name in self.names()})


class StoredLatents(StoredMemory):
    """A few latents of each class, and mean and covariance of all latents of the class.

    A classifier overfits a few latents that are replayed often; noise with the covariance of the
    class prevents that. The covariance of all latents of a class is a better estimate than that of
    the stored ones, and small if latents have few dimensions.

    Args:
        covariance: See `StoredLatentsSettings`.
        at_rest: See `StoredLatentsSettings`.
        jitter: See `StoredLatentsSettings`.
        **size: Arguments of `StoredMemory`. Without a size a share of 0.05 is stored, at least 10
            of each class; a class that is learned again needs no further space.

    Raises:
        ConfigError: An argument cannot work.

    Attributes:
        moments: Mean and covariance of classes; empty if they are not kept.
    """

    default_size: ClassVar = (0.05, 10, False)
    moments: ClassDensity

    def __init__(
        self,
        *,
        covariance: bool | str | None = None,
        at_rest: Precision | None = None,
        jitter: float | None = None,
        **size: Any,
    ) -> None:
        super().__init__(**size)
        if isinstance(covariance, str):
            self.moments = make_density(covariance, at_rest=at_rest)
        elif covariance is None or isinstance(covariance, bool):
            self.moments = ClassDensity(at_rest=at_rest)
        else:
            raise ConfigError(f"covariance={covariance!r} must be a name, True, False or None.")
        number("jitter", jitter, least=0, most=1, optional=True)
        self._covariance = None if covariance is None else bool(covariance)
        self._jitter = jitter

    def wants_moments(self) -> bool:
        """Whether moments are kept, decided by the first latents; do not call it for images."""
        if self._covariance is None and self.shape is not None:
            values, each = prod(self.shape), len(self) / len(self.counts)
            # Size of a mean and a triangular matrix.
            width = 2 if self.moments.at_rest == "float16" else 4
            fits = width * (values + 3) / 2 <= each * self.samples.values.element_size()
            limited = self.total is not None or self.memory_budget is not None
            self._covariance = values <= SMALL_LATENT and fits and not limited
        return bool(self._covariance)

    def check_size(self, shape: tuple[int, ...], labels: Tensor, tasks: Tensor) -> None:
        """See `StoredMemory.check_size`.

        Raises:
            ConfigError: The latents have too many dimensions for covariance matrices.
            CapacityError: The budget has no room for one latent of each class.
        """
        if self._covariance:
            check_size(self.moments, shape)
        super().check_size(shape, labels, tasks)

    def _beside(self, n_classes: int, shape: tuple[int, ...]) -> int:
        return self.moments.bytes_of(n_classes, prod(shape)) if self._covariance else 0

    def note(self, latents: Tensor, labels: Tensor, tasks: Tensor) -> None:
        """Adds latents, stored or not, to the moments.

        Args:
            latents: Float tensor (N, *shape), finite.
            labels: int64 tensor (N,).
            tasks: int64 tensor (N,), task labels.
        """
        self.moments.add(latents, tasks, labels)

    def convert(self, encode: Encode) -> None:
        """See `StoredMemory.convert`; the moments are those of the stored latents."""
        super().convert(encode)
        if len(self) and self.wants_moments():
            self.note(*self.data())
            # The stored latents represent all that were seen.
            known = self.moments.classes
            self.moments.seen = self.seen[self.classes.find(known.tasks, known.labels)]

    def learn_latents(
        self, latents: Callable[[], ExperienceData], random: RandomSource
    ) -> Iterator[Phase]:
        """See `GeneratedLatents.learn_latents`: stored latents need no training."""
        yield from ()

    def end_experience(
        self,
        data: ExperienceData,
        latents: Callable[[], ExperienceData],
        rng: torch.Generator,
        *,
        encode: Encode | None,
        freezing: bool,
    ) -> None:
        """Stores some of an experience's samples, and adds its latents to the moments.

        Args:
            data: The experience.
            latents: Returns the experience with latents in place of images.
            rng: Generator on the memory's device.
            encode: From images to latents; ``None`` to store images, before the layers that
                compute latents are frozen.
            freezing: Whether what was stored before are images, which are encoded now.
        """
        if freezing and encode is not None:
            self.convert(encode)
        self.add(data.images, data.labels, data.tasks, rng, encode=encode)
        if encode is not None and self.wants_moments():
            self.note(latents().images, data.labels, data.tasks)

    def rehearse(self, n: int, rng: torch.Generator) -> Replay:
        """Draws latents, balanced over classes, with noise.

        Args:
            n: Number of latents.
            rng: Generator on the memory's device.

        Raises:
            UnknownTaskError: The memory is empty.
        """
        if not len(self.moments.classes):
            return self.draw(n, rng, jitter=JITTER if self._jitter is None else self._jitter)
        replay = self.draw(n, rng)
        jitter = self._jitter
        if jitter is None:
            jitter = (len(self) / len(self.counts)) ** JITTER_POWER
        return self.moments.jitter(replay, jitter, rng) if jitter else replay

    def get_extra_state(self) -> dict[str, Any]:
        """Whether moments are kept, for ``state_dict``."""
        return {"covariance": self._covariance}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restores the state returned by `get_extra_state`."""
        self._covariance = state["covariance"]


def check_size(density: nn.Module, shape: tuple[int, ...]) -> None:
    """Raises a `ConfigError` if latents have too many dimensions for a density with matrices."""
    n = prod(shape)
    if isinstance(density, ClassDensity) and density.dense and n > LARGEST_COVARIANCE:
        raise ConfigError(
            f"Latents have {n} dimensions, too many for a covariance matrix (at most"
            f" {LARGEST_COVARIANCE}). Cut after a later layer, or use covariance='low-rank'."
        )
