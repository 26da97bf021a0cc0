"""Class-conditional densities: generators that are fitted in closed form."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from avalanche_dgm.checks import one_of
from avalanche_dgm.data import ExperienceData, Replay, check_values
from avalanche_dgm.errors import ShapeError
from avalanche_dgm.fitting import Phase
from avalanche_dgm.generators.base import DENSITIES, Known, check_default_type
from avalanche_dgm.generators.class_gaussians import ClassGaussians
from avalanche_dgm.generators.components import Components
from avalanche_dgm.generators.gaussian import padded
from avalanche_dgm.modules import awake

if TYPE_CHECKING:
    from typing_extensions import Unpack


class ClassDensity(ClassGaussians):
    """A Gaussian, or a mixture of Gaussians, for each class of vectors.

    Classes are fitted independently, so no replay is needed. Further samples of a class are merged
    with its density, as if all its samples had been fitted at once; the same class of another group
    (see `Known`) has a separate density.

    The components of a mixture are the clusters of the class's samples (k-means). When further
    samples add components, the nearest ones are merged; the mean and variances of the class remain
    those of all its samples.

    Args:
        covariance: ``"full"``; ``"low-rank"``, a factor with a few columns and a diagonal (factor
            analysis); ``"diagonal"``; or ``"auto"``, the one that fits into ``memory_budget``, or
            by default into a tenth of the samples' bytes in float32: full covariances up to 256
            dimensions, otherwise as many columns as fit, at most 64. If classes have too few
            samples for a diagonal each, all share one.
        components: Maximum number of Gaussians of a class.
        tied: What shares a covariance: each ``"component"`` has its own; the components of a
            ``"class"`` share the within-component covariance; or ``"all"`` classes share it (as in
            linear discriminant analysis; a class then only adds its means to the memory).
        rank: Columns of the factor of a low-rank covariance.
        shrinkage: With ``tied="component"``, how far the components' covariances are shrunk to the
            within-component covariance of their class, from 0 to 1.
        at_rest: The stored type; fitting and sampling are in float32. A class is rounded when it is
            fitted, and not again until it has further samples. ``"int8"`` and ``"int4"`` are for
            the factors of low-rank covariances, with the rest in float16; variances remain those of
            the samples. ``None`` for ``"int4"`` with ``covariance="auto"``, else float32.
        centres_at_rest: ``"int8"`` or ``"int4"`` to quantise the components' means, too; ``None``
            for floating-point numbers.
        memory_budget: Maximum bytes, as a number or text such as ``"1MB"``. With more classes,
            low-rank covariances lose their last columns.

    Raises:
        ConfigError: An argument cannot work.

    Attributes:
        covariances: The P covariances, of components, of classes, or one of all.
        seen: int64 tensor (K,), the number of samples of each class.
        shares: Float tensor (K, components), the components' weights, of sum 1 for each class; 0
            for unused components.
        centres: Float tensor (K, components, D), the components' means.
    """

    rehearses = False

    def check(self, data: ExperienceData) -> None:
        """See `Generator.check`.

        Raises:
            ShapeError: The samples differ in size from the learned ones.
            RangeError: A value is NaN or infinite.
            CapacityError: The classes do not fit into ``memory_budget``.
            ConfigError: PyTorch's default type is not float32.
        """
        check_default_type()
        self._check(data.images)
        self._check_room(data.images, data.tasks, data.labels, 0)

    def _check(self, samples: Tensor) -> None:
        d = samples[:1].numel()
        known = self.centres.shape[2]
        if len(self.centres) and known != d:
            raise ShapeError(
                f"The samples have {d} values, but {known} were learned. Resize them, or use a new"
                " density."
            )
        check_values(samples)

    def _check_room(
        self, samples: Tensor, tasks: Tensor, labels: Tensor, group: int | Tensor
    ) -> None:
        """Checks that new classes fit into the budget, before they are added."""
        if self.memory_budget is not None:
            known = copy.deepcopy(self.classes)
            known.add(tasks, labels, group=group)
            self.check_budget(None, len(known), samples[:1].numel())

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
        """Fits new classes, or further samples of known ones; see `update`.

        Args:
            samples: Float tensor (N, *shape).
            tasks: int64 tensor (N,), task labels.
            labels: int64 tensor (N,).
            group: See `ClassTable.add`.
            variances: See `update`.
            merge: See `update`.
        """
        self._check(samples)
        self._check_room(samples, tasks, labels, group)
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
        """Fits classes by their rows; after an error, nothing was changed.

        Args:
            samples: Float tensor (N, *shape); with ``variances``, the means of distributions.
            rows: int64 tensor (N,), the samples' rows in ``classes``.
            variances: Float tensor like ``samples``, the variances of distributions. The density is
                fitted to their mixture (the aggregate posterior of latents).
            merge: Whether to merge with the existing densities of these classes, weighted by the
                numbers of samples; otherwise they are replaced.
            count: The number of samples that those of each class represent; ``None`` for their own
                number.

        Raises:
            ShapeError: The samples differ in size from the learned ones.
            RangeError: A value is NaN or infinite.
        """
        self._check(samples)
        self.spec = self._spec_for(samples)
        flat = samples.flatten(1)
        with awake(self, self._floats):
            self._update(flat, rows, variances, merge, count)

    def _update(
        self, flat: Tensor, rows: Tensor, variances: Tensor | None, merge: bool, count: int | None
    ) -> None:
        n_classes, d, device = len(self.classes), flat.shape[1], flat.device
        # An upper bound, as classes may be replaced.
        counts = torch.bincount(rows, minlength=n_classes)
        counts = (counts.clamp(max=1) * count) if count is not None else counts
        counts[: len(self.seen)] += self.seen.to(counts)
        self._fit_in(counts, d)
        self.seen = padded(self.seen, torch.zeros(n_classes, dtype=torch.int64, device=device))
        self.shares = padded(self.shares, torch.zeros(n_classes, self.components, device=device))
        self._vectors.grow(n_classes, d, device)
        self.covariances.grow(self._n_places(n_classes), d, device)
        for row in torch.unique(rows).tolist():
            selected = rows == row
            # Float64 on the CPU, as Cholesky is not available on every device.
            part = flat[selected].double().cpu()
            variance = None
            if variances is not None:
                variance = variances.flatten(1)[selected].double().mean(dim=0).cpu()
            before = int(self.seen[row]) if merge else 0
            self._learn(row, part, variance, len(part) if count is None else count, before)

    def _learn(
        self, row: int, samples: Tensor, variances: Tensor | None, n: int, before: int
    ) -> None:
        """Fits one class to samples (m, D) with mean variances (D,), float64 on the CPU.

        They represent n samples, and are merged with ``before`` earlier ones; 0 replaces the class.
        """
        kind, own = self.covariances, self.tied == "component"
        learned = Components.of(kind, samples, variances, self.components, own=own)
        if before:
            learned = learned.with_others(self._known(row), before / (before + n), own=own)
        learned = learned.reduced(self.components, own=own)
        if own:
            learned = learned.shrunk(self.shrinkage)
        covariances, others = learned.covariances, int(self.seen.sum() - self.seen[row])
        if self.tied == "all" and others:
            total = others + before + n
            weights = [others / total, (before + n) / total]
            both: list[Any] = [kind.get(0), *covariances]
            covariances = [kind.mix(weights, both, samples[:0])]
        missing = self.components - len(learned.shares)
        self.shares[row] = F.pad(learned.shares, (0, missing)).to(self.shares)
        self._vectors.put(row, F.pad(learned.centres, (0, 0, 0, missing)))
        self.seen[row] = before + n
        components = torch.arange(len(covariances))
        places = self._places(torch.full_like(components, row), components).tolist()
        for place, covariance in zip(places, covariances, strict=True):
            kind.put(place, covariance)

    def _known(self, row: int) -> Components:
        """The components of a known class."""
        shares = self.shares[row].double().cpu()
        used = (shares > 0).nonzero().flatten()
        places: list[int] = self._places(torch.full_like(used, row), used).tolist()
        if self.tied != "component":
            places = places[:1]
        covariances = [self.covariances.get(place) for place in places]
        centres = self.centres[row].double().cpu()[used]
        return Components(self.covariances, shares[used], centres, covariances)

    def fit(self, samples: Tensor, rows: Tensor, rng: torch.Generator) -> Iterator[Phase]:
        """See `Generator.fit`: replaces these classes when iterated; yields nothing."""
        self.update(samples, rows, merge=False)
        yield from ()

    def learn(
        self, data: ExperienceData, rng: torch.Generator, **known: Unpack[Known]
    ) -> Iterator[Phase]:
        """See `Generator.learn`: fits the new samples when iterated; yields nothing."""
        groups = known.get("groups")
        group = 0 if groups is None else groups
        self.add(data.images, data.tasks, data.labels, group=group)
        yield from ()

    # Sampling

    def _noise(
        self, rows: Tensor, flat: Tensor | None, rng: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Centres (n, D) of components of classes (n,), and random deviations (n, D) from them.

        The components are those nearest to the samples ``flat`` (n, D), or drawn if it is ``None``.
        """
        chosen = torch.zeros_like(rows)
        if self.components > 1 and flat is None:
            points = torch.rand(len(rows), 1, generator=rng, device=rows.device)
            ends = torch.cumsum(self.shares.float(), dim=1)[rows]
            chosen = (points >= ends / ends[:, -1:]).sum(dim=1)
        elif self.components > 1 and flat is not None:
            distances = (flat[:, None] - self.centres[rows].float()).square().sum(dim=2)
            chosen = distances.masked_fill(self.shares[rows] == 0, math.inf).argmin(dim=1)
        centres = self.centres[rows, chosen].float()
        with torch.autocast(rows.device.type, enabled=False):
            return centres, self.covariances.noise(self._places(rows, chosen), rng)

    def _log_density(self, flat: Tensor, row: int) -> Tensor:
        """The log-density (n,) of samples (n, D) under one class, in nats."""
        components = torch.arange(self.components)
        places = self._places(torch.full_like(components, row), components).tolist()
        parts = [
            self.covariances.log_density(flat - centre, place) + share.log()
            for centre, place, share in zip(
                self.centres[row].float(), places, self.shares[row].float(), strict=True
            )
            if share > 0
        ]
        return torch.logsumexp(torch.stack(parts), dim=0)

    @torch.no_grad()
    def sample(self, rows: Tensor, rng: torch.Generator) -> Tensor:
        centres, noise = self._noise(rows, None, rng)
        return noise.add_(centres).view(len(rows), *(self.shape or ()))

    @torch.no_grad()
    def jitter(self, replay: Replay, strength: float, rng: torch.Generator) -> Replay:
        """Adds noise to samples without changing mean and covariance of their class.

        A sample x of a class with mean m and covariance C becomes m + sqrt(1 - strength^2) (x - m)
        + strength e, where e has mean 0 and covariance C (the shrunk smoothed bootstrap; Silverman
        & Young 1987). In a mixture, m and C are those of the component with the nearest mean.

        Args:
            replay: Samples; those of unknown classes are not changed.
            strength: From 0, no noise, to 1, only noise.
            rng: Generator on the samples' device.
        """
        flat = replay.images.flatten(1)
        rows = self.classes.find(replay.tasks, replay.labels)
        centres, noise = self._noise(rows.clamp(min=0), flat, rng)
        jittered = centres + math.sqrt(1 - strength**2) * (flat - centres) + strength * noise
        jittered = torch.where((rows >= 0)[:, None], jittered, flat)
        return Replay(jittered.view_as(replay.images), replay.labels, replay.tasks)

    @torch.no_grad()
    def log_densities(self, samples: Tensor) -> Tensor:
        """The log-density of each sample under each class, in nats.

        Args:
            samples: Float tensor (n, *shape).

        Returns:
            Float tensor (n, K).
        """
        flat = samples.flatten(1).to(self.centres.device, torch.float32)
        # Inverses and determinants are too inexact in half precision.
        with torch.autocast(flat.device.type, enabled=False):
            return torch.stack([self._log_density(flat, k) for k in range(len(self.seen))], dim=1)

    def score(self, samples: Tensor) -> Tensor | None:
        """See `Generator.score`; class priors are the frequencies in `ClassTable.balanced`."""
        labels = self.classes.labels
        same = (labels[:, None] == labels[None, :]).sum(dim=1)
        shares = 1.0 / (same * len(torch.unique(labels)))
        return -torch.logsumexp(self.log_densities(samples) + shares.log(), dim=1)


#: Arguments for the names that are not covariances.
_NAMES: dict[str, dict[str, Any]] = {
    "shared": {"covariance": "full", "tied": "all"},
    "mixture": {"covariance": "full", "components": 3},
}


def make_density(covariance: str, **options: Any) -> ClassDensity:
    """Makes a density of classes.

    Args:
        covariance: ``"full"``, ``"low-rank"`` or ``"diagonal"``; or ``"shared"``, a full one shared
            by all classes; ``"mixture"``, three components that share their class's full one; or
            ``"auto"``.
        **options: Arguments of `ClassDensity`.

    Raises:
        ConfigError: The name is unknown, or an argument cannot work.
    """
    one_of("covariance", covariance, *DENSITIES, "auto")
    return ClassDensity(**{**_NAMES.get(covariance, {"covariance": covariance}), **options})
