"""The Avalanche plugins of the methods, created on first access."""

from __future__ import annotations

import inspect
from typing import Any

from avalanche_dgm.methods import Method
from avalanche_dgm.methods.abilities import LatentInputs, Routing
from avalanche_dgm.methods.adapters import by_name, make_adapter, once
from avalanche_dgm.plugins.base import MethodPlugin
from avalanche_dgm.plugins.wrapping import WrappingPlugin

#: Descriptions of the arguments of every plugin, for docstrings.
ARGUMENTS = {
    "oracle": "How tasks are identified; see `MethodPlugin`.",
    "progress": "Whether to show progress bars of the method's phases.",
}


@once
def plugin_of(kind: type[Method]) -> type[MethodPlugin]:
    """The Avalanche plugin class of a method.

    Returns:
        A class that takes the method's hyper-parameters, ``oracle`` and ``progress`` by name; see
        `MethodPlugin`.
    """
    base = WrappingPlugin if issubclass(kind, (Routing, LatentInputs)) else MethodPlugin

    def init(self: Any, *, oracle: Any = "auto", progress: bool = False, **hyper: Any) -> None:
        base.__init__(self, kind(**hyper), oracle=oracle, progress=progress)

    own = inspect.signature(base, eval_str=True).parameters
    parameters = [*kind.settings_type.parameters(), own["oracle"], own["progress"]]
    members: dict[str, Any] = {"kind": kind}
    if hasattr(kind, "paper"):
        members["paper"] = classmethod(_paper)
    return make_adapter(
        f"{kind.__name__}Plugin",
        base,
        kind,
        init=init,
        parameters=parameters,
        arguments=ARGUMENTS,
        maker=plugin_of,
        members=members,
    )


def _paper(cls: Any, *which: Any, **arguments: Any) -> MethodPlugin:
    """Creates the plugin with the settings of the method's paper.

    Takes the arguments of the method's ``paper``, and overrides of its settings by name.
    """
    parameters = inspect.signature(cls.kind.paper).parameters
    own = {name: arguments.pop(name) for name in [*arguments] if name in parameters}
    plugin: MethodPlugin = cls(**{**cls.kind.paper(*which, **own), **arguments})
    return plugin


__getattr__ = by_name(__name__, "Plugin", plugin_of)
