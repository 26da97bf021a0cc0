"""The masks of a growing generator over the training of a task."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from avalanche_dgm.generators.growing import MaskedGenerator


class MaskTrace:
    """Records the masks during the training of a task, until `stop`.

    Values stay on the device, so that steps need no synchronisation. The interval between records
    grows with the number of steps, so that there are ``points`` to ``2 * points`` records.

    Args:
        generator: The generator in training.
        points: Minimum number of records, at least 1.
    """

    def __init__(self, generator: MaskedGenerator, *, points: int = 20) -> None:
        self.points = points
        self._names = [name for name, _ in generator.named_masks()]
        self._sizes = [mask.embedding.numel() for _, mask in generator.named_masks()]
        self._step, self._every = 0, 1
        self._seen: list[tuple[int, float | Tensor, Tensor]] = []
        self._hook = generator.register_forward_hook(self._record, with_kwargs=True)

    def stop(self) -> list[dict[str, Any]]:
        """Stops recording; synchronises with the device.

        Returns:
            For each record and mask: ``layer`` (name of the mask's layer), ``step`` of the
            generator, counted from 0, ``scale`` of the soft masks, ``width``, ``active`` (number of
            entries with an embedding of at least 0, which would be reserved or reused),
            ``soft_mean`` and ``soft_std``, mean and standard deviation of the soft mask's entries.
        """
        self._hook.remove()
        records, self._seen = self._seen, []
        return [
            {
                "layer": name,
                "step": step,
                "scale": float(scale),
                "width": size,
                "active": int(active),
                "soft_mean": mean,
                "soft_std": std,
            }
            for step, scale, values in records
            for name, size, (active, mean, std) in zip(
                self._names, self._sizes, values.tolist(), strict=True
            )
        ]

    def state(self) -> dict[str, Any]:
        """The records so far, for `set_state`; synchronises with the device."""
        seen = [(step, float(scale), values.cpu()) for step, scale, values in self._seen]
        return {"step": self._step, "every": self._every, "seen": seen}

    def set_state(self, state: dict[str, Any]) -> None:
        """Restores the state returned by `state`."""
        self._step, self._every, self._seen = state["step"], state["every"], list(state["seen"])

    @torch.no_grad()
    def _record(
        self, generator: MaskedGenerator, args: Any, kwargs: dict[str, Any], output: Tensor
    ) -> None:
        # Samples for the discriminator or of an earlier task are not a step of the generator.
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
        std = torch.stack([values.std(correction=0) for values in soft])
        self._seen.append((step, scale, torch.stack([active.to(mean), mean, std], dim=1)))
        if len(self._seen) >= 2 * self.points:
            self._seen = self._seen[::2]
            self._every *= 2
