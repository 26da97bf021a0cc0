"""Densities of classes: generators that are fitted in closed form."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar, get_args

import torch
from torch import Tensor

from avalanche_dgm.data import ExperienceData, Replay, check_values
from avalanche_dgm.errors import ShapeError
from avalanche_dgm.fitting import Phase
from avalanche_dgm.generators.base import Generator, Known
from avalanche_dgm.generators.gaussian import padded
from avalanche_dgm.modules import AtRest, awake
from avalanche_dgm.settings import one_of

if TYPE_CHECKING:
    from typing_extensions import Unpack


class ClassDensity(Generator):
    """One density for each class, over codes, latents or any other vectors.

    Learning a class leaves the others as they are, so nothing is replayed to it. A class that
    comes again is merged with what is known of it, as if all its samples had come at once; the
    same class of another group (see `Known`) has a density of its own.

    Args:
        at_rest: The type in which it is kept; learning and sampling are in float32. What a class
            was fitted to is rounded when it is learned, and not again before it comes back.

    Raises:
        ConfigError: There is no such type.

    Attributes:
        dense: Whether a matrix of as many rows and columns as a sample has values is kept.
        seen: int64 tensor (K,), the samples that each class was fitted to.
        means: Float tensor (K, D), where D is the number of values of a sample.
    """

    rehearses = False
    dense: ClassVar[bool] = True
    seen: Tensor
    means: Tensor

    def __init__(self, *, at_rest: AtRest = "float32") -> None:
        super().__init__()
        one_of("at_rest", at_rest, *get_args(AtRest))
        self.at_rest = at_rest
        self.register_buffer("seen", torch.empty(0, dtype=torch.int64))
        self.register_buffer("means", torch.empty(0, 0))

    def check(self, data: ExperienceData) -> None:
        """See `Generator.check`.

        Raises:
            ShapeError: Samples of another size were learned before.
            RangeError: A value is NaN or infinite.
        """
        self._check(data.images)

    def _check(self, samples: Tensor) -> None:
        d = samples[:1].numel()
        if len(self.means) and self.means.shape[1] != d:
            raise ShapeError(
                f"Samples of {d} values came, but {self.means.shape[1]} are known. Resize them, or"
                " use a new density."
            )
        check_values(samples)

    # Learning

    def add(
        self,
        samples: Tensor,
        tasks: Tensor,
        labels: Tensor,
        *,
        group: int | Tensor = 0,
        variances: Tensor | None = None,
        merge: bool = True,
    ) -> None:
        """Learns classes, new ones or more of those that are known; see `update`.

        Args:
            samples: Float tensor (N, *shape).
            tasks: int64 tensor (N,), task labels.
            labels: int64 tensor (N,).
            group: See `ClassTable.add`.
            variances: See `update`.
            merge: See `update`.
        """
        self._check(samples)
        rows = self.classes.add(tasks, labels, group=group)
        self.update(samples, rows, variances=variances, merge=merge)

    @torch.no_grad()
    def update(
        self,
        samples: Tensor,
        rows: Tensor,
        *,
        variances: Tensor | None = None,
        merge: bool = True,
        count: int | None = None,
    ) -> None:
        """Learns classes by their rows.

        Args:
            samples: Float tensor (N, *shape); the means, where each sample is a distribution.
            rows: int64 tensor (N,), the row in ``classes`` of each.
            variances: Float tensor like ``samples``, the samples' variances. The density is that
                of what is drawn from all of them together (the aggregate posterior of codes).
            merge: Whether what was learned of these classes before counts as well, sample by
                sample; otherwise it is replaced.
            count: The number of samples that those of each class stand for; ``None`` for as many
                as they are.

        Raises:
            ShapeError: Samples of another size were learned before. Nothing was changed, as after
                the other error.
            RangeError: A value is NaN or infinite.
        """
        self._check(samples)
        self.spec = self._spec_for(samples)
        flat = samples.flatten(1)
        with awake(self, self.at_rest):
            self._update(flat, rows, variances, merge, count)

    def _update(
        self, flat: Tensor, rows: Tensor, variances: Tensor | None, merge: bool, count: int | None
    ) -> None:
        n_classes, d, device = len(self.classes), flat.shape[1], flat.device
        self.means = padded(self.means, torch.zeros(n_classes, d, device=device))
        self.seen = padded(self.seen, torch.zeros(n_classes, dtype=torch.int64, device=device))
        self._grow(n_classes, d, device)
        for row in torch.unique(rows).tolist():
            mine = rows == row
            # Float64 on the CPU: once a class, and Cholesky is not offered on every device.
            part = flat[mine].double().cpu()
            wide = None
            if variances is not None:
                wide = variances.flatten(1)[mine].double().mean(dim=0).cpu()
            before = int(self.seen[row]) if merge else 0
            n = len(part) if count is None else count
            self.means[row] = self._learn(row, part, wide, n, before).to(self.means)
            self.seen[row] = before + n

    @abstractmethod
    def _grow(self, n: int, size: int, device: torch.device) -> None:
        """Makes room for n classes of vectors of a size."""

    @abstractmethod
    def _learn(
        self, row: int, samples: Tensor, variances: Tensor | None, n: int, before: int
    ) -> Tensor:
        """Learns one class, all but its mean.

        Args:
            row: Its row.
            samples: Float64 tensor (m, D) on the CPU.
            variances: Float64 tensor (D,) on the CPU, the samples' mean variances, or ``None``.
            n: Samples that these stand for.
            before: Samples seen before that count as well; 0 learns the class anew.

        Returns:
            Its mean (D,), float64.
        """

    def fit(self, samples: Tensor, rows: Tensor, rng: torch.Generator) -> Iterator[Phase]:
        """See `Generator.fit`: learns these classes anew when it is run; yields nothing."""
        self.update(samples, rows, merge=False)
        yield from ()

    def learn(
        self, data: ExperienceData, rng: torch.Generator, **known: Unpack[Known]
    ) -> Iterator[Phase]:
        """See `Generator.learn`: learns the new samples when it is run; yields nothing."""
        self._check(data.images)
        self.update(data.images, self._add_classes(data, known.get("groups")))
        yield from ()

    # Sampling

    @abstractmethod
    def _noise(self, rows: Tensor, rng: torch.Generator) -> Tensor:
        """Draws deviations (n, D) from the centres of classes (n,)."""

    def _centres(self, rows: Tensor, flat: Tensor | None, rng: torch.Generator) -> Tensor:
        """Centres (n, D) of classes (n,): nearest to samples (n, D), or drawn without samples."""
        return self.means[rows]

    @abstractmethod
    def _log_density(self, flat: Tensor, row: int) -> Tensor:
        """The log-density (n,) of samples (n, D) under one class, in nats."""

    def _normal(self, n: int, rng: torch.Generator) -> Tensor:
        """Standard normal numbers (n, D)."""
        return torch.randn(n, self.means.shape[1], generator=rng, device=self.means.device)

    @torch.no_grad()
    def sample(self, rows: Tensor, rng: torch.Generator) -> Tensor:
        """See `Generator.sample`."""
        with awake(self, self.at_rest):
            samples = self._centres(rows, None, rng) + self._noise(rows, rng)
        return samples.view(len(rows), *(self.shape or ()))

    @torch.no_grad()
    def jitter(self, replay: Replay, strength: float, rng: torch.Generator) -> Replay:
        """Replaces a part of how samples differ from their class's mean by noise.

        A sample x of a class of mean m and covariance C becomes m + sqrt(1 - strength^2) (x - m) +
        strength e, where e has the mean 0 and the covariance C. So mean and covariance of a class
        stay what they are (the shrunk smoothed bootstrap; Silverman & Young 1987). In a mixture,
        m and C are those of the component whose mean is nearest.

        Args:
            replay: Samples; those of classes that were never learned are left as they are.
            strength: From 0, the samples as they are, to 1, noise alone.
            rng: Generator on the samples' device.
        """
        flat = replay.images.flatten(1)
        found = self.classes.find(replay.tasks, replay.labels)
        rows = found.clamp(min=0)
        with awake(self, self.at_rest):
            centres, noise = self._centres(rows, flat, rng), self._noise(rows, rng)
        made = centres + math.sqrt(1 - strength**2) * (flat - centres) + strength * noise
        made = torch.where((found >= 0)[:, None], made, flat)
        return Replay(made.view_as(replay.images), replay.labels, replay.tasks)

    @torch.no_grad()
    def log_densities(self, samples: Tensor) -> Tensor:
        """The log-density of each sample under each class, in nats.

        Args:
            samples: Float tensor (n, *shape).

        Returns:
            Float tensor (n, K).
        """
        with awake(self, self.at_rest):
            flat = samples.flatten(1).to(self.means)
            parts = [self._log_density(flat, k) for k in range(len(self.means))]
        return torch.stack(parts, dim=1)

    def _restore(self, state: dict[str, Any]) -> None:
        super()._restore(state)
        # So that what is loaded next is kept in this type.
        with awake(self, self.at_rest):
            pass

    def score(self, samples: Tensor) -> Tensor | None:
        """See `Generator.score`; classes count as often as `ClassTable.balanced` draws them."""
        labels = self.classes.labels
        same = (labels[:, None] == labels[None, :]).sum(dim=1)
        shares = 1.0 / (same * len(torch.unique(labels)))
        return -torch.logsumexp(self.log_densities(samples) + shares.log(), dim=1)
