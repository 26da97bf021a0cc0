"""Changes to the user's optimiser when networks grow or are replaced."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import nn

from avalanche_dgm.errors import ConfigError

#: Parameters by their names in a network.
Named = Mapping[str, nn.Parameter]


def replace_parameters(
    optimizer: Any,
    before: Named,
    now: Named,
    group_of: Callable[[nn.Parameter], int | None] = lambda parameter: 0,
) -> None:
    """Replaces the parameters of an optimiser by those that a network has now.

    A new parameter with a known name joins the group of the former one. Removed parameters lose
    their state. Parameters that the user left out, or that were never in ``before``, stay out.
    Groups keep their options; their parameters are in the order of ``now``.

    Args:
        optimizer: A ``torch.optim.Optimizer``, or one that wraps another as an attribute.
        before: The network's parameters at the last call.
        now: Its present parameters.
        group_of: The index of the group of a parameter with a new name, or ``None`` to leave it
            out.
    """
    groups = [list(group["params"]) for group in optimizer.param_groups]
    place = {id(p): i for i, group in enumerate(groups) for p in group}
    gone = {id(p) for p in before.values()} - {id(p) for p in now.values()}
    for name, parameter in now.items():
        if id(parameter) not in place:
            known = name in before
            index = place.get(id(before[name])) if known else group_of(parameter)
            if index is not None:
                groups[index].append(parameter)
    order = {id(p): i for i, p in enumerate(now.values())}
    for one in _with_inner(optimizer):
        for group, parameters in zip(one.param_groups, groups, strict=False):
            # In place, as wrappers share these lists with the optimiser that they wrap.
            kept = [p for p in parameters if id(p) not in gone]
            group["params"][:] = sorted(kept, key=lambda p: order.get(id(p), -1))
        for parameter in [p for p in one.state if id(p) in gone]:
            del one.state[parameter]


def _with_inner(optimizer: Any) -> Iterator[Any]:
    yield optimizer
    for value in vars(optimizer).values():
        if hasattr(value, "param_groups") and hasattr(value, "state"):
            yield from _with_inner(value)


def check_step(optimizer: Any) -> None:
    """Checks that an optimiser steps from gradients alone.

    Raises:
        ConfigError: It needs a closure that computes the loss again, as LBFGS does.
    """
    # The method of the class, as schedulers replace that of the instance.
    own = list(inspect.signature(type(optimizer).step).parameters.values())[1:]
    needed = [
        parameter.name
        for parameter in own
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    if needed:
        raise ConfigError(
            f"The optimizer {type(optimizer).__name__} needs {', '.join(needed)} for a step: it"
            " computes the loss several times, and replay would be another each time. Use an"
            " optimizer that steps from gradients alone, such as SGD or Adam."
        )
