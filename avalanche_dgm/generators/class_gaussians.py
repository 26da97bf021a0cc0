"""The state of class-conditional densities, and how it is fitted into a budget of bytes."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor

from avalanche_dgm.checks import number, one_of, read_bytes, whole
from avalanche_dgm.errors import CapacityError, ConfigError
from avalanche_dgm.generators.base import Generator
from avalanche_dgm.generators.covariances import Full, LowRank, QuantizedLowRank
from avalanche_dgm.generators.vectors import QuantizedVectors, Vectors
from avalanche_dgm.modules import AtRest, awake

#: Default size of a density, as a fraction of the samples' bytes in float32.
DATA_SHARE = 0.1
#: With ``"auto"``, largest dimension for full covariances, and maximum columns of a factor.
SMALL, MOST_COLUMNS = 256, 64
#: Stored types of a density; integers are for factors only.
Precision = Literal["float32", "float16", "int8", "int4"]
#: Bits of quantised values.
_BITS = {"int8": 8, "int4": 4}
#: What shares a covariance: nothing, the components of a class, or all components of all classes.
Tied = Literal["component", "class", "all"]


class ClassGaussians(Generator):
    """One or more Gaussians for each class; see `ClassDensity` for arguments and attributes."""

    covariances: Full | LowRank
    seen: Tensor
    shares: Tensor

    def __init__(
        self,
        *,
        covariance: Literal["full", "low-rank", "diagonal", "auto"] = "full",
        components: int = 1,
        tied: Tied = "class",
        rank: int = 16,
        shrinkage: float = 0.5,
        at_rest: Precision | None = None,
        centres_at_rest: Literal["int8", "int4"] | None = None,
        memory_budget: int | str | None = None,
    ) -> None:
        super().__init__()
        one_of("covariance", covariance, "full", "low-rank", "diagonal", "auto")
        one_of("tied", tied, *get_args(Tied))
        self._auto = covariance == "auto"
        at_rest = at_rest or ("int4" if self._auto else "float32")
        one_of("at_rest", at_rest, *get_args(Precision))
        if covariance == "full" and at_rest in ("int8", "int4"):
            raise ConfigError(
                f"at_rest={at_rest!r} is for low-rank covariances: use covariance='low-rank', or"
                " at_rest='float16'."
            )
        if centres_at_rest is not None:
            one_of("centres_at_rest", centres_at_rest, *_BITS)
        whole("components", components)
        whole("rank", rank)
        number("shrinkage", shrinkage, least=0, most=1)
        self.components, self.tied, self.shrinkage = components, tied, shrinkage
        self.at_rest: Precision = at_rest
        self.memory_budget = read_bytes("memory_budget", memory_budget)
        rank = rank if covariance == "low-rank" else 0
        self.covariances = Full() if covariance == "full" else self._low_rank(rank)
        self.register_buffer("seen", torch.empty(0, dtype=torch.int64))
        self.register_buffer("shares", torch.empty(0, components))
        bits = _BITS.get(centres_at_rest or "")
        self._vectors = QuantizedVectors(components, bits) if bits else Vectors(components)

    def _low_rank(self, rank: int) -> LowRank:
        bits = _BITS.get(self.at_rest)
        return LowRank(rank) if bits is None else QuantizedLowRank(rank, bits)

    @property
    def _floats(self) -> AtRest:
        """The stored type of all but the factors."""
        return "float32" if self.at_rest == "float32" else "float16"

    @property
    def dense(self) -> bool:
        """Whether covariances are full matrices (D, D)."""
        return isinstance(self.covariances, Full)

    @property
    def centres(self) -> Tensor:
        """Float tensor (K, components, D), the components' means."""
        return self._vectors.values

    @property
    def means(self) -> Tensor:
        """Float tensor (K, D), the classes' means."""
        return (self.shares.float()[:, :, None] * self.centres.float()).sum(dim=1)

    def _places(self, rows: Tensor, components: Tensor) -> Tensor:
        """Indices of the covariances of components (n,) of classes (n,)."""
        if self.tied == "all":
            return torch.zeros_like(rows)
        return rows if self.tied == "class" else rows * self.components + components

    # Bytes

    def _room(self, n_classes: int, seen: int, d: int) -> int | None:
        """Bytes available for covariances; ``None`` without a limit."""
        limit = self.memory_budget
        if limit is None and self._auto:
            limit = int(DATA_SHARE * 4 * seen * d)
        if limit is None:
            return None
        return limit - self._beside_covariances(n_classes, d)

    def _beside_covariances(self, n_classes: int, d: int) -> int:
        """Bytes of all but the covariances: rows of the table, counts, weights and means."""
        each = self._width + self._vectors.bytes_of(d, self._width)
        return n_classes * (32 + self.components * each)

    @property
    def _width(self) -> int:
        """Bytes of a floating-point number."""
        return 4 if self.at_rest == "float32" else 2

    def bytes_of(self, n_classes: int, d: int) -> int:
        kept, each = self.covariances, self._width * d * (d + 1) // 2
        if isinstance(kept, LowRank):
            each = self._width * d + kept.rank * kept.column_bytes(d, self._width)
        return self._beside_covariances(n_classes, d) + self._n_places(n_classes) * each

    def check_budget(self, budget: int | None, n_classes: int, d: int) -> None:
        """See `Generator.check_budget`; covariances count with their smallest possible size."""
        budget = budget or self.memory_budget
        if budget is None:
            return
        rows = 1 if self._auto else self._n_places(n_classes)
        numbers = d * (d + 1) // 2 if self.dense and not self._auto else d
        least = self._width * rows * numbers + self._beside_covariances(n_classes, d)
        if least > budget:
            raise CapacityError(
                f"{n_classes} classes of {d} values take at least {least} bytes, more than"
                f" memory_budget={budget}. Give more, or use covariance='auto', fewer components,"
                " or at_rest='float16'."
            )

    def _n_places(self, n_classes: int) -> int:
        places = {"component": n_classes * self.components, "class": n_classes, "all": 1}
        return places[self.tied]

    def _fit_in(self, counts: Tensor, d: int) -> None:
        """Reduces the covariances to fit into the budget, for classes with ``counts`` samples."""
        n_classes = len(counts)
        room = self._room(n_classes, int(counts.sum()), d)
        if room is None:
            return
        self.check_budget(None, n_classes, d)
        if self._auto and not len(self.seen) and d <= SMALL:
            self.covariances = Full()
        each = room // self._n_places(n_classes)
        if isinstance(self.covariances, Full):
            if not self._auto or self._width * d * (d + 1) // 2 <= each:
                return
            full = self.covariances
            self.covariances = self._low_rank(min(MOST_COLUMNS, self._columns(each, d)))
            self.covariances.approximate(full)
        elif self._auto and not len(self.seen):
            most = min(MOST_COLUMNS, int(counts.max()))
            self.covariances = self._low_rank(min(most, self._columns(each, d)))
        if self._auto and self.tied != "all" and each < d * self._width:
            self._tie_all()
        elif self._columns(each, d) < self.covariances.rank:
            self.covariances.truncate(self._columns(each, d))

    def _columns(self, size: int, d: int) -> int:
        """Columns of a factor that fit into ``size`` bytes beside a diagonal."""
        column = self._low_rank(0).column_bytes(d, self._width)
        return max(0, (size - d * self._width) // column)

    def _tie_all(self) -> None:
        """Replaces all covariances by one shared diagonal."""
        one, old = self._low_rank(0), self.covariances
        if len(self.seen) and isinstance(old, LowRank):
            weights = (self.seen / self.seen.sum())[:, None].cpu() * self.shares.cpu()
            if self.tied == "class":
                weights = weights.sum(dim=1)
            parts = [old.get(place) for place in range(len(old))]
            one.grow(1, self.centres.shape[2], self.centres.device)
            one.put(0, one.mix(weights.flatten().tolist(), parts, parts[0][0][:0]))
        self.covariances, self.tied = one, "all"

    def get_extra_state(self) -> dict[str, Any]:
        """See `Generator.get_extra_state`; with the kind of covariances."""
        return {**super().get_extra_state(), "dense": self.dense, "tied": self.tied}

    # Old states and pickles have the centres as a buffer of this module.

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *args: Any) -> None:
        if f"{prefix}centres" in state:
            state[f"{prefix}_vectors.kept"] = state.pop(f"{prefix}centres")
        super()._load_from_state_dict(state, prefix, *args)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        centres = self._buffers.pop("centres", None)
        if centres is not None:
            self._vectors = Vectors(self.components)
            self._vectors.kept = centres

    def _restore(self, state: dict[str, Any]) -> None:
        super()._restore(state)
        if state["dense"] != self.dense:
            self.covariances = Full() if state["dense"] else self._low_rank(0)
        self.tied = state["tied"]
        # Converts the buffers to the stored type before values are loaded.
        with awake(self, self._floats):
            pass
