"""Generates a method's adapter classes: its plugin, its strategy, its LightningModule."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from textwrap import indent
from typing import Any, TypeVar

from avalanche_dgm.methods.base import Method
from avalanche_dgm.methods.registry import find_kind
from avalanche_dgm.settings import describe_settings, entries

T = TypeVar("T")

_SELF = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
_SETTINGS = "All hyper-parameters; hyper-parameters given by name replace its values."


def make_adapter(
    name: str,
    base: type[T],
    kind: type[Method],
    *,
    init: Callable[..., None],
    parameters: Sequence[inspect.Parameter],
    arguments: Mapping[str, str],
    maker: Callable[[type[Method]], type[T]],
    members: Mapping[str, Any] | None = None,
) -> type[T]:
    """Makes an adapter class of a method.

    Its signature and docstring list every argument. Its instances are pickled by a reference to the
    method's class, which is imported when they are loaded.

    Args:
        name: Name of the class.
        base: Base class.
        kind: The method's class.
        init: ``__init__`` of the class.
        parameters: Parameters of ``__init__``.
        arguments: Descriptions of the parameters that are not hyper-parameters, by name.
        maker: Function from a method's class to this adapter class, for unpickling.
        members: Further members of the class.
    """

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
        init(self, *args, **kwargs)

    def __reduce_ex__(self: Any, protocol: Any) -> Any:  # noqa: N807
        reduced = base.__reduce_ex__(self, protocol)
        return reduced if type(self) is not made else (_restored, (maker, kind), *reduced[2:])

    # Variable arguments, so that frameworks that filter by the signature drop nothing.
    rest = inspect.Parameter("arguments", inspect.Parameter.VAR_KEYWORD)
    signature = inspect.Signature([_SELF, *parameters])
    __init__.__signature__ = inspect.Signature([_SELF, *parameters, rest])  # type: ignore[attr-defined]
    described = {**describe_settings(kind.settings_type), **entries(inspect.getdoc(kind), "Args")}
    described["settings"] = _SETTINGS
    doc = _docstring(kind, {**described, **arguments}, [p.name for p in parameters])
    # Otherwise help() would show the docstring of the framework's base class.
    __init__.__doc__ = doc[doc.index("Args:") :]
    __init__.__module__, __init__.__qualname__ = maker.__module__, f"{name}.__init__"
    namespace = {
        "__init__": __init__,
        "__reduce_ex__": __reduce_ex__,
        "__module__": maker.__module__,
        "__doc__": doc,
        **(members or {}),
    }
    made: Any = type(base)(name, (base,), namespace)  # type: ignore[misc]
    # The base class may have wrapped __init__.
    made.__init__.__signature__ = signature
    adapter: type[T] = made
    return adapter


def once(make: Callable[[type[Method]], type[T]]) -> Callable[[type[Method]], type[T]]:
    """Decorator that caches the class that a function makes of a method."""
    # Not functools.cache: dill copies its cache, and a copy would make other classes.
    made: dict[type[Method], type[T]] = {}

    @wraps(make)
    def made_once(kind: type[Method]) -> type[T]:
        if kind not in made:
            made[kind] = make(kind)
        return made[kind]

    return made_once


def by_name(
    module: str, ending: str, maker: Callable[[type[Method]], type[T]], *others: type[Method]
) -> Callable[[str], type[T]]:
    """The ``__getattr__`` of a module with the adapter class of each method.

    Args:
        module: The module's ``__name__``.
        ending: How the names of the classes end, after the name of the method's class.
        maker: Function from a method's class to its adapter class.
        *others: Further methods, which are not registered.
    """

    def get(name: str) -> type[T]:
        method, kinds = name.removesuffix(ending), {kind.__name__: kind for kind in others}
        kind = None if method == name else kinds.get(method) or find_kind(method)
        if kind is None:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        return maker(kind)

    return get


def _restored(maker: Callable[[type[Method]], type[T]], kind: type[Method]) -> T:
    adapter = maker(kind)
    return adapter.__new__(adapter)


def _docstring(kind: type[Method], texts: Mapping[str, str], names: Sequence[str]) -> str:
    about = re.split(
        r"^(?:Args|Attributes|Raises):", inspect.getdoc(kind) or "", maxsplit=1, flags=re.M
    )
    listed = [f"{name}: {indent(texts[name], '    ').strip()}" for name in names if name in texts]
    text = f"{about[0].strip()}\n\nArgs:\n{indent(chr(10).join(listed), '    ')}"
    return f"{text}\n\nRaises:\n    ConfigError: A hyper-parameter is unknown or cannot work.\n"
