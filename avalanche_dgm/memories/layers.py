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
    model: nn.Module, layer: str | int | None, classifier: str | None
) -> tuple[str, str | None]:
    """Names of the layer to cut behind, and of the part that answers latents if there is one.

    Args:
        model: The model.
        layer: The layer's name, the number of a child of a sequential model, or ``None`` to choose
            it.
        classifier: The part's name, or ``None`` to choose it if the layer is chosen, too.

    Raises:
        ConfigError: There is no such layer, or it cannot be chosen.
    """
    names = [name for name, _ in model.named_modules(remove_duplicate=False) if name]
    if isinstance(layer, int):
        layer = str(layer)
    for name in (layer, classifier):
        if name is not None and name not in names:
            raise ConfigError(_no_such_layer(model, name, names))
    if layer is not None:
        return layer, classifier
    for pair in _PAIRS:
        if set(pair) <= set(dict(model.named_children())):
            return pair
    if isinstance(model, nn.Sequential) and len(model) == 2:
        first, second = model._modules
        return first, second
    raise ConfigError(
        f"Behind which layer shall {type(model).__name__} be cut? It has no parts 'compressor' and"
        f" 'classifier', so pass layer=<name>. {_listed(names)}"
    )


def _no_such_layer(model: nn.Module, name: str, names: list[str]) -> str:
    close = difflib.get_close_matches(str(name), names, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"{type(model).__name__} has no layer {name!r}.{hint} {_listed(names)}"


def _listed(names: list[str]) -> str:
    if not names:
        return "It has no layers at all."
    return f"Its layers are: {', '.join(names)}."


def name_of(model: nn.Module, part: nn.Module, what: str) -> str:
    """The name that a model has for one of its parts.

    Args:
        model: The model.
        part: The very module.
        what: How messages call it.

    Raises:
        ConfigError: It is no part of the model.
    """
    for name, module in model.named_modules():
        if module is part and name:
            return name
    raise ConfigError(
        f"The {what} is no part of the model. Build the model of the very same objects, for"
        " example model=torch.nn.Sequential(compressor, classifier)."
    )


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


def sequential_path(model: nn.Module, layer: str) -> tuple[list[nn.Module], list[nn.Module]] | None:
    """The modules up to and including a layer, and those behind it, if they run in sequence."""
    front: list[nn.Module] = []
    rest: list[nn.Module] = []
    part = model
    for name in layer.split("."):
        if type(part).forward is not nn.Sequential.forward:
            return None
        children = list(part._modules)
        at = children.index(name)
        modules = [m for m in part._modules.values() if m is not None]
        front, rest, part = front + modules[:at], modules[at + 1 :] + rest, modules[at]
    return [*front, part], rest


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
