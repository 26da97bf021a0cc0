"""How the masks of a growing generator settle while a task is learned."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from avalanche_dgm.generators.growing import MaskedGenerator


class MaskTrace:
    """Looks at the masks now and then as a task is learned, until it is told to stop.

    What is seen stays on the device, so that no step waits for it. Looks are rarer the longer a
    task takes: there are from ``points`` to twice as many of them, whatever the number of steps.

    Args:
        generator: What learns.
        points: How many looks are enough, at least 1.
    """

    def __init__(self, generator: MaskedGenerator, *, points: int = 20) -> None:
        self.points = points
        self._names = [name for name, _ in generator.named_masks()]
        self._sizes = [mask.embedding.numel() for _, mask in generator.named_masks()]
        self._step, self._every = 0, 1
        self._seen: list[tuple[int, float | Tensor, Tensor]] = []
        self._hook = generator.register_forward_hook(self._look, with_kwargs=True)

    def stop(self) -> list[dict[str, Any]]:
        """Ends the looking; waits for the device.

        Returns:
            For each look and mask: ``layer`` (its name), ``step`` of the generator, counted from 0,
            ``scale`` of the soft masks, ``width``, ``active`` (entries whose embedding is at least
            0: those that would be reserved or reused), ``soft_mean`` and ``soft_std``, mean and
            standard deviation of the soft mask over its entries.
        """
        self._hook.remove()
        seen, self._seen = self._seen, []
        return [
            {
                "layer": name,
                "step": step,
                "scale": float(scale),
                "width": size,
                "active": int(active),
                "soft_mean": soft,
                "soft_std": spread,
            }
            for step, scale, values in seen
            for name, size, (active, soft, spread) in zip(
                self._names, self._sizes, values.tolist(), strict=True
            )
        ]

    def state(self) -> dict[str, Any]:
        """What was seen so far, for `set_state`; waits for the device."""
        seen = [(step, float(scale), values.cpu()) for step, scale, values in self._seen]
        return {"step": self._step, "every": self._every, "seen": seen}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on where `state` was called, with what it returned."""
        self._step, self._every, self._seen = state["step"], state["every"], list(state["seen"])

    @torch.no_grad()
    def _look(
        self, generator: MaskedGenerator, args: Any, kwargs: dict[str, Any], output: Tensor
    ) -> None:
        # What is made for the discriminator, or of a finished task, is no step of the generator.
        if kwargs.get("task") is not None or not output.requires_grad:
            return
        step, self._step = self._step, self._step + 1
        if step % self._every:
            return
        scale = kwargs["scale"]
        masks = [mask for _, mask in generator.named_masks()]
        active = torch.stack([(mask.embedding >= 0).sum() for mask in masks])
        soft = [mask.soft(scale) for mask in masks]
        mean = torch.stack([values.mean() for values in soft])
        spread = torch.stack([values.std(correction=0) for values in soft])
        self._seen.append((step, scale, torch.stack([active.to(mean), mean, spread], dim=1)))
        if len(self._seen) >= 2 * self.points:
            self._seen = self._seen[::2]
            self._every *= 2
