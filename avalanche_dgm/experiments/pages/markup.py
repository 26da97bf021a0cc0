"""HTML and SVG as strings; what is not known to be markup is escaped."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

# Elements without content: those of HTML have no end, those of SVG are closed at once.
_VOID = {"meta", "link", "img", "input", "br"}
_CLOSED = {"path", "rect", "line", "image"}


class Markup(str):
    """A string that is HTML already; any other one is text, and is escaped where it is shown."""

    __slots__ = ()


def tag(name: str, /, *children: object, **attributes: object) -> Markup:
    """Makes an element.

    Args:
        name: Such as "div" or "path".
        *children: Markup, text, numbers, iterables of these; ``None`` is left out.
        **attributes: Names without a trailing "_", and with "-" for "_" within; ``True`` gives an
            attribute without a value, ``None`` and ``False`` leave it out.
    """
    written = "".join(_attribute(key, value) for key, value in attributes.items())
    if name in _VOID:
        return Markup(f"<{name}{written}>")
    if name in _CLOSED and not children:
        return Markup(f"<{name}{written}/>")
    return Markup(f"<{name}{written}>{join(children)}</{name}>")


def join(children: Iterable[object], separator: str = "") -> Markup:
    """Puts markup and text one after the other.

    Args:
        children: As those of `tag`.
        separator: Text between them.
    """
    return Markup(escape(separator).join(_content(child) for child in children))


def _content(child: object) -> str:
    if child is None:
        return ""
    if isinstance(child, Markup):
        return child
    if isinstance(child, Iterable) and not isinstance(child, str):
        return join(child)
    return escape(str(child))


def _attribute(key: str, value: object) -> str:
    if value is None or value is False:
        return ""
    name = key.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{escape(str(value))}"'
