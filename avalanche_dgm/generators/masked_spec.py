"""The sizes and options of a growing generator."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from avalanche_dgm.errors import ConfigError, ShapeError
from avalanche_dgm.generators.groups import MaskOptions


@dataclass(frozen=True)
class MaskedSpec:
    """Everything that is needed to build a `MaskedGenerator` again.

    Attributes:
        architecture: ``"dcgan"``, ``"resnet"`` or ``"dense"``.
        shape: Shape of one sample: (C, H, W), or (D,) for ``"dense"``.
        width: Channels of the narrowest layer at the start (the authors' ``ngf``).
        latent: Number of noise inputs.
        masking: ``"units"``, ``"weights"`` or ``"none"``; see `MaskOptions`.
        placement: ``"before"`` or ``"after"``.
        protection: ``"fan"`` or ``"ends"``.
        bounded: Whether samples lie in -1..1, so that the last layer ends in a tanh.

    Raises:
        ConfigError: A value that cannot work.
        ShapeError: The architecture cannot make samples of this shape.
    """

    architecture: str
    shape: tuple[int, ...]
    width: int = 20
    latent: int = 128
    masking: str = "units"
    placement: str = "before"
    protection: str = "fan"
    bounded: bool = True

    def __post_init__(self) -> None:
        if self.architecture not in ("dcgan", "resnet", "dense"):
            raise ConfigError(
                f"Unknown architecture {self.architecture!r}; use 'dcgan', 'resnet' or 'dense'."
            )
        if self.width < 1 or self.latent < 1:
            raise ConfigError(f"width={self.width} and latent={self.latent} must be 1 or more.")
        if not self.shape or min(self.shape) < 1:
            raise ShapeError(f"shape={self.shape} must have sizes of 1 or more.")
        if self.architecture == "dense" and len(self.shape) != 1:
            raise ShapeError(
                f"A dense generator makes flat samples (D,), not {self.shape}. Flatten them, or"
                " use architecture='dcgan' or 'resnet'."
            )
        if self.architecture != "dense" and (
            len(self.shape) != 3 or self.shape[1] % 8 or self.shape[2] % 8
        ):
            raise ShapeError(
                f"A {self.architecture} generator makes images (C, H, W) whose sides are multiples"
                f" of 8, not {self.shape}. Resize them, or use architecture='dense'."
            )
        _ = self.options  # its own checks

    @property
    def options(self) -> MaskOptions:
        """What is masked."""
        return MaskOptions(self.masking, self.placement, self.protection)

    def to_dict(self) -> dict[str, Any]:
        """Returns plain numbers, strings and tuples."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> MaskedSpec:
        """Builds the specification that `to_dict` described."""
        return cls(**{**values, "shape": tuple(values["shape"])})
