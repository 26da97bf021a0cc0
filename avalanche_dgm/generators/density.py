"""Densities of classes: generators that are fitted in closed form."""

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
from avalanche_dgm.generators.base import DENSITIES, Known
from avalanche_dgm.generators.class_gaussians import ClassGaussians
from avalanche_dgm.generators.components import Components
from avalanche_dgm.generators.gaussian import padded
from avalanche_dgm.modules import awake

if TYPE_CHECKING:
    from typing_extensions import Unpack


class ClassDensity(ClassGaussians):
    """A Gaussian for each class, or a mixture of a few, over latents, codes or other vectors.

    Learning a class leaves the others as they are, so nothing is replayed to it. A class that
    comes again is merged with what is known of it, as if all its samples had come at once; the
    same class of another group (see `Known`) has a density of its own.

    The components of a mixture are the clusters of the class's samples (k-means). Of a class that
    comes in parts, those are joined that this moves least; mean and variances of the class as a
    whole are those of its samples all the same.

    Args:
        covariance: ``"full"``; ``"low-rank"``, a factor of a few columns and a diagonal (factor
            analysis); ``"diagonal"``; or ``"auto"``, what fits into ``memory_budget``, or without
            one into a tenth of the bytes that the samples have in float32: full covariances of
            samples of 256 values at most, else as many columns as fit, 64 at most. If classes have
            too few samples for a diagonal of their own, all share one.
        components: Gaussians of a class, at most.
        tied: What has one covariance: each ``"component"``; a ``"class"``, that within its
            components; or ``"all"`` classes, that within the components of all (as in linear
            discriminant analysis; a class then adds no more than its means to what is kept).
        rank: Columns of the factor of a low-rank covariance.
        shrinkage: With ``tied="component"``, how far the components' covariances are drawn to the
            one within all components of their class, from 0 to 1.
        at_rest: The type in which it is kept; learning and sampling are in float32. What a class
            was fitted to is rounded when it is learned, and not again before it comes back.
            ``"int8"`` and ``"int4"`` are for the factors of low-rank covariances, beside which the
            rest is in float16; variances stay those of the samples. ``None`` for ``"int4"`` with
            ``covariance="auto"``, else float32.
        centres_at_rest: ``"int8"`` or ``"int4"`` for the components' means in whole numbers, too;
            ``None`` for floating-point numbers.
        memory_budget: Most bytes of all that is kept, as a number or a text such as ``"1MB"``. With
            more classes, low-rank covariances lose their last columns.

    Raises:
        ConfigError: An argument cannot work.

    Attributes:
        covariances: Those of the P components, classes, or all.
        seen: int64 tensor (K,), the samples that each class was fitted to.
        shares: Float tensor (K, components), how much of its class each component is; 0 for those
            that are not needed.
        centres: Float tensor (K, components, D), where D is the number of values of a sample: the
            components' means.
    """

    rehearses = False

    def check(self, data: ExperienceData) -> None:
        """See `Generator.check`.

        Raises:
            ShapeError: Samples of another size were learned before.
            RangeError: A value is NaN or infinite.
            CapacityError: The classes do not fit into ``memory_budget``.
        """
        self._check(data.images)
        self._check_room(data.images, data.tasks, data.labels, 0)

    def _check(self, samples: Tensor) -> None:
        d = samples[:1].numel()
        known = self.centres.shape[2]
        if len(self.centres) and known != d:
            raise ShapeError(
                f"Samples of {d} values came, but {known} are known. Resize them, or use a new"
                " density."
            )
        check_values(samples)

    def _check_room(
        self, samples: Tensor, tasks: Tensor, labels: Tensor, group: int | Tensor | None
    ) -> None:
        """Checks that classes fit into the budget, before they are known."""
        if self.memory_budget is not None:
            known = copy.deepcopy(self.classes)
            known.add(tasks, labels, group=0 if group is None else group)
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
        with awake(self, self._floats):
            self._update(flat, rows, variances, merge, count)

    def _update(
        self, flat: Tensor, rows: Tensor, variances: Tensor | None, merge: bool, count: int | None
    ) -> None:
        n_classes, d, device = len(self.classes), flat.shape[1], flat.device
        # As many as there will be if none is learned anew.
        counts = torch.bincount(rows, minlength=n_classes)
        counts = (counts.clamp(max=1) * count) if count is not None else counts
        counts[: len(self.seen)] += self.seen.to(counts)
        self._fit_in(counts, d)
        self.seen = padded(self.seen, torch.zeros(n_classes, dtype=torch.int64, device=device))
        self.shares = padded(self.shares, torch.zeros(n_classes, self.components, device=device))
        self._vectors.grow(n_classes, d, device)
        self.covariances.grow(self._n_places(n_classes), d, device)
        for row in torch.unique(rows).tolist():
            mine = rows == row
            # Float64 on the CPU: once a class, and Cholesky is not offered on every device.
            part = flat[mine].double().cpu()
            wide = None
            if variances is not None:
                wide = variances.flatten(1)[mine].double().mean(dim=0).cpu()
            before = int(self.seen[row]) if merge else 0
            self._learn(row, part, wide, len(part) if count is None else count, before)

    def _learn(
        self, row: int, samples: Tensor, variances: Tensor | None, n: int, before: int
    ) -> None:
        """Learns one class.

        Args:
            row: Its row.
            samples: Float64 tensor (m, D) on the CPU.
            variances: Float64 tensor (D,) on the CPU, the samples' mean variances, or ``None``.
            n: Samples that these stand for.
            before: Samples seen before that count as well; 0 learns the class anew.
        """
        kind, own = self.covariances, self.tied == "component"
        learned = Components.of(kind, samples, variances, self.components, own=own)
        if before:
            learned = learned.with_others(self._known(row), before / (before + n), own=own)
        learned = learned.reduced(self.components, own=own)
        if own:
            learned = learned.shrunk(self.shrinkage)
        found, others = learned.covariances, int(self.seen.sum() - self.seen[row])
        if self.tied == "all" and others:
            total = others + before + n
            weights = [others / total, (before + n) / total]
            both: list[Any] = [kind.get(0), *found]
            found = [kind.mix(weights, both, samples[:0])]
        missing = self.components - len(learned.shares)
        self.shares[row] = F.pad(learned.shares, (0, missing)).to(self.shares)
        self._vectors.put(row, F.pad(learned.centres, (0, 0, 0, missing)))
        self.seen[row] = before + n
        components = torch.arange(len(found))
        for place, covariance in zip(
            self._places(torch.full_like(components, row), components).tolist(), found, strict=True
        ):
            kind.put(place, covariance)

    def _known(self, row: int) -> Components:
        """What is known of a class."""
        shares = self.shares[row].double().cpu()
        used = (shares > 0).nonzero().flatten()
        places: list[int] = self._places(torch.full_like(used, row), used).tolist()
        if self.tied != "component":
            places = places[:1]
        found = [self.covariances.get(place) for place in places]
        return Components(
            self.covariances, shares[used], self.centres[row].double().cpu()[used], found
        )

    def fit(self, samples: Tensor, rows: Tensor, rng: torch.Generator) -> Iterator[Phase]:
        """See `Generator.fit`: learns these classes anew when it is run; yields nothing."""
        self.update(samples, rows, merge=False)
        yield from ()

    def learn(
        self, data: ExperienceData, rng: torch.Generator, **known: Unpack[Known]
    ) -> Iterator[Phase]:
        """See `Generator.learn`: learns the new samples when it is run; yields nothing."""
        self._check(data.images)
        self._check_room(data.images, data.tasks, data.labels, known.get("groups"))
        self.update(data.images, self._add_classes(data, known.get("groups")))
        yield from ()

    # Sampling

    def _noise(
        self, rows: Tensor, flat: Tensor | None, rng: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Centres (n, D) of components of classes (n,), and deviations (n, D) from them.

        Args:
            rows: int64 tensor (n,).
            flat: Samples (n, D) to which the components are the nearest; ``None`` to draw them.
            rng: Generator on the density's device.
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
        """See `Generator.sample`."""
        centres, noise = self._noise(rows, None, rng)
        return noise.add_(centres).view(len(rows), *(self.shape or ()))

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
        centres, noise = self._noise(rows, flat, rng)
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
        flat = samples.flatten(1).to(self.centres.device, torch.float32)
        return torch.stack([self._log_density(flat, k) for k in range(len(self.seen))], dim=1)

    def score(self, samples: Tensor) -> Tensor | None:
        """See `Generator.score`; classes count as often as `ClassTable.balanced` draws them."""
        labels = self.classes.labels
        same = (labels[:, None] == labels[None, :]).sum(dim=1)
        shares = 1.0 / (same * len(torch.unique(labels)))
        return -torch.logsumexp(self.log_densities(samples) + shares.log(), dim=1)


#: What names stand for beside those of covariances.
_NAMES: dict[str, dict[str, Any]] = {
    "shared": {"covariance": "full", "tied": "all"},
    "mixture": {"covariance": "full", "components": 3},
}


def make_density(covariance: str, **options: Any) -> ClassDensity:
    """Makes a density of classes.

    Args:
        covariance: ``"full"``, ``"low-rank"`` or ``"diagonal"``; or ``"shared"``, a full one that
            all classes have; ``"mixture"``, three components that have their class's full one; or
            ``"auto"``.
        **options: Arguments of `ClassDensity`.

    Raises:
        ConfigError: The name is unknown, or an argument cannot work.
    """
    one_of("covariance", covariance, *DENSITIES, "auto")
    return ClassDensity(**{**_NAMES.get(covariance, {"covariance": covariance}), **options})
