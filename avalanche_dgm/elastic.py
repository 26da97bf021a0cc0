"""Elastic weights: the diagonal of the Fisher information, and the penalty that it weighs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from avalanche_dgm.errors import ConfigError
from avalanche_dgm.modules import GrowingBuffers, at_least_single, evaluating

#: Numbers of the gradients that are held at once: those of a sample are as many as the weights.
_AT_ONCE = 2**23

#: From something that is called as the network is, and a sample, to a scalar.
SampleLoss = Callable[..., Tensor]


def squared_gradients(network: nn.Module, loss: SampleLoss, *samples: Tensor) -> dict[str, Tensor]:
    """Adds up the squared gradients of single samples, the network in evaluation mode.

    With the negative log-likelihood for the loss, their mean is the diagonal of the Fisher
    information. The square of a batch's mean gradient is another thing, and smaller.

    Args:
        network: What is differentiated, by its parameters that are trained.
        loss: Given a stand-in for the network and what ``samples`` has of one sample.
        *samples: Tensors (N, ...).

    Returns:
        Tensor of the parameter's shape for each, by its name.
    """
    trained = {n: p for n, p in network.named_parameters() if p.requires_grad}
    weights = {name: p.detach() for name, p in trained.items()}
    size = max(1, _AT_ONCE // max(1, sum(p.numel() for p in weights.values())))

    def of_weights(weights: dict[str, Tensor], *one: Tensor) -> Tensor:
        def stand_in(*args: Any, **kwargs: Any) -> Any:
            return functional_call(network, weights, args, kwargs)

        return loss(stand_in, *one)

    together = vmap(grad(of_weights), in_dims=(None, *(0 for _ in samples)))
    find: Callable[..., dict[str, Tensor]] = partial(together, weights)
    total = {name: torch.zeros_like(p) for name, p in weights.items()}
    with evaluating(network):
        for part in zip(*(tensor.split(size) for tensor in samples), strict=True):
            try:
                found = find(*part)
            except Exception:
                # A user's network may do what cannot be vectorised, such as look at its inputs.
                find = partial(_one_by_one, network, trained, loss)
                found = find(*part)
            for name, gradients in found.items():
                # The loss may be made by networks that have gradients of their own.
                total[name] += gradients.detach().square().sum(dim=0)
    return total


def _one_by_one(
    network: nn.Module, trained: dict[str, nn.Parameter], loss: SampleLoss, *samples: Tensor
) -> dict[str, Tensor]:
    rows: list[tuple[Tensor, ...]] = []
    with torch.enable_grad():
        for one in zip(*samples, strict=True):
            found = torch.autograd.grad(
                loss(network, *one), [*trained.values()], allow_unused=True, materialize_grads=True
            )
            rows.append(found)
    columns = [torch.stack(column) for column in zip(*rows, strict=True)]
    return dict(zip(trained, columns, strict=True))


class ElasticPenalty(GrowingBuffers):
    """Half of the sum over tasks of importance times squared distance, in the size of one task.

    A sum of quadratics is one: its importances are their sum, its anchor is the mean of theirs
    weighed by importance, beside a constant. So nothing grows with the number of tasks, and nothing
    is lost. Weights that were added since, such as outputs of new classes, are free.

    Attributes:
        importance: Float tensor (P,), of all weights that are held, one after the other.
        anchor: Float tensor (P,), where they are held.
        constant: Float scalar, what the tasks disagree by.
        shapes: The shape of each parameter that is held, by its name.
    """

    importance: Tensor
    anchor: Tensor
    constant: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("importance", torch.empty(0))
        self.register_buffer("anchor", torch.empty(0))
        self.register_buffer("constant", torch.tensor(0.0))
        self.shapes: dict[str, tuple[int, ...]] = {}

    def add(self, network: nn.Module, importance: dict[str, Tensor]) -> None:
        """Holds a network's weights where they are now, beside what is held already.

        Args:
            network: The network.
            importance: Tensor of the parameter's shape for each that shall be held, by its name.
        """
        now = {name: at_least_single(p.detach()) for name, p in network.named_parameters()}
        names = [name for name in now if name in importance or name in self.shapes]
        former, anchors = self._split(self.importance), self._split(self.anchor)
        parts: list[tuple[Tensor, Tensor, Tensor]] = []
        for name in names:
            weights = now[name]
            new = importance.get(name, torch.zeros_like(weights))
            held, anchor = torch.zeros_like(new), weights.clone()
            if name in former:
                corner = tuple(slice(n) for n in former[name].shape)
                held[corner], anchor[corner] = former[name], anchors[name]
            parts.append((new.flatten(), held.flatten(), (weights - anchor).flatten()))
        if not parts:
            return
        new, held, way = (torch.cat(columns) for columns in zip(*parts, strict=True))
        both = held + new
        # Where nothing is needed, the anchor is of no matter.
        share = torch.where(both > 0, new / both.clamp(min=torch.finfo(both.dtype).tiny), 1.0)
        self.constant = self.constant.to(way) + (held * share * way.square()).sum()
        self.anchor = torch.cat([now[name].flatten() for name in names]) - (1 - share) * way
        self.importance = both
        self.shapes = {name: tuple(now[name].shape) for name in names}

    def forward(self, network: nn.Module) -> Tensor:
        """The penalty of a network as it is now: a scalar."""
        if not self.shapes:
            return torch.zeros((), device=self.constant.device)
        weights = dict(network.named_parameters())
        now = [
            weights[name][tuple(slice(n) for n in shape)].flatten()
            for name, shape in self.shapes.items()
        ]
        way = torch.cat(now) - self.anchor
        return 0.5 * ((self.importance * way.square()).sum() + self.constant)

    def check(self, network: nn.Module) -> None:
        """Checks that a network still has all weights that are held.

        Raises:
            ConfigError: It has not.
        """
        weights = dict(network.named_parameters())
        for name, shape in self.shapes.items():
            now = tuple(weights[name].shape) if name in weights else ()
            if len(now) != len(shape) or any(a < b for a, b in zip(now, shape, strict=True)):
                raise ConfigError(
                    f"The weights {name} of shape {shape} are held, and the network has"
                    f" {now or 'none of that name'} now. Layers may be added or grow between"
                    " experiences; they may not shrink, go or be renamed."
                )

    def _split(self, values: Tensor) -> dict[str, Tensor]:
        sizes = [prod(shape) for shape in self.shapes.values()]
        parts = zip(self.shapes.items(), values.split(sizes), strict=True)
        return {name: part.view(shape) for (name, shape), part in parts}

    def get_extra_state(self) -> dict[str, Any]:
        """The names and shapes."""
        return {"shapes": self.shapes}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Takes over what `get_extra_state` returned."""
        self.shapes = {name: tuple(shape) for name, shape in state["shapes"].items()}
