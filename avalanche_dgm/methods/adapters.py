"""Classes that are made of a method: its plugin, its ready strategy, its LightningModule."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from textwrap import indent
from typing import Any, TypeVar

from avalanche_dgm.methods.base import Method
from avalanche_dgm.settings import describe_settings, entries

T = TypeVar("T")

_SELF = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
_SETTINGS = "All hyper-parameters; those that are given by name replace theirs."


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
    """Makes a class around a method.

    Its signature names every argument, and its docstring explains them. Its instances are pickled
    by the method's class, which is imported when they are loaded.

    Args:
        name: Of the class.
        base: What it inherits from.
        kind: The method.
        init: Its ``__init__``, called with what the class is called with.
        parameters: What that takes.
        arguments: What the docstring says of those that are no hyper-parameters.
        maker: Returns the class made here, given the method again.
        members: Further members.
    """

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
        init(self, *args, **kwargs)

    def __reduce_ex__(self: Any, protocol: Any) -> Any:  # noqa: N807
        reduced = base.__reduce_ex__(self, protocol)
        return reduced if type(self) is not made else (_restored, (maker, kind), *reduced[2:])

    # A framework that looks for names in it must not drop those that it does not find.
    rest = inspect.Parameter("arguments", inspect.Parameter.VAR_KEYWORD)
    signature = inspect.Signature([_SELF, *parameters])
    __init__.__signature__ = inspect.Signature([_SELF, *parameters, rest])  # type: ignore[attr-defined]
    described = {**describe_settings(kind.settings_type), **entries(inspect.getdoc(kind), "Args")}
    described["settings"] = _SETTINGS
    doc = _docstring(kind, {**described, **arguments}, [p.name for p in parameters])
    # Without one of its own, help would show what the framework says of its base class.
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
    # The base may have put a function of its own around it.
    made.__init__.__signature__ = signature
    adapter: type[T] = made
    return adapter


def once(make: Callable[[type[Method]], type[T]]) -> Callable[[type[Method]], type[T]]:
    """Decorator of a function that makes a class: of each method it makes one.

    Args:
        make: The function.
    """
    made: dict[type[Method], type[T]] = {}

    @wraps(make)
    def made_once(kind: type[Method]) -> type[T]:
        if kind not in made:
            made[kind] = make(kind)
        return made[kind]

    return made_once


def _restored(maker: Callable[[type[Method]], type[T]], kind: type[Method]) -> T:
    made = maker(kind)
    return made.__new__(made)


def _docstring(kind: type[Method], said: Mapping[str, str], names: Sequence[str]) -> str:
    about = re.split(
        r"^(?:Args|Attributes|Raises):", inspect.getdoc(kind) or "", maxsplit=1, flags=re.M
    )
    listed = [f"{name}: {indent(said[name], '    ').strip()}" for name in names if name in said]
    text = f"{about[0].strip()}\n\nArgs:\n{indent(chr(10).join(listed), '    ')}"
    return f"{text}\n\nRaises:\n    ConfigError: A hyper-parameter is unknown or cannot work.\n"
