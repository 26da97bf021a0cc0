"""Interfaces that only some methods implement; adapters and dashboards check by ``isinstance``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from avalanche_dgm.data import ExperienceData, Replay
from avalanche_dgm.fitting import Phase


class Inspectable(ABC):
    """A method whose memory can be inspected."""

    @abstractmethod
    def sample(self, n: int) -> Replay:
        """Generates or draws n samples of all classes in the memory, with hard labels.

        Raises:
            UnknownTaskError: Nothing was learned yet, or no samples are kept.
        """

    def encode(self, images: Tensor, tasks: Tensor) -> Tensor | None:
        """The memory's latents (n, D) of images (n, *shape), or ``None`` if it has none yet."""
        return None

    def reconstruct(self, images: Tensor, tasks: Tensor) -> Tensor | None:
        """The memory's reconstructions of images (n, *shape), or ``None`` if it has none yet."""
        return None

    def stored_samples(self) -> int:
        """Number of stored samples or latents; 0 if all are generated."""
        return 0


class ReplaySource(ABC):
    """A method whose old inputs another method can replay, such as A-LTM.

    Attributes:
        source_settings: Settings that it must have as a source, whose labels are not used.
    """

    source_settings: ClassVar[Mapping[str, Any]] = {}

    @abstractmethod
    def sample_old(self, n: int) -> Replay | None:
        """Draws n old inputs, balanced over old classes and without soft labels.

        Returns:
            A replay batch, or ``None`` if there is nothing to replay yet.
        """


class Routing(ABC):
    """A method that may predict with its own networks in place of the user's model."""

    @property
    @abstractmethod
    def routes(self) -> bool:
        """Whether it predicts with its own networks, with its current settings."""

    def networks(self) -> dict[str, nn.Module]:
        """The networks that the adapter's optimiser may train, each under a unique name.

        Names are never reused, as optimiser states are kept by the names of parameters.
        """
        return {}

    def make_room(self, key: str) -> Iterator[Phase]:
        """Yields the training phases that free a place in the memory for a task."""
        yield from ()

    def before_predicting(self) -> Iterator[Phase]:
        """Yields the training phases before an evaluation between experiences."""
        yield from ()

    def consolidate(self) -> Iterator[Phase]:
        """Yields the training phases that consolidate all learned tasks in the user's model."""
        yield from ()

    def test_key(self, key: str, classes: Sequence[int]) -> str | None:
        """The task key that test images are routed by.

        Args:
            key: The test experience's task key from the task oracle.
            classes: The test experience's classes.

        Returns:
            The key for `Method.predict`, or ``None`` to route without it.
        """
        return None


class LatentInputs(ABC):
    """A method that may train the classifier on latents in place of images."""

    @property
    def uses_latents(self) -> bool:
        """Whether it trains on latents, now or in a later experience, with its settings."""
        return True

    @property
    @abstractmethod
    def frozen(self) -> bool:
        """Whether the layers that compute latents are frozen already."""

    @property
    def alternates(self) -> bool:
        """Whether steps on new samples and steps on replayed ones alternate in this experience."""
        return False

    @abstractmethod
    def prepare(
        self, data: ExperienceData, *, augmented: Callable[[], bool] = lambda: False
    ) -> ExperienceData:
        """The training data of the classifier: the samples themselves, or their latents.

        Args:
            data: The experience, after `Method.before_learning`.
            augmented: Returns whether the experience's samples are augmented.
        """

    @abstractmethod
    def encode_batch(self, x: Tensor, tasks: Tensor) -> Tensor:
        """Latents of a batch; before the layers are frozen, the images themselves."""
