"""A classifier's layers: their names, their order, what they hold, and how they are frozen."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from avalanche_dgm.errors import ConfigError, UnsupportedModelError

#: Names of parts that are cut between unless a layer is named.
_PAIR = ("compressor", "classifier")


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
) -> tuple[str | None, str | None]:
    """Names of the layer to cut behind, and of the part that answers latents.

    Args:
        model: The model.
        layer: The layer, its name, the number of a child of a sequential model, or ``None`` to
            cut before the classifier.
        classifier: The part, its name, or ``None`` to choose it if there is no layer either.

    Returns:
        A layer and maybe a classifier, to cut behind the layer; a classifier alone, to cut before
        it; or neither, to cut before the last ``nn.Linear`` that runs, see `find_head`.

    Raises:
        ConfigError: There is no such layer, or it cannot be chosen.
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
        # What has nothing to learn, such as a normalisation of images, is no compressor.
        if any(True for _ in model[0].parameters()):
            return first, second
    if any(isinstance(module, nn.Linear) for name, module in model.named_modules() if name):
        return None, None
    raise ConfigError(
        f"Where shall {type(model).__name__} be cut? It has neither parts 'compressor' and"
        f" 'classifier' nor an nn.Linear, so pass layer=<name>. {_listed(model)}"
    )


def find_head(model: nn.Module, run: Callable[[], Any]) -> str:
    """Name of the part that makes logits of a model's last features.

    It is the outermost module that is given the very values that the last ``nn.Linear`` is: that
    layer itself, or what holds it, such as a dropout and the layer in sequence, or one head a task.

    Args:
        model: The model, in evaluation mode.
        run: Lets the model answer, for one task.

    Raises:
        UnsupportedModelError: No ``nn.Linear`` runs.
    """
    given: dict[str, Any] = {}

    def watch(name: str, module: nn.Module) -> Any:
        def note(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            given.pop(name, None)
            given[name] = inputs[0] if inputs else None

        return module.register_forward_pre_hook(note)

    def note_inputs(names: list[str]) -> None:
        given.clear()
        handles = [watch(name, model.get_submodule(name)) for name in names]
        try:
            run()
        finally:
            for handle in handles:
                handle.remove()

    note_inputs([n for n, module in model.named_modules() if n and isinstance(module, nn.Linear)])
    if not given:
        raise UnsupportedModelError(
            f"No nn.Linear runs when the {type(model).__name__} answers, so where it is to be cut"
            f" must be said: pass layer=<name>. {_listed(model)}"
        )
    path = next(reversed(given)).split(".")
    around = [".".join(path[:n]) for n in range(1, len(path) + 1)]
    note_inputs(around)
    features = given[around[-1]]
    return next((n for n in around if _same(given.get(n), features)), around[-1])


def _same(one: Any, two: Any) -> bool:
    return isinstance(one, Tensor) and torch.equal(one, two)


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
    """What runs before a cut, by the names that the model has for it.

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
    model: nn.Module, part: str, run: Callable[[], Any], *, before: bool = False
) -> tuple[dict[str, nn.Module], dict[str, nn.Module]]:
    """Finds out which modules run before and which behind a cut.

    Args:
        model: The model.
        part: Name of the module at which it is cut.
        run: Lets the model answer.
        before: Whether the cut is before the module; else behind it.

    Returns:
        The modules, by name, that end before the cut, and those that end after it.

    Raises:
        UnsupportedModelError: The module does not run exactly once.
    """
    ended: list[str | None] = []

    def watch(name: str, module: nn.Module) -> Any:
        return module.register_forward_hook(lambda *_: ended.append(name))

    modules = {name: module for name, module in model.named_modules() if name}
    handles = [watch(name, module) for name, module in modules.items()]
    at = model.get_submodule(part)
    if before:
        handles.append(at.register_forward_pre_hook(lambda *_: ended.append(None)))
    else:
        handles.append(at.register_forward_hook(lambda *_: ended.append(None)))
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    if (times := ended.count(None)) != 1:
        raise UnsupportedModelError(
            f"The layer {part!r} runs {times} times when the model answers, and must run once."
            " Name another layer."
        )
    here = ended.index(None)
    first, then = ([n for n in names if n] for names in (ended[:here], ended[here + 1 :]))
    return {n: modules[n] for n in first}, {n: modules[n] for n in then}
