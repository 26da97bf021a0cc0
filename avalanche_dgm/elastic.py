"""Elastic weight consolidation: per-sample squared gradients and the quadratic penalty."""

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

#: Maximum number of values of the per-sample gradients of a batch.
_AT_ONCE = 2**23

#: Function from a callable in place of the network, and a sample, to a scalar.
SampleLoss = Callable[..., Tensor]


def squared_gradients(network: nn.Module, loss: SampleLoss, *samples: Tensor) -> dict[str, Tensor]:
    """Sums squared per-sample gradients, with the network in evaluation mode.

    If the loss is the negative log-likelihood, their mean is the diagonal of the Fisher
    information. The square of a batch's mean gradient would be smaller.

    Args:
        network: The network, differentiated with respect to its trainable parameters.
        loss: Loss of one sample, called with a callable in place of the network and the sample.
        *samples: Tensors (N, ...).

    Returns:
        Tensor of each parameter's shape, by the parameter's name.
    """
    trained = {n: p for n, p in network.named_parameters() if p.requires_grad}
    weights = {name: p.detach() for name, p in trained.items()}
    size = max(1, _AT_ONCE // max(1, sum(p.numel() for p in weights.values())))

    def loss_of(weights: dict[str, Tensor], *sample: Tensor) -> Tensor:
        def call(*args: Any, **kwargs: Any) -> Any:
            return functional_call(network, weights, args, kwargs)

        return loss(call, *sample)

    vectorised = vmap(grad(loss_of), in_dims=(None, *(0 for _ in samples)))
    per_sample: Callable[..., dict[str, Tensor]] = partial(vectorised, weights)
    total = {name: torch.zeros_like(p) for name, p in weights.items()}
    with evaluating(network):
        for part in zip(*(tensor.split(size) for tensor in samples), strict=True):
            try:
                gradients = per_sample(*part)
            except Exception:
                # A user's network may not be vectorisable, for example with a branch on its input.
                per_sample = partial(_one_by_one, network, trained, loss)
                gradients = per_sample(*part)
            for name, gradient in gradients.items():
                # Detached, as other networks in the loss may require gradients.
                total[name] += gradient.detach().square().sum(dim=0)
    return total


def _one_by_one(
    network: nn.Module, trained: dict[str, nn.Parameter], loss: SampleLoss, *samples: Tensor
) -> dict[str, Tensor]:
    rows: list[tuple[Tensor, ...]] = []
    with torch.enable_grad():
        for sample in zip(*samples, strict=True):
            value, weights = loss(network, *sample), [*trained.values()]
            rows.append(
                torch.autograd.grad(value, weights, allow_unused=True, materialize_grads=True)
            )
    columns = [torch.stack(column) for column in zip(*rows, strict=True)]
    return dict(zip(trained, columns, strict=True))


class ElasticPenalty(GrowingBuffers):
    """Half the sum over tasks of importance times squared change of weights.

    The sum of the tasks' quadratics is stored exactly as one quadratic, whose size does not grow
    with the number of tasks: the sum of importances, the anchors' mean weighted by importance, and
    a constant. Weights that are added later, such as outputs of new classes, have no penalty.

    Attributes:
        importance: Float tensor (P,), concatenated importances of all penalised weights.
        anchor: Float tensor (P,), the weights with no penalty.
        constant: Float scalar, the constant of the sum.
        shapes: The shape of each penalised parameter, by its name.
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
        """Adds a task's penalty, with the network's current weights as the anchor.

        Args:
            network: The network.
            importance: Tensor of each penalised parameter's shape, by the parameter's name.
        """
        now = {name: at_least_single(p.detach()) for name, p in network.named_parameters()}
        names = [name for name in now if name in importance or name in self.shapes]
        former, anchors = self._split(self.importance), self._split(self.anchor)
        parts: list[tuple[Tensor, Tensor, Tensor]] = []
        for name in names:
            weights = now[name]
            new = importance.get(name, torch.zeros_like(weights))
            old, anchor = torch.zeros_like(new), weights.clone()
            if name in former:
                corner = tuple(slice(n) for n in former[name].shape)
                old[corner], anchor[corner] = former[name], anchors[name]
            parts.append((new.flatten(), old.flatten(), (weights - anchor).flatten()))
        if not parts:
            return
        new, old, change = (torch.cat(columns) for columns in zip(*parts, strict=True))
        total = old + new
        # With no importance the anchor has no effect.
        share = torch.where(total > 0, new / total.clamp(min=torch.finfo(total.dtype).tiny), 1.0)
        self.constant = self.constant.to(change) + (old * share * change.square()).sum()
        self.anchor = torch.cat([now[name].flatten() for name in names]) - (1 - share) * change
        self.importance = total
        self.shapes = {name: tuple(now[name].shape) for name in names}

    def forward(self, network: nn.Module) -> Tensor:
        """The penalty of a network's current weights, a scalar."""
        if not self.shapes:
            return torch.zeros((), device=self.constant.device)
        weights = dict(network.named_parameters())
        now = [
            weights[name][tuple(slice(n) for n in shape)].flatten()
            for name, shape in self.shapes.items()
        ]
        change = torch.cat(now) - self.anchor
        return 0.5 * ((self.importance * change.square()).sum() + self.constant)

    def check(self, network: nn.Module) -> None:
        """Raises a `ConfigError` if a network no longer has all penalised weights."""
        weights = dict(network.named_parameters())
        for name, shape in self.shapes.items():
            now = tuple(weights[name].shape) if name in weights else ()
            if len(now) != len(shape) or any(a < b for a, b in zip(now, shape, strict=True)):
                raise ConfigError(
                    f"The weights {name} had shape {shape} in an earlier experience, but the"
                    f" network has {now or 'none of that name'} now. Layers may be added or grow"
                    " between experiences; they may not shrink, be removed or renamed."
                )

    def _split(self, values: Tensor) -> dict[str, Tensor]:
        sizes = [prod(shape) for shape in self.shapes.values()]
        parts = zip(self.shapes.items(), values.split(sizes), strict=True)
        return {name: part.view(shape) for (name, shape), part in parts}

    def get_extra_state(self) -> dict[str, Any]:
        """Names and shapes of the parameters, for ``state_dict``."""
        return {"shapes": self.shapes}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restores the state returned by `get_extra_state`."""
        self.shapes = {name: tuple(shape) for name, shape in state["shapes"].items()}
