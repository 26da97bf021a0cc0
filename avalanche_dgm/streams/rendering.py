"""Toy vehicles on a turntable, rendered as point clouds.

A vehicle is a list of boxes, tubes and balls. Points on their surfaces are rotated, projected and
drawn with a depth buffer, in batches: thousands of images take seconds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from avalanche_dgm.checks import whole
from avalanche_dgm.errors import ConfigError
from avalanche_dgm.streams.tensors import LabelledImages, thin
from avalanche_dgm.streams.vehicles import CATEGORIES, TABLE, Part

N_ROTATIONS = 8
"""Positions of the turntable, 45 degrees apart."""

N_CAMERAS = 11
"""Cameras on an arc over the table, 9 to 171 degrees from its front.

Cameras beyond the top see the vehicle from behind and upside down.
"""

N_VIEWPOINTS = N_ROTATIONS * N_CAMERAS
"""Classes of the viewpoint task; viewpoint = 8 camera + rotation."""

# Points per pixel.
_DENSITY = 3.0
_BATCH = 64


@dataclass(frozen=True)
class Views:
    """Images of objects with two labels each.

    Attributes:
        images: float32 tensor (N, C, H, W), intensities in [0, 1].
        categories: int64 tensor (N,), the object's category.
        viewpoints: int64 tensor (N,), 8 camera + rotation.
    """

    images: Tensor
    categories: Tensor
    viewpoints: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def thin(self, fraction: float, seed: int) -> Views:
        """Returns a random fraction of each viewpoint's samples, at least one."""
        index = _kept(self.viewpoints, fraction, seed)
        return Views(self.images[index], self.categories[index], self.viewpoints[index])


def _kept(viewpoints: Tensor, fraction: float, seed: int) -> Tensor:
    """Indices of a random fraction of each viewpoint's samples, ascending."""
    rows = torch.arange(len(viewpoints))
    return thin(LabelledImages(rows, viewpoints), fraction=fraction, seed=seed).images


def render(
    per_view: int, *, size: int = 32, channels: int = 1, fraction: float = 1.0, seed: int = 0
) -> Views:
    """Renders every category from every viewpoint.

    Images differ in proportions, shades, size, position, light and background.

    Args:
        per_view: Images of each category and viewpoint; there are 880 such pairs.
        size: Height and width, in pixels.
        channels: 1 for grey, 3 for coloured images.
        fraction: Fraction of each viewpoint's images to render, at least one.
        seed: Seed of all random numbers.

    Returns:
        The images in random order.

    Raises:
        ConfigError: An argument is out of range.
    """
    whole("images of each view", per_view)
    whole("size", size, least=8)
    if channels not in (1, 3):
        raise ConfigError(f"Images with {channels} channels cannot be rendered; give 1 or 3.")
    generator = torch.Generator().manual_seed(seed)
    grid = torch.cartesian_prod(torch.arange(len(CATEGORIES)), torch.arange(N_VIEWPOINTS))
    grid = grid.repeat(per_view, 1)
    grid = grid[torch.randperm(len(grid), generator=generator)]
    grid = grid[_kept(grid[:, 1], fraction, seed)]
    images = torch.empty(len(grid), channels, size, size)
    for category, parts in enumerate(CATEGORIES.values()):
        surface = _Surface.of((*TABLE, *parts), size)
        rows = (grid[:, 0] == category).nonzero().flatten()
        for batch in rows.split(_BATCH):
            images[batch] = surface.draw(grid[batch, 1], size, channels, generator)
    return Views(images, grid[:, 0].contiguous(), grid[:, 1].contiguous())


@dataclass(frozen=True)
class _Surface:
    """A vehicle as a point cloud: positions and normals (P, 3), albedos and parts (P,)."""

    points: Tensor
    normals: Tensor
    albedos: Tensor
    parts: Tensor

    @classmethod
    def of(cls, parts: Sequence[Part], size: int) -> _Surface:
        """Samples points on the parts, enough for images with sides of ``size`` pixels."""
        n_points = _DENSITY * (size / 2.7) ** 2
        counts = [max(40, round(n_points * part.area)) for part in parts]
        drawn = [part.surface(n) for part, n in zip(parts, counts, strict=True)]
        which = torch.arange(len(parts)).repeat_interleave(torch.tensor(counts))
        return cls(
            torch.cat([points for points, _ in drawn]),
            torch.cat([normals for _, normals in drawn]),
            torch.tensor([part.albedo for part in parts])[which],
            which,
        )

    def draw(
        self, viewpoints: Tensor, size: int, channels: int, generator: torch.Generator
    ) -> Tensor:
        """Renders images (n, channels, size, size) from viewpoints (n,)."""
        n = len(viewpoints)

        def uniform(low: float, high: float, *shape: int) -> Tensor:
            return low + (high - low) * torch.rand(n, *shape, generator=generator)

        turn = (viewpoints % N_ROTATIONS) * (2 * math.pi / N_ROTATIONS) + uniform(-0.05, 0.05)
        height = torch.deg2rad(9 + 16.2 * (viewpoints // N_ROTATIONS)) + uniform(-0.02, 0.02)
        stretch = uniform(0.95, 1.05, 1, 3)
        shade = self.albedos + uniform(-0.2, 0.2, int(self.parts.max()) + 1)[:, self.parts]

        camera = _camera(turn, height)
        placed = self.points @ (stretch.transpose(1, 2) * camera)
        light = torch.nn.functional.normalize(
            torch.stack([uniform(-0.8, 0.8), uniform(0.0, 1.0), uniform(0.3, 1.0)], dim=1), dim=1
        )
        # Light and line of sight in the vehicle's axes. The normals ignore the stretching.
        lit = (camera @ light.unsqueeze(2)).squeeze(2) @ self.normals.T
        facing = camera[:, :, 2] @ self.normals.T > 0
        shade = shade.clamp_(0.02, 1) * lit.clamp_(min=0).mul_(0.75).add_(0.35)
        zoom = uniform(0.94, 1.02) * size / 2.7
        # A slight perspective.
        scale = zoom[:, None] / (1 - 0.2 * placed[:, :, 2])
        shift = uniform(-0.02, 0.02, 2) * size
        right = placed[:, :, 0] * scale + size / 2 + shift[:, :1]
        down = size / 2 - placed[:, :, 1] * scale + shift[:, 1:]
        covered, shades = _buffer(right, down, placed[:, :, 2], facing, shade, size)

        background = uniform(0.15, 0.85, 1, 1) + _ramp(size, uniform(-0.2, 0.2, 2))
        colour = uniform(0.7, 1.1, channels, 1, 1)
        images = torch.where(covered, shades, background).unsqueeze(1) * colour
        noise = torch.randn(images.shape, generator=generator) * 0.03
        return (images + noise).clamp(0, 1)


def _camera(turn: Tensor, height: Tensor) -> Tensor:
    """Matrices (n, 3, 3) from an object's axes to (right, up, towards the camera)."""
    c, s, e, z = turn.cos(), turn.sin(), height.cos(), height.sin()
    zero = torch.zeros_like(c)
    # The table turns by `turn` about the vertical; the camera stands in front, `height` above it.
    right = torch.stack([s, c, zero], dim=1)
    up = torch.stack([-c * z, s * z, e], dim=1)
    towards = torch.stack([c * e, -s * e, z], dim=1)
    return torch.stack([right, up, towards], dim=2)


def _buffer(
    right: Tensor, down: Tensor, near: Tensor, facing: Tensor, shade: Tensor, size: int
) -> tuple[Tensor, Tensor]:
    """Depth buffer: the mean shade of the nearest points (n, P) in each pixel.

    Returns:
        Whether each pixel is covered, and its shade: tensors (n, size, size).
    """
    column, row = right.floor().long(), down.floor().long()
    inside = facing & (column >= 0) & (column < size) & (row >= 0) & (row < size)
    # An additional index, which is dropped, for invisible points.
    place = torch.where(inside, row * size + column, size * size)
    n = len(place)
    front = torch.full((n, size * size + 1), -torch.inf)
    front.scatter_reduce_(1, place, near, "amax")
    visible = (near > front.gather(1, place) - 0.08).to(shade.dtype)
    total = torch.zeros_like(front).scatter_add_(1, place, shade * visible)
    count = torch.zeros_like(front).scatter_add_(1, place, visible)
    shades = (total / count.clamp(min=1))[:, :-1].view(n, size, size)
    return (count[:, :-1] > 0).view(n, size, size), shades


def _ramp(size: int, slope: Tensor) -> Tensor:
    """Brightness (n, size, size) with a linear gradient of slope (n, 2)."""
    across = torch.linspace(-1, 1, size)
    return slope[:, :1, None] * across[:, None] + slope[:, 1:, None] * across[None]
