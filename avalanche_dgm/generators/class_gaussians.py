"""What densities of classes keep, and how it is made to fit into some bytes."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor

from avalanche_dgm.errors import CapacityError, ConfigError
from avalanche_dgm.generators.base import Generator
from avalanche_dgm.generators.covariances import Full, LowRank
from avalanche_dgm.modules import AtRest, awake
from avalanche_dgm.settings import one_of, read_bytes, whole

#: Of the samples' bytes in float32, how many a density may have unasked.
DATA_SHARE = 0.1
#: Most values of a sample whose covariance is full unasked; most columns of a factor, unasked.
SMALL, MOST_COLUMNS = 256, 64
#: Which densities have one covariance: each component, those of a class, or all of all classes.
Tied = Literal["component", "class", "all"]


class ClassGaussians(Generator):
    """One or more Gaussians for each class; see `ClassDensity` for arguments and attributes."""

    covariances: Full | LowRank
    seen: Tensor
    shares: Tensor
    centres: Tensor

    def __init__(
        self,
        *,
        covariance: Literal["full", "low-rank", "diagonal", "auto"] = "full",
        components: int = 1,
        tied: Tied = "class",
        rank: int = 16,
        shrinkage: float = 0.5,
        at_rest: AtRest | None = None,
        memory_budget: int | str | None = None,
    ) -> None:
        super().__init__()
        one_of("covariance", covariance, "full", "low-rank", "diagonal", "auto")
        one_of("tied", tied, *get_args(Tied))
        self._auto = covariance == "auto"
        at_rest = at_rest or ("float16" if self._auto else "float32")
        one_of("at_rest", at_rest, *get_args(AtRest))
        whole("components", components)
        whole("rank", rank)
        if isinstance(shrinkage, bool) or not 0 <= shrinkage <= 1:
            raise ConfigError(f"shrinkage={shrinkage!r} must be a number from 0 to 1.")
        self.components, self.tied, self.shrinkage = components, tied, shrinkage
        self.at_rest: AtRest = at_rest
        self.memory_budget = read_bytes("memory_budget", memory_budget)
        rank = rank if covariance == "low-rank" else 0
        self.covariances = Full() if covariance == "full" else LowRank(rank)
        self.register_buffer("seen", torch.empty(0, dtype=torch.int64))
        self.register_buffer("shares", torch.empty(0, components))
        self.register_buffer("centres", torch.empty(0, components, 0))

    @property
    def dense(self) -> bool:
        """Whether a matrix of as many rows and columns as a sample has values is kept."""
        return isinstance(self.covariances, Full)

    @property
    def means(self) -> Tensor:
        """Float tensor (K, D), the classes' means."""
        return (self.shares.float()[:, :, None] * self.centres.float()).sum(dim=1)

    def _places(self, rows: Tensor, components: Tensor) -> Tensor:
        """Where the covariances of components (n,) of classes (n,) are."""
        if self.tied == "all":
            return torch.zeros_like(rows)
        return rows if self.tied == "class" else rows * self.components + components

    # Bytes

    def _room(self, n_classes: int, seen: int, d: int) -> int | None:
        """Bytes for the covariances of so many classes and samples; ``None`` without a limit."""
        limit = self.memory_budget
        if limit is None and self._auto:
            limit = int(DATA_SHARE * 4 * seen * d)
        if limit is None:
            return None
        return limit - self._beside_covariances(n_classes, d)

    def _beside_covariances(self, n_classes: int, d: int) -> int:
        """Bytes of each class's number in the table, how many were seen, shares and means."""
        return n_classes * (32 + self.components * self._width * (1 + d))

    @property
    def _width(self) -> int:
        """Bytes of a number."""
        return 2 if self.at_rest == "float16" else 4

    def bytes_of(self, n_classes: int, d: int) -> int:
        """Bytes of everything that is kept of so many classes of samples of d values."""
        kept = self.covariances
        columns = (d + 1) / 2 if isinstance(kept, Full) else kept.rank + 1
        numbers = int(self._n_places(n_classes) * columns * d)
        return self._beside_covariances(n_classes, d) + self._width * numbers

    def check_budget(self, budget: int | None, n_classes: int, d: int) -> None:
        """See `Generator.check_budget`; what can be made smaller is counted as it will be then."""
        budget = budget or self.memory_budget
        if budget is None:
            return
        rows = 1 if self._auto else self._n_places(n_classes)
        numbers = d * (d + 1) // 2 if self.dense and not self._auto else d
        least = self._width * rows * numbers + self._beside_covariances(n_classes, d)
        if least > budget:
            raise CapacityError(
                f"{n_classes} classes of {d} values take {least} bytes at least, more than"
                f" memory_budget={budget}. Give more, or keep less: covariance='auto', fewer"
                " components, at_rest='float16'."
            )

    def _n_places(self, n_classes: int) -> int:
        places = {"component": n_classes * self.components, "class": n_classes, "all": 1}
        return places[self.tied]

    def _fit_in(self, counts: Tensor, d: int) -> None:
        """Makes room for classes, of which so many samples (K,) were seen, within the budget."""
        n_classes = len(counts)
        room = self._room(n_classes, int(counts.sum()), d)
        if room is None:
            return
        self.check_budget(None, n_classes, d)
        if self._auto and not len(self.seen) and d <= SMALL:
            self.covariances = Full()
        columns = room // (self._n_places(n_classes) * d * self._width)
        if isinstance(self.covariances, Full):
            if not self._auto or columns >= (d + 1) / 2:
                return
            self.covariances = LowRank.approximate(self.covariances, max(0, columns - 1))
        elif self._auto and not len(self.seen):
            self.covariances = LowRank(max(0, min(MOST_COLUMNS, int(counts.max()), columns - 1)))
        if columns < 1 and self._auto and self.tied != "all":
            self._tie_all()
        elif columns - 1 < self.covariances.rank:
            self.covariances.truncate(max(0, columns - 1))

    def _tie_all(self) -> None:
        """Gives all classes one diagonal."""
        one, old = LowRank(0), self.covariances
        if len(self.seen) and isinstance(old, LowRank):
            weights = (self.seen / self.seen.sum())[:, None].cpu() * self.shares.cpu()
            if self.tied == "class":
                weights = weights.sum(dim=1)
            found = [old.get(place) for place in range(len(old))]
            one.grow(1, self.centres.shape[2], self.centres.device)
            one.put(0, one.mix(weights.flatten().tolist(), found, found[0][0][:0]))
        self.covariances, self.tied = one, "all"

    def get_extra_state(self) -> dict[str, Any]:
        """What was chosen, too."""
        return {**super().get_extra_state(), "dense": self.dense, "tied": self.tied}

    def _restore(self, state: dict[str, Any]) -> None:
        super()._restore(state)
        if state["dense"] != self.dense:
            self.covariances = Full() if state["dense"] else LowRank(0)
        self.tied = state["tied"]
        # So that what is loaded next is kept in this type.
        with awake(self, self.at_rest):
            pass
