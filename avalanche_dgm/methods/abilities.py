"""What some methods can do beyond `Method`; adapters and dashboards find it by ``isinstance``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from avalanche_dgm.data import ExperienceData, Replay
from avalanche_dgm.fitting import Phase


class Inspectable(ABC):
    """A method whose memory can be looked at."""

    @abstractmethod
    def sample(self, n: int) -> Replay:
        """Generates or draws n samples of everything that is remembered.

        Raises:
            UnknownTaskError: Nothing was learned yet, or no samples are kept.
        """

    def encode(self, images: Tensor, tasks: Tensor) -> Tensor | None:
        """The memory's latents (n, D) of images (n, *shape); ``None`` without any (yet)."""
        return None

    def reconstruct(self, images: Tensor, tasks: Tensor) -> Tensor | None:
        """Images (n, *shape) as the memory sees them; ``None`` if it does not reconstruct (yet)."""
        return None

    def stored_samples(self) -> int:
        """Samples, or latents of samples, that are kept as they are; 0 if all are generated."""
        return 0


class ReplaySource(ABC):
    """A method whose old inputs another method can replay, such as A-LTM.

    Attributes:
        source_settings: Settings that it must have then: nobody asks for its labels.
    """

    source_settings: ClassVar[Mapping[str, Any]] = {}

    @abstractmethod
    def sample_old(self, n: int) -> Replay | None:
        """Draws n old inputs, balanced over old classes and without soft labels.

        Returns:
            Samples, or ``None`` if there is nothing to replay yet.
        """


class Routing(ABC):
    """A method that may answer with networks of its own in place of the user's model."""

    @property
    @abstractmethod
    def routes(self) -> bool:
        """Whether it does; otherwise the user's model answers."""

    def networks(self) -> dict[str, nn.Module]:
        """The networks that the adapter's optimiser may train, each under a name of its own.

        A name is never used for another network, so that what optimisers keep by the names of
        parameters belongs to this one.
        """
        return {}

    def make_room(self, key: str) -> Iterator[Phase]:
        """Yields what has to be trained before a task can begin."""
        yield from ()

    def before_predicting(self) -> Iterator[Phase]:
        """Yields what is trained before a test between experiences."""
        yield from ()

    def consolidate(self) -> Iterator[Phase]:
        """Yields what still has to be trained before the user's model knows everything."""
        yield from ()

    def test_key(self, key: str, classes: Sequence[int]) -> str | None:
        """The task that test images are routed by, if an oracle names it.

        Args:
            key: The name that the oracle gives to the test experience.
            classes: Its classes.

        Returns:
            The key for `Method.predict`, or ``None`` to route without it.
        """
        return None


class LatentInputs(ABC):
    """A method that may train the classifier on latents in place of images."""

    @property
    def uses_latents(self) -> bool:
        """Whether it does, now or later; otherwise the classifier is trained on images."""
        return True

    @property
    @abstractmethod
    def frozen(self) -> bool:
        """Whether the layers that make latents are frozen already."""

    @property
    def alternates(self) -> bool:
        """Whether replay has steps of its own in this experience, each after one on new samples."""
        return False

    @abstractmethod
    def prepare(
        self, data: ExperienceData, *, augmented: Callable[[], bool] = lambda: False
    ) -> ExperienceData:
        """What the classifier is trained on: the samples themselves, or their latents.

        Args:
            data: The experience, after `Method.before_learning`.
            augmented: Tells whether the samples would otherwise be read with augmentations.
        """

    @abstractmethod
    def encode_batch(self, x: Tensor, tasks: Tensor) -> Tensor:
        """Latents of a batch, or the images as long as the classifier is trained on these."""
