"""A classifier's layers: their names, their execution order, and freezing."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from avalanche_dgm.errors import ConfigError, UnsupportedModelError

#: Names of the parts between which a model is cut by default.
_PAIR = ("compressor", "classifier")


class _StayInEvaluation:
    """Replaces a frozen module's ``train``: the module itself stays in evaluation mode."""

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
) -> tuple[str | None, str | None]:
    """Names of the layer to cut after, and of the part that maps latents to logits.

    Args:
        model: The model.
        layer: The layer, its name, the index of a child of a sequential model, or ``None`` to cut
            before the classifier.
        classifier: The part, its name, or ``None`` to choose it if there is no layer either.

    Returns:
        A layer, and a classifier or ``None``, to cut after the layer; ``None`` and a classifier, to
        cut before it; or ``None`` twice, to cut before the last ``nn.Linear``, see `find_head`.

    Raises:
        ConfigError: There is no such layer, or no layer can be chosen by default.
    """
    part = None if classifier is None else _name_of(model, classifier, "classifier")
    if layer is not None:
        return _name_of(model, layer, "layer or compressor"), part
    if set(_PAIR) <= set(dict(model.named_children())) and part in (None, _PAIR[1]):
        return _PAIR
    if part is not None:
        return None, part
    if isinstance(model, nn.Sequential) and len(model) == 2:
        first, second = model._modules
        # A part without parameters, such as a normalisation of images, is no compressor.
        if any(True for _ in model[0].parameters()):
            return first, second
    if any(isinstance(module, nn.Linear) for name, module in model.named_modules() if name):
        return None, None
    raise ConfigError(
        f"There is no default layer to cut {type(model).__name__} at: it has neither parts"
        " 'compressor' and 'classifier' nor an nn.Linear. Pass layer=<name>."
        f" {_listed(model)}"
    )


def find_head(model: nn.Module, run: Callable[[], Any]) -> str:
    """Name of the part that maps a model's last features to logits.

    It is the outermost module with the same input as the last ``nn.Linear``: that layer itself, or
    its container, such as a sequence of dropout and the layer, or a multi-head classifier. ``run``
    runs the forward pass of the model, in evaluation mode, for one task.

    Raises:
        UnsupportedModelError: No ``nn.Linear`` runs.
    """
    inputs_of: dict[str, Any] = {}

    def add_hook(name: str, module: nn.Module) -> Any:
        def record(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            inputs_of.pop(name, None)
            inputs_of[name] = inputs[0] if inputs else None

        return module.register_forward_pre_hook(record)

    def record_inputs(names: list[str]) -> None:
        inputs_of.clear()
        with ExitStack() as hooks:
            for name in names:
                hooks.enter_context(add_hook(name, model.get_submodule(name)))
            run()

    linear = [n for n, module in model.named_modules() if n and isinstance(module, nn.Linear)]
    record_inputs(linear)
    if not inputs_of:
        raise UnsupportedModelError(
            f"No nn.Linear runs in the forward pass of {type(model).__name__}, so there is no"
            f" default layer to cut it at. Pass layer=<name>. {_listed(model)}"
        )
    path = next(reversed(inputs_of)).split(".")
    around = [".".join(path[:n]) for n in range(1, len(path) + 1)]
    record_inputs(around)
    features = inputs_of[around[-1]]
    return next((n for n in around if _same(inputs_of.get(n), features)), around[-1])


def _same(one: Any, two: Any) -> bool:
    return isinstance(one, Tensor) and torch.equal(one, two)


def _name_of(model: nn.Module, part: str | int | nn.Module, argument: str) -> str:
    """The name of one of a model's modules."""
    modules = dict(model.named_modules(remove_duplicate=False))
    if isinstance(part, nn.Module):
        names = [name for name, module in modules.items() if module is part and name]
        if not names:
            raise ConfigError(
                f"The {argument} is not a module of the model. Build the model from the same"
                " objects, for example model=torch.nn.Sequential(compressor, classifier)."
            )
        return names[0]
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
    """The part of a model before a cut, as names in the model.

    Attributes:
        modules: Modules that run only before the cut.
        parameters: Parameters that the latents depend on.
    """

    modules: tuple[str, ...]
    parameters: tuple[str, ...]

    def freeze(self, model: nn.Module) -> None:
        """Freezes this part of a model permanently.

        Its parameters need no gradients, and ``train()`` leaves its modules in evaluation mode, so
        that BatchNorm statistics do not change.
        """
        modules, parameters = dict(model.named_modules()), dict(model.named_parameters())
        for name in modules.keys() & set(self.modules):
            modules[name].training = False
            modules[name].__dict__["train"] = _StayInEvaluation(modules[name])
        for name in parameters.keys() & set(self.parameters):
            parameters[name].requires_grad_(False)
            parameters[name].grad = None


def layers_behind(model: nn.Module, layer: str) -> list[nn.Module] | None:
    """The layers after a layer; ``None`` if it is not nested in ``nn.Sequential`` modules only."""
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
    model: nn.Module, part: str, run: Callable[[], Any], *, before: bool = False
) -> tuple[dict[str, nn.Module], dict[str, nn.Module]]:
    """The modules, by name, that end before a cut in the forward pass, and those that end after it.

    Args:
        model: The model.
        part: Name of the module after which it is cut.
        run: Runs the model's forward pass.
        before: Whether the cut is before that module instead.

    Raises:
        UnsupportedModelError: The module does not run exactly once.
    """
    ended: list[str | None] = []

    def add_hook(name: str, module: nn.Module) -> Any:
        return module.register_forward_hook(lambda *_: ended.append(name))

    modules = {name: module for name, module in model.named_modules() if name}
    at = model.get_submodule(part)
    register: Any = at.register_forward_pre_hook if before else at.register_forward_hook
    with ExitStack() as hooks:
        for name, module in modules.items():
            hooks.enter_context(add_hook(name, module))
        hooks.enter_context(register(lambda *_: ended.append(None)))
        run()
    if (times := ended.count(None)) != 1:
        raise UnsupportedModelError(
            f"The layer {part!r} runs {times} times in a forward pass, and must run once. Name"
            " another layer."
        )
    here = ended.index(None)
    first, then = ([n for n in names if n] for names in (ended[:here], ended[here + 1 :]))
    return {n: modules[n] for n in first}, {n: modules[n] for n in then}
