"""Changes to the user's optimiser when networks grow or are replaced."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import nn

from avalanche_dgm.errors import ConfigError

#: Parameters by name.
Named = Mapping[str, nn.Parameter]


def replace_parameters(
    optimizer: Any,
    before: Named,
    now: Named,
    group_of: Callable[[nn.Parameter], int | None] = lambda parameter: 0,
) -> None:
    """Replaces the parameters of an optimiser by a network's current parameters.

    A parameter that replaces one of the same name joins its group. Removed parameters lose their
    state. Parameters that the user left out of the optimiser stay out. Groups keep their options;
    their parameters are in the order of ``now``.

    Args:
        optimizer: A ``torch.optim.Optimizer``, or one that wraps another as an attribute.
        before: The network's parameters at the last call.
        now: The network's current parameters.
        group_of: The index of the group of a parameter with a new name, or ``None`` to leave it
            out.
    """
    groups = [list(group["params"]) for group in optimizer.param_groups]
    index_of = {id(p): i for i, group in enumerate(groups) for p in group}
    removed = {id(p) for p in before.values()} - {id(p) for p in now.values()}
    for name, parameter in now.items():
        if id(parameter) not in index_of:
            known = name in before
            index = index_of.get(id(before[name])) if known else group_of(parameter)
            if index is not None:
                groups[index].append(parameter)
    order = {id(p): i for i, p in enumerate(now.values())}
    for nested in _with_inner(optimizer):
        for group, parameters in zip(nested.param_groups, groups, strict=False):
            # In place, as wrappers share these lists with the wrapped optimiser.
            kept = [p for p in parameters if id(p) not in removed]
            group["params"][:] = sorted(kept, key=lambda p: order.get(id(p), -1))
        for parameter in [p for p in nested.state if id(p) in removed]:
            del nested.state[parameter]


def _with_inner(optimizer: Any) -> Iterator[Any]:
    yield optimizer
    for value in vars(optimizer).values():
        if hasattr(value, "param_groups") and hasattr(value, "state"):
            yield from _with_inner(value)


def check_step(optimizer: Any) -> None:
    """Checks that an optimiser's ``step`` needs no closure.

    Raises:
        ConfigError: It needs a closure that computes the loss, as LBFGS does.
    """
    # The method of the class, as schedulers replace that of the instance.
    parameters = list(inspect.signature(type(optimizer).step).parameters.values())[1:]
    required = [
        parameter.name
        for parameter in parameters
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    if required:
        raise ConfigError(
            f"The optimizer {type(optimizer).__name__} needs {', '.join(required)} for a step: it"
            " computes the loss several times, each time with different replay. Use an optimizer"
            " that needs only gradients, such as SGD or Adam."
        )
