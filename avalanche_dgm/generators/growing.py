"""Generators that learn one task after another in masked, growing layers.

Ostapenko et al. 2019, "Learning to remember: dynamic generative memory".
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from avalanche_dgm.errors import CheckpointError, ConfigError, ShapeError, UnknownTaskError
from avalanche_dgm.generators.gan_settings import GANSettings
from avalanche_dgm.generators.masked_layers import (
    Group,
    MaskedLayer,
    NormReLU,
    PerTask,
)
from avalanche_dgm.generators.masks import Compensation, Mask, View
from avalanche_dgm.generators.scaler import Scaler
from avalanche_dgm.modules import at_least_single, awake, convert


class MaskedGenerator(nn.Module, ABC):
    """Base class of masked generator networks; see `build_generator`.

    Each task learns masks, normalisations and an output layer (the head). The units (or weights) of
    finished tasks are reserved: later tasks may use but not change them. When a task begins, the
    network grows until it has as many free units (or weights) as initially. So a finished task's
    images stay the same bit for bit on the same machine, with the exception in `MaskedGANSettings`.

    A subclass makes its groups with `group`, assigns its layers in the order in which they are
    applied, and implements `features` and `head`.

    Args:
        settings: Sizes and options.
        scaler: Of the samples. If they are bounded, the network ends in a tanh.

    Attributes:
        n_tasks: Number of finished tasks, which is the index of the current one.
        learning: Whether there is a current task.
        groups: The groups by name.
        widths: The groups' widths in each finished task.
        heads: Each task's output layer.
    """

    def __init__(self, settings: GANSettings, scaler: Scaler) -> None:
        super().__init__()
        self.settings, self.scaler = settings, scaler
        self.n_tasks = 0
        self.learning = False
        self.groups: dict[str, Group] = {}
        self.widths: list[dict[str, int]] = []
        self.masks = nn.ModuleDict()
        self.heads = PerTask()

    def group(self, name: str, width: int) -> Group:
        """Creates a group of channels, with a mask if units are masked."""
        mask = Mask((width,)) if self.settings.masking == "units" else None
        if mask is not None:
            self.masks[name] = mask
        self.groups[name] = Group(name, width, mask)
        return self.groups[name]

    @abstractmethod
    def features(self, z: Tensor, view: View) -> Tensor:
        """Returns the heads' inputs for noise (n, latent)."""

    @abstractmethod
    def head(self, widths: dict[str, int]) -> nn.Module:
        """Returns a new output layer for groups of these widths."""

    def forward(
        self, z: Tensor, *, task: int | None = None, scale: float | Tensor | None = None
    ) -> Tensor:
        """Generates images.

        Args:
            z: Noise (n, latent).
            task: See `View`.
            scale: See `View`.

        Returns:
            Tensor (n, *padded), see `Scaler`; in -1..1 if it is ``bounded``.

        Raises:
            ShapeError: ``z`` has another shape.
            UnknownTaskError: The task is not finished.
            ConfigError: The current task needs a scale.
            RuntimeError: There is no current task.
        """
        if z.ndim != 2 or z.shape[1] != self.settings.latent:
            raise ShapeError(f"Noise must be (n, {self.settings.latent}), not {tuple(z.shape)}.")
        if task is None:
            self._check_learning()
            if scale is None:
                raise ConfigError("The masks of the current task need a scale above 0.")
        elif not 0 <= task < self.n_tasks:
            raise UnknownTaskError(f"Task {task} is none of the {self.n_tasks} finished tasks.")
        head = self.heads[self.n_tasks if task is None else task]
        with awake(self, self._kept_as):
            outputs = head(self.features(z, View(task, scale)))
        # Half precision has hardly any number between -0.99 and -1, the dark pixels of an image.
        outputs = at_least_single(outputs)
        return torch.tanh(outputs) if self.scaler.bounded else outputs

    def begin_task(self) -> None:
        """Starts a task: grows the network, adds normalisations and a head, resets embeddings.

        New weights are drawn from PyTorch's global generator, which the caller has seeded.

        Raises:
            RuntimeError: The current task was neither ended nor dropped.
        """
        if self.learning:
            raise RuntimeError("There is a current task; call end_task() or drop_task() first.")
        self._set_learning(True)
        self._grow()
        for mask in self._parts(Mask):
            mask.reset()
        for norm in self._parts(NormReLU):
            norm.begin()
        self.heads.append(self.head(self._widths()))
        self._match()

    def drop_task(self) -> None:
        """Drops the current task, if there is one; changes of free weights are kept."""
        if not self.learning:
            return
        for mask in self._parts(Mask):
            mask.reset()
        for modules in self._parts(PerTask):
            del modules[-1]
        self._set_learning(False)

    def end_task(self) -> None:
        """Finishes the current task: commits its masks and freezes its normalisations and head.

        Raises:
            RuntimeError: There is no current task.
        """
        self._check_learning()
        self.widths.append(self._widths())
        for mask in self._parts(Mask):
            mask.commit()
        for modules in self._parts(PerTask):
            modules.finish()
        self.n_tasks += 1
        self._set_learning(False)

    def _grow(self) -> None:
        """Grows until as much is free as initially (Sec. 4.2).

        With unit masks, each group grows by its number of reserved units. With weight masks, the
        output group of each layer, in order, grows until the layer has enough free weights.
        """
        added = dict.fromkeys(self.groups, 0)
        for group in self.groups.values():
            if group.mask is not None:
                added[group.name] = group.initial - group.mask.n_free
        for layer in self._parts(MaskedLayer):
            # Growth for a later layer only adds free weights.
            inputs = added[layer.source.name] if layer.source is not None else 0
            needed = layer.outputs_needed(inputs)
            added[layer.target.name] = max(added[layer.target.name], needed)
        for group in self.groups.values():
            group.width += added[group.name]
            if group.mask is not None:
                group.mask.grow((group.width,))
        for layer in self._parts(MaskedLayer):
            layer.grow()

    def sparsity(self, scale: float | Tensor) -> Tensor:
        """The fraction of free entries of all masks that the current task uses (Eq. 6).

        ``R = sum m (1 - reserved) / sum (1 - reserved)``.

        Args:
            scale: Steepness of the masks.

        Returns:
            Scalar in 0..1, differentiable; 0 if no entry is free.
        """
        masks = list(self._parts(Mask))
        used = [mask.soft(scale).masked_fill(mask.reserved, 0).sum() for mask in masks]
        free = [(~mask.reserved).sum() for mask in masks]
        return torch.stack(used).sum() / torch.stack(free).sum().clamp(min=1)

    @property
    def capacity_ratio(self) -> float:
        """Current over initial number of channels (alpha, Sec. 4.2); at least 1."""
        groups = self.groups.values()
        return sum(g.width for g in groups) / sum(g.initial for g in groups)

    def protect(
        self, *, scale: float | Tensor, smax: float, compensation: Compensation = "hat"
    ) -> None:
        """Adjusts the gradients; call it between ``backward`` and ``step``.

        Zeroes gradients of reserved weights (Eq. 4) and compensates those of the embeddings; with
        ``"hat"``, also clamps the embeddings to -6..6. The optimiser must be new in each task and
        have no weight decay, as momentum and decay change reserved weights without a gradient.

        Args:
            scale: Scale of the forward pass.
            smax: Its largest value.
            compensation: ``"hat"``, ``"authors"`` or ``"none"``; see `Mask.compensate`.

        Raises:
            ConfigError: The compensation is unknown.
        """
        for layer in self._parts(MaskedLayer):
            layer.protect()
        for mask in self._parts(Mask):
            mask.compensate(scale, smax, compensation)
            if compensation == "hat":
                mask.clamp()

    def named_masks(self) -> Iterator[tuple[str, Mask]]:
        """Yields each mask with the name of its group, or of its layer if weights are masked."""
        for name, module in self.named_modules():
            if isinstance(module, Mask):
                yield name.removeprefix("masks.").removesuffix(".mask"), module

    def usage(self) -> list[dict[str, Any]]:
        """Usage of each mask by each finished task; synchronises with the device.

        Returns:
            Dictionaries of ``name`` (a group, or a layer if weights are masked), ``task``, and
            the counts of `Mask.usage`: ``width``, ``reserved``, ``reused`` and ``free``.
        """
        named = list(self.named_masks())
        return [
            {"name": name, "task": task, **mask.usage(task)}
            for task in range(self.n_tasks)
            for name, mask in named
        ]

    def get_extra_state(self) -> dict[str, Any]:
        """Sizes from which the layers are rebuilt, for ``state_dict``."""
        return {
            "spec": self._description(),
            "n_tasks": self.n_tasks,
            "learning": self.learning,
            "present": self._widths(),
            "widths": [dict(widths) for widths in self.widths],
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Resizes the layers before their weights are loaded.

        Raises:
            CheckpointError: The state is of a generator with another specification.
        """
        own = self._description()
        # Text files have lists in place of tuples.
        other = {**own, **state["spec"], "shape": tuple(state["spec"]["shape"])}
        if other != own:
            theirs, ours = (
                ", ".join(f"{n}={d[n]!r}" for n in own if other[n] != own[n]) for d in (other, own)
            )
            raise CheckpointError(
                f"The state is of a generator with {theirs}, but this one has {ours}."
            )
        self.n_tasks = state["n_tasks"]
        self._set_learning(state["learning"])
        self.widths = [dict(widths) for widths in state["widths"]]
        for name, group in self.groups.items():
            group.width = state["present"][name]
        all_widths = [*self.widths, self._widths()] if self.learning else self.widths
        for norm in self._parts(NormReLU):
            norms = (nn.BatchNorm1d(widths[norm.group.name]) for widths in all_widths)
            norm.norms.restore(norms, learning=self.learning)
        with torch.random.fork_rng(devices=[]):  # Weights that are replaced at once.
            self.heads.restore(map(self.head, all_widths), learning=self.learning)
        self._match()

    def _description(self) -> dict[str, Any]:
        """The sizes and options on which the state depends."""
        names = ("width", "latent", "masking", "placement", "protection", "at_rest")
        return {
            "architecture": self.settings.architecture_for(self.scaler.shape),
            "shape": self.scaler.padded,
            "bounded": self.scaler.bounded,
            **{name: getattr(self.settings, name) for name in names},
        }

    @property
    def _kept_as(self) -> str:
        """The type of the weights: float32 during a task, else ``at_rest``."""
        return "float32" if self.learning else self.settings.at_rest

    def _set_learning(self, learning: bool) -> None:
        self.learning = learning
        if self.settings.at_rest != "float32":
            convert(self, getattr(torch, self._kept_as))

    def _check_learning(self) -> None:
        if not self.learning:
            raise RuntimeError("There is no current task; call begin_task() first.")

    def _widths(self) -> dict[str, int]:
        return {name: group.width for name, group in self.groups.items()}

    def _match(self) -> None:
        """Moves new modules to the device, type and mode of the others."""
        self.to(next(self._parts(MaskedLayer)).weight).train(self.training)

    def _parts(self, kind: type[Any]) -> Iterator[Any]:
        return (module for module in self.modules() if isinstance(module, kind))
