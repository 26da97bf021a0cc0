"""Signatures that name what a ``**hyper`` argument takes.

Help texts and editors show them, and Avalanche's strategies check arguments against them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection
from dataclasses import MISSING, fields, is_dataclass
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from typing_extensions import Self

C = TypeVar("C", bound=type)


class _ClassSignature:
    """The signature of a class, not of its instances, nor of subclasses with another ``__init__``.

    Args:
        init: The ``__init__`` that the class inherits.
        signature: What calling the class takes.
    """

    def __init__(self, init: Callable[..., None], signature: inspect.Signature) -> None:
        self._init, self._signature = init, signature

    def __get__(self, instance: object, owner: Any) -> inspect.Signature:
        if instance is not None or owner.__init__ is not self._init:
            raise AttributeError("__signature__")
        return self._signature


class KeepsArguments:
    """Knows what each of its instances was made with."""

    _given: tuple[tuple[Any, ...], dict[str, Any]]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:  # noqa: D102
        made = super().__new__(cls)
        made._given = args, kwargs
        return made

    def arguments(self) -> dict[str, Any]:
        """The arguments of ``__init__``, defaults included."""
        bound = inspect.signature(type(self)).bind(*self._given[0], **self._given[1])
        bound.apply_defaults()
        return bound.arguments


def takes_arguments_of(
    source: Callable[..., Any], *, leave_out: Collection[str] = ()
) -> Callable[[C], C]:
    """Class decorator: the ``**hyper`` of ``__init__`` takes the keywords of another callable.

    A class with an ``__init__`` of its own says so there. For one that inherits it, which others
    inherit as well, only the class does.

    Args:
        source: A class or function; those of its arguments that the decorated class does not name
            itself are added, keyword-only.
        leave_out: Names of arguments that the class gives by itself.
    """

    def decorate(kind: C) -> C:
        it: Any = kind
        init = vars(kind).get("__init__")
        # Of the class, it is without self.
        named = inspect.signature(init if init is not None else it).parameters.values()
        own = [p for p in named if p.kind is not inspect.Parameter.VAR_KEYWORD]
        names = {p.name for p in own}
        made = {
            f.name: {"default": f.default_factory()}
            for f in (fields(source) if is_dataclass(source) else ())
            if f.default_factory is not MISSING
        }
        added = [
            p.replace(kind=inspect.Parameter.KEYWORD_ONLY, **made.get(p.name, {}))
            for p in inspect.signature(source).parameters.values()
            if p.name not in names and p.kind is not inspect.Parameter.VAR_KEYWORD
        ]
        added = [p for p in added if p.name not in leave_out]
        signature = inspect.Signature([*own, *added])
        if init is not None:
            init.__signature__ = signature
            inner = getattr(init, "__wrapped__", None)
            if inner is not None:
                # Avalanche wraps the ``__init__`` of strategies, and looks within it for the names
                # of arguments that are given by position; others it must not drop.
                rest = inspect.Parameter("arguments", inspect.Parameter.VAR_KEYWORD)
                inner.__signature__ = signature.replace(parameters=[*own, *added, rest])
        else:
            it.__signature__ = _ClassSignature(it.__init__, signature)
        return kind

    return decorate
