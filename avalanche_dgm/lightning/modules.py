"""The LightningModule of each method, made when it is asked for."""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn

from avalanche_dgm.lightning.module import MethodModule
from avalanche_dgm.methods import Method, Naive
from avalanche_dgm.methods.adapters import make_adapter, once
from avalanche_dgm.methods.registry import find_kind
from avalanche_dgm.settings import entries


@once
def module_of(kind: type[Method]) -> type[MethodModule]:
    """The LightningModule of a method.

    Returns:
        A class that takes a classifier, the method's hyper-parameters by name, or all of them as
        ``settings``, and ``optimizer`` and ``criterion``; see `MethodModule`.
    """

    def init(self: Any, model: nn.Module, **arguments: Any) -> None:
        MethodModule.__init__(self, model, **arguments)

    named = inspect.signature(MethodModule, eval_str=True).parameters
    own = [named[name] for name in ("model", "optimizer", "criterion")]
    documented = inspect.getdoc(MethodModule)
    return make_adapter(
        f"{kind.__name__}Module",
        MethodModule,
        kind,
        init=init,
        parameters=[*own, *kind.settings_type.parameters()],
        arguments=entries(documented, "Args"),
        maker=module_of,
        members={"kind": kind},
    )


def __getattr__(name: str) -> Any:
    plain = name.removesuffix("Module")
    kind = Naive if plain == "Naive" else find_kind(plain)
    if kind is None or plain == name:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return module_of(kind)
