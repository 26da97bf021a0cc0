"""Toy vehicles and their turntable, made of boxes, tubes and balls."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor


@dataclass(frozen=True)
class Part:
    """A part of a vehicle. Vehicles extend from about -1 to 1; x points to the front, z up.

    Attributes:
        kind: "box", "ball", "tube", or "plate" for only the upper face of a box.
        centre: Its centre.
        size: Half its extent along x, y and z; across the axis of a tube, its radius.
        albedo: Brightness, in [0, 1].
        axis: Axis of a tube: 0, 1 or 2 for x, y or z.
        taper: Ratio of a tube's radii at the far and the near end of its axis.
    """

    kind: str
    centre: tuple[float, float, float]
    size: tuple[float, float, float]
    albedo: float
    axis: int = 0
    taper: float = 1.0

    def surface(self, n: int) -> tuple[Tensor, Tensor]:
        """Samples n points of the surface: positions and outward unit normals, tensors (n, 3)."""
        size, spread = torch.tensor(self.size), _spread(n)
        if self.kind == "ball":
            points, normals = _ball(size, spread)
        elif self.kind == "box":
            points, normals = _box(size, spread)
        elif self.kind == "plate":
            points, normals = _plate(size, spread)
        else:
            points, normals = _tube(size, self.axis, self.taper, spread)
        return points + torch.tensor(self.centre), torch.nn.functional.normalize(normals, dim=1)

    @property
    def area(self) -> float:
        """Approximate area of the surface, larger for parts that need more points."""
        x, y, z = self.size
        if self.kind == "plate":
            return 9 * x * y
        return (8.0 if self.kind == "box" else 9.0) * (x * y + y * z + z * x)


def _spread(n: int) -> Tensor:
    """A low-discrepancy sequence (n, 3) in the unit cube (Roberts 2018).

    Random points would leave holes in a surface.
    """
    root = 1.2207440846057596  # root of x^4 = x + 1
    steps = torch.tensor([root**-1, root**-2, root**-3], dtype=torch.float64)
    return (0.5 + torch.arange(1, n + 1, dtype=torch.float64)[:, None] * steps).frac().float()


def _ball(size: Tensor, spread: Tensor) -> tuple[Tensor, Tensor]:
    angle, z = 2 * math.pi * spread[:, 0], 2 * spread[:, 1] - 1
    width = (1 - z.square()).clamp(min=0).sqrt()
    sphere = torch.stack([width * angle.cos(), width * angle.sin(), z], dim=1)
    return sphere * size, sphere / size


def _plate(size: Tensor, spread: Tensor) -> tuple[Tensor, Tensor]:
    points, normals = 2 * spread - 1, torch.zeros_like(spread)
    points[:, 2] = normals[:, 2] = 1.0
    return points * size, normals


def _box(size: Tensor, spread: Tensor) -> tuple[Tensor, Tensor]:
    areas = torch.stack([size[1] * size[2], size[0] * size[2], size[0] * size[1]]).repeat(2)
    face = torch.searchsorted(areas.cumsum(0) / areas.sum(), spread[:, 0].contiguous()).clamp(max=5)
    across, side = face % 3, 1 - 2.0 * (face // 3)
    rows = torch.arange(len(spread))
    points, normals = torch.zeros_like(spread), torch.zeros_like(spread)
    points[rows, (across + 1) % 3] = 2 * spread[:, 1] - 1
    points[rows, (across + 2) % 3] = 2 * spread[:, 2] - 1
    points[rows, across] = side
    normals[rows, across] = side
    return points * size, normals


def _tube(size: Tensor, axis: int, taper: float, spread: Tensor) -> tuple[Tensor, Tensor]:
    others = [i for i in range(3) if i != axis]
    radius, half = float(size[others[0]]), float(size[axis])
    # The two caps' fraction of the surface.
    share = radius / (radius + 2 * half)
    cap = spread[:, 0] < share
    along = torch.where(
        cap, (spread[:, 0] - share / 2).sign(), 2 * (spread[:, 0] - share) / (1 - share) - 1
    )
    angle = 2 * math.pi * spread[:, 1]
    width = radius * (1 + (taper - 1) * (along + 1) / 2)
    width = torch.where(cap, width * spread[:, 2].sqrt(), width)
    slope = radius * (1 - taper) / (2 * half)
    points, normals = torch.zeros_like(spread), torch.zeros_like(spread)
    for other, part in zip(others, (angle.cos(), angle.sin()), strict=True):
        points[:, other] = width * part
        normals[:, other] = torch.where(cap, 0.0, part)
    points[:, axis] = half * along
    normals[:, axis] = torch.where(cap, along, slope)
    return points, normals


def _wheels(
    xs: Sequence[float], y: float, z: float, radius: float, half: float = 0.08
) -> list[Part]:
    return [
        Part("tube", (x, side * y, z), (radius, half, radius), 0.08, axis=1)
        for x in xs
        for side in (-1, 1)
    ]


CATEGORIES: Mapping[str, tuple[Part, ...]] = MappingProxyType(
    {
        "boat": (
            Part("box", (-0.15, 0, -0.15), (0.75, 0.32, 0.16), 0.6),
            Part("tube", (0.85, 0, -0.13), (0.25, 0.3, 0.3), 0.6, taper=0.1),
            Part("box", (-0.35, 0, 0.12), (0.32, 0.22, 0.14), 0.95),
            Part("tube", (0.2, 0, 0.35), (0.04, 0.04, 0.38), 0.2, axis=2),
        ),
        "bus": (
            Part("box", (0, 0, 0.1), (0.95, 0.3, 0.36), 0.75),
            Part("box", (0.95, 0, 0.22), (0.02, 0.26, 0.18), 0.1),
            Part("box", (-0.4, 0, 0.48), (0.3, 0.16, 0.05), 0.35),
            *_wheels((-0.6, 0.6), 0.27, -0.27, 0.17),
        ),
        "car": (
            Part("box", (0, 0, -0.1), (0.85, 0.38, 0.15), 0.7),
            Part("box", (-0.15, 0, 0.16), (0.42, 0.32, 0.13), 0.3),
            Part("box", (0.85, 0, -0.05), (0.02, 0.32, 0.06), 1.0),
            *_wheels((-0.52, 0.52), 0.36, -0.24, 0.17),
        ),
        "helicopter": (
            Part("ball", (0.2, 0, 0), (0.5, 0.32, 0.32), 0.7),
            Part("ball", (0.48, 0, 0.08), (0.27, 0.24, 0.22), 0.1),
            Part("box", (-0.6, 0, 0.08), (0.5, 0.07, 0.07), 0.5),
            Part("box", (-1.05, 0, 0.24), (0.09, 0.03, 0.2), 0.95),
            Part("box", (0.15, 0, 0.42), (0.85, 0.05, 0.02), 0.2),
            Part("box", (0.15, 0, 0.42), (0.05, 0.85, 0.02), 0.2),
        ),
        "monster": (
            Part("box", (0, 0, 0.22), (0.72, 0.32, 0.14), 0.65),
            Part("box", (-0.1, 0, 0.46), (0.3, 0.28, 0.12), 0.25),
            Part("box", (0.72, 0, 0.25), (0.02, 0.28, 0.07), 1.0),
            *_wheels((-0.5, 0.5), 0.42, -0.12, 0.36, 0.15),
        ),
        "plane": (
            Part("ball", (0, 0, 0), (1.0, 0.15, 0.16), 0.8),
            Part("box", (0.1, 0, 0), (0.2, 0.95, 0.03), 0.5),
            Part("box", (-0.85, 0, 0.05), (0.12, 0.38, 0.03), 0.5),
            Part("box", (-0.88, 0, 0.22), (0.12, 0.03, 0.2), 0.2),
            Part("ball", (0.9, 0, 0), (0.16, 0.11, 0.11), 0.1),
        ),
        "semi": (
            Part("box", (0.72, 0, 0.08), (0.2, 0.3, 0.32), 0.9),
            Part("box", (0.92, 0, 0.22), (0.02, 0.26, 0.14), 0.1),
            Part("box", (-0.3, 0, 0.2), (0.7, 0.32, 0.42), 0.45),
            *_wheels((-0.75, -0.4, 0.7), 0.29, -0.27, 0.16),
        ),
        "tank": (
            Part("box", (0, 0, -0.08), (0.8, 0.4, 0.15), 0.55),
            Part("box", (0, -0.42, -0.18), (0.9, 0.12, 0.17), 0.15),
            Part("box", (0, 0.42, -0.18), (0.9, 0.12, 0.17), 0.15),
            Part("tube", (-0.15, 0, 0.19), (0.33, 0.33, 0.13), 0.7, axis=2),
            Part("tube", (0.6, 0, 0.22), (0.5, 0.06, 0.06), 0.3),
        ),
        "train": (
            Part("tube", (0.22, 0, 0.1), (0.62, 0.27, 0.27), 0.4),
            Part("box", (-0.62, 0, 0.18), (0.28, 0.33, 0.42), 0.85),
            Part("tube", (0.65, 0, 0.48), (0.1, 0.1, 0.18), 0.1, axis=2),
            Part("box", (0, 0, -0.2), (0.95, 0.28, 0.07), 0.2),
            *_wheels((-0.6, 0, 0.6), 0.29, -0.28, 0.16),
        ),
        "ufo": (
            Part("ball", (0, 0, 0), (0.85, 0.85, 0.18), 0.55),
            Part("ball", (0, 0, 0.15), (0.38, 0.38, 0.3), 0.95),
            Part("box", (0.68, 0, 0.06), (0.16, 0.22, 0.11), 0.05),
            Part("tube", (-0.55, 0, 0.25), (0.05, 0.05, 0.2), 0.1, axis=2),
        ),
    }
)
"""The vehicles, in alphabetical order; a category's label is its index."""


TABLE = (
    Part("plate", (0.6, 0, -0.45), (0.6, 0.9, 0), 0.85),
    Part("plate", (-0.6, 0, -0.45), (0.6, 0.9, 0), 0.2),
)
"""The turntable: bright in front of the vehicle, dark behind it, visible only from above."""
