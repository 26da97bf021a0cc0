"""Groups of channels that share a mask, and how the masks work."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from avalanche_dgm.errors import ConfigError
from avalanche_dgm.generators.masks import Mask

#: Steepness of a soft mask, where one is needed.
Scale = float | Tensor | None


@dataclass(frozen=True)
class MaskOptions:
    """What is masked, where, and what is kept for earlier tasks.

    With unit masks ``placement="before"``, an unused unit still emits the constant
    ``ReLU(shift)`` of its normalisation. ``protection="ends"`` lets the weights from such units
    into reserved ones change, so together the two let the images of earlier tasks drift. This is
    what the authors' code does; the other combinations keep every earlier image as it was.

    Attributes:
        masking: ``"units"``, one entry per output channel; ``"weights"``, one per weight; or
            ``"none"``: the same network without masks, for comparisons. The other options are about
            units.
        placement: ``"before"`` the normalisation (``y = m * (W x)``, Eq. 2), or ``"after"`` the
            activation.
        protection: Which weights earlier tasks keep: ``"fan"``, all that lead into a reserved
            unit (Eq. 4), or ``"ends"``, those between two reserved units (Serrà et al. 2018,
            Eq. 2). Weights from the noise are kept by their output alone.

    Raises:
        ConfigError: Another value.
    """

    masking: str = "units"
    placement: str = "before"
    protection: str = "fan"

    def __post_init__(self) -> None:
        for name, allowed in (
            ("masking", ("units", "weights", "none")),
            ("placement", ("before", "after")),
            ("protection", ("fan", "ends")),
        ):
            if getattr(self, name) not in allowed:
                choice = ", ".join(map(repr, allowed))
                raise ConfigError(f"Unknown {name} {getattr(self, name)!r}; use one of {choice}.")


@dataclass(eq=False)
class Group:
    """Channels that grow together, because layers write to and read from the same ones.

    Attributes:
        name: Unique within a generator.
        width: Present number of channels.
        mask: Their mask (width,), or ``None`` where weights are masked. A group is no module, so
            the generator has to register it.
        initial: Number of channels at the start.
    """

    name: str
    width: int
    mask: Mask | None = None
    initial: int = field(init=False)

    def __post_init__(self) -> None:
        self.initial = self.width

    def apply(self, x: Tensor, task: int | None, scale: Scale) -> Tensor:
        """Multiplies (n, width, ...) by the mask of the channels, if there is one."""
        if self.mask is None:
            return x
        return x * self.mask.values(task, scale).view(-1, *(1,) * (x.ndim - 2))
