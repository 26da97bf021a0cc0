"""Signatures that name what a ``**hyper`` argument takes.

Help texts and editors show them, and Avalanche's strategies check arguments against them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

C = TypeVar("C", bound=type)


def takes_arguments_of(source: Callable[..., Any], *, on_init: bool = True) -> Callable[[C], C]:
    """Class decorator: the ``**hyper`` of ``__init__`` takes the keywords of another callable.

    Args:
        source: A class or function; those of its arguments that the decorated class does not name
            itself are added, keyword-only.
        on_init: Whether ``__init__`` says so itself; else only the class does, for those whose
            ``__init__`` is looked at by others, as Lightning does.
    """

    def decorate(kind: C) -> C:
        init = vars(kind)["__init__"]
        own = [
            p
            for p in inspect.signature(init).parameters.values()
            if p.kind is not inspect.Parameter.VAR_KEYWORD
        ]
        names = {p.name for p in own}
        added = [
            p.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for p in inspect.signature(source).parameters.values()
            if p.name not in names and p.kind is not inspect.Parameter.VAR_KEYWORD
        ]
        if on_init:
            init.__signature__ = inspect.Signature([*own, *added])
        else:
            vars_of_class: Any = kind
            vars_of_class.__signature__ = inspect.Signature([*own[1:], *added])
        return kind

    return decorate
