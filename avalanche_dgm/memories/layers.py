"""A classifier's layers: their names, their order, what they hold, and how they are frozen."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from avalanche_dgm.errors import ConfigError, UnsupportedModelError

#: Names of parts that are cut between unless a layer is named.
_PAIRS = (("compressor", "classifier"), ("features", "classifier"))


class _StayInEvaluation:
    """Takes the place of a module's ``train``: only parts that others use, too, change."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __call__(self, mode: bool = True) -> nn.Module:
        self.module.training = False
        for child in self.module.children():
            child.train(mode)
        return self.module


def find_parts(
    model: nn.Module,
    layer: str | int | nn.Module | None,
    classifier: str | nn.Module | None,
) -> tuple[str, str | None]:
    """Names of the layer to cut behind, and of the part that answers latents if there is one.

    Args:
        model: The model.
        layer: The layer, its name, the number of a child of a sequential model, or ``None`` to
            choose it.
        classifier: The part, its name, or ``None`` to choose it if the layer is chosen, too.

    Raises:
        ConfigError: There is no such layer, or it cannot be chosen.
    """
    part = None if classifier is None else _name_of(model, classifier, "classifier")
    if layer is not None:
        return _name_of(model, layer, "layer or compressor"), part
    for pair in _PAIRS:
        if set(pair) <= set(dict(model.named_children())):
            return pair
    if isinstance(model, nn.Sequential) and len(model) == 2:
        first, second = model._modules
        return first, second
    raise ConfigError(
        f"Behind which layer shall {type(model).__name__} be cut? It has no parts 'compressor' and"
        f" 'classifier', so pass layer=<name>. {_listed(model)}"
    )


def _name_of(model: nn.Module, part: str | int | nn.Module, what: str) -> str:
    """The name that a model has for one of its parts."""
    modules = dict(model.named_modules(remove_duplicate=False))
    if isinstance(part, nn.Module):
        found = next((name for name, module in modules.items() if module is part and name), None)
        if found is None:
            raise ConfigError(
                f"The {what} is no part of the model. Build the model of the very same objects, for"
                " example model=torch.nn.Sequential(compressor, classifier)."
            )
        return found
    name = str(part)
    if name not in modules or not name:
        close = difflib.get_close_matches(name, modules, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ConfigError(f"{type(model).__name__} has no layer {name!r}.{hint} {_listed(model)}")
    return name


def _listed(model: nn.Module) -> str:
    names = [name for name, _ in model.named_modules(remove_duplicate=False) if name]
    return f"Its layers are: {', '.join(names)}." if names else "It has no layers at all."


@dataclass(frozen=True)
class FrozenPrefix:
    """What runs up to and including a layer, by the names that the model has for it.

    Attributes:
        modules: Modules that run before the cut only.
        parameters: Parameters that the latents depend on.
    """

    modules: tuple[str, ...]
    parameters: tuple[str, ...]

    def freeze(self, model: nn.Module) -> None:
        """Freezes it in a model for good.

        Its parameters need no gradients, and ``train()`` leaves its modules in evaluation mode, so
        that BatchNorm statistics stay as they are.
        """
        modules, parameters = dict(model.named_modules()), dict(model.named_parameters())
        for name in modules.keys() & set(self.modules):
            modules[name].training = False
            modules[name].__dict__["train"] = _StayInEvaluation(modules[name])
        for name in parameters.keys() & set(self.parameters):
            parameters[name].requires_grad_(False)
            parameters[name].grad = None


def layers_behind(model: nn.Module, layer: str) -> list[nn.Module] | None:
    """The layers behind a layer, if they and all before it run in sequence."""
    behind: list[nn.Module] = []
    part = model
    for name in layer.split("."):
        if type(part).forward is not nn.Sequential.forward:
            return None
        at = list(part._modules).index(name)
        modules = [m for m in part._modules.values() if m is not None]
        behind, part = modules[at + 1 :] + behind, modules[at]
    return behind


def run_order(
    model: nn.Module, layer: str, run: Callable[[], Any]
) -> tuple[dict[str, nn.Module], dict[str, nn.Module]]:
    """Finds out which modules run before and which behind a layer.

    Args:
        model: The model.
        layer: Name of the layer.
        run: Lets the model answer.

    Returns:
        The modules, by name, that end before or with the layer, and those that end after it.

    Raises:
        UnsupportedModelError: The layer does not run exactly once.
    """
    ended: list[str] = []

    def watch(name: str, module: nn.Module) -> Any:
        return module.register_forward_hook(lambda *_: ended.append(name))

    modules = {name: module for name, module in model.named_modules() if name}
    handles = [watch(name, module) for name, module in modules.items()]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    # A module that has several names is found under its first.
    wanted = next(n for n, m in modules.items() if m is model.get_submodule(layer))
    at = [i for i, name in enumerate(ended) if name == wanted]
    if len(at) != 1:
        raise UnsupportedModelError(
            f"The layer {layer!r} runs {len(at)} times when the model answers, and must run once."
            " Name another layer."
        )
    before, after = ended[: at[0] + 1], ended[at[0] + 1 :]
    return {n: modules[n] for n in before}, {n: modules[n] for n in after}
