"""The LightningModules of the methods, created on first access."""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn

from avalanche_dgm.lightning.module import MethodModule
from avalanche_dgm.methods import Method, Naive
from avalanche_dgm.methods.adapters import by_name, make_adapter, once
from avalanche_dgm.settings import entries


@once
def module_of(kind: type[Method]) -> type[MethodModule]:
    """The LightningModule class of a method, with its hyper-parameters; see `MethodModule`."""

    def init(self: Any, model: nn.Module, **arguments: Any) -> None:
        MethodModule.__init__(self, model, **arguments)

    parameters = inspect.signature(MethodModule, eval_str=True).parameters
    own = [parameters[name] for name in ("model", "optimizer", "criterion")]
    return make_adapter(
        f"{kind.__name__}Module",
        MethodModule,
        kind,
        init=init,
        parameters=[*own, *kind.settings_type.parameters()],
        arguments=entries(inspect.getdoc(MethodModule), "Args"),
        maker=module_of,
        members={"kind": kind},
    )


__getattr__ = by_name(__name__, "Module", module_of, Naive)
