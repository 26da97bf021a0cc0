"""Registry of methods, by the names that the command line uses.

A method registers itself by a decorator::

    @register("class-means", "replays noise around the mean of each class")
    class ClassMeans(Method): ...

Installed packages register methods by the entry point group ``avalanche_dgm.methods``, whose
entries are modules; any other module registers its methods when it is imported.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import entry_points
from typing import Any, TypeVar

from avalanche_dgm.errors import ConfigError
from avalanche_dgm.methods.base import Method

K = TypeVar("K", bound=type[Method])

#: The entry point group of packages with methods.
GROUP = "avalanche_dgm.methods"

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class NamedMethod:
    """A registered method.

    Attributes:
        name: Its name on the command line.
        kind: The method's class.
        description: One line for lists.
        defaults: Settings that differ from the class's defaults.
        fixed: Settings that the user cannot change, as they define this variant.
        fast: Settings for smoke tests, or a function from the other settings to these.
        configurations: Named settings, such as the authors', or functions from the other settings
            to these. The option ``configuration`` chooses one; the first is the default.
        paper: A function from a data set of the DGDMN paper (Kamra et al. 2017), and the ``scale``
            of it that is used, to the paper's settings; or the registered name of the method that
            the paper calls by this name; ``None`` if the paper has no such method.
    """

    name: str
    kind: type[Method]
    description: str
    defaults: Settings = field(default_factory=dict)
    fixed: Settings = field(default_factory=dict)
    fast: Settings | Callable[[Settings], Settings] = field(default_factory=dict)
    configurations: Mapping[str, Settings | Callable[[Settings], Settings]] = field(
        default_factory=dict
    )
    paper: Callable[..., Settings] | str | None = None

    def fast_settings(self, given: Settings) -> Settings:
        """Settings for smoke tests; ``given`` are other ones that differ from the defaults."""
        fast = _made(self.fast, given)
        if given.get("generator", "vae") == "vae":
            return fast
        # generator_steps is a setting of the autoencoder.
        return {name: value for name, value in fast.items() if name != "generator_steps"}

    def with_configuration(self, name: str | None, given: Settings) -> Settings:
        """Settings of a configuration, by default of the first one, overridden by those given."""
        chosen = self.configurations[name or next(iter(self.configurations))]
        return {**_made(chosen, given), **given}


def _made(settings: Settings | Callable[[Settings], Settings], given: Settings) -> Settings:
    return settings(given) if callable(settings) else settings


#: Every registered method by its name.
METHODS: dict[str, NamedMethod] = {}


def register(name: str, description: str, **presets: Any) -> Callable[[K], K]:
    """Class decorator: registers a method under a name.

    A class may have several names with different settings.

    Args:
        name: Name on the command line, such as ``"latent-replay"``.
        description: One line for lists.
        **presets: Further fields of `NamedMethod`.

    Raises:
        ConfigError: Another method has the name.
    """

    def decorate(kind: K) -> K:
        known = METHODS.get(name)
        if known is not None and _place(known.kind) != _place(kind):
            raise ConfigError(
                f"The name {name!r} of {_place(kind)} belongs to {_place(known.kind)}. Register it"
                " under another name."
            )
        METHODS[name] = NamedMethod(name, kind, description, **presets)
        kind.__signature__ = _Signature()  # type: ignore[attr-defined]
        return kind

    return decorate


class _Signature:
    """The signature of a method's class, with every hyper-parameter; its instances have none."""

    def __get__(self, instance: Method | None, owner: type[Method]) -> inspect.Signature:
        if instance is not None or "settings" not in inspect.signature(owner.__init__).parameters:
            raise AttributeError("__signature__")
        settings, *others = owner.settings_type.parameters()
        first = settings.replace(kind=inspect.Parameter.POSITIONAL_OR_KEYWORD)
        return inspect.Signature([first, *others])


@cache
def load_methods() -> None:
    """Registers the methods of this package and those that entry points name.

    Raises:
        ConfigError: A package's entry point cannot be loaded.
    """
    package = importlib.import_module(__package__)
    for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        importlib.import_module(module.name)
    for point in entry_points(group=GROUP):
        try:
            point.load()
        except Exception as error:
            raise ConfigError(
                f"The methods of {point.value}, named by the entry point {point.name!r}, cannot be"
                f" loaded: {error}. Repair or uninstall that package."
            ) from error


def kinds() -> list[type[Method]]:
    """The classes of all registered methods, each once, in the order of their names."""
    load_methods()
    found = {named.kind for named in METHODS.values()}
    return sorted(found, key=lambda kind: (kind.__name__.lower(), kind.__module__))


def find_kind(name: str) -> type[Method] | None:
    """The registered method with a class name, such as ``"LatentReplay"``, if there is one."""
    return next((kind for kind in kinds() if kind.__name__ == name), None)


def _place(kind: type[Method]) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"
