"""The reference: a page for each public name, with the type and default of what it takes.

The blocks ``{reference}`` of ``api.md`` list the names, one a line, each with the members that are
shown; ``+`` is for all that the class itself documents. In ``api.md`` a block becomes a table of
links. The pages are written to ``api/`` before Sphinx looks for pages, and are not committed.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from textwrap import indent
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import avalanche_dgm.methods
from avalanche_dgm.settings import Settings, describe_settings, entries

BLOCK = re.compile(r"^```\{reference\} (\S+)\n(.*?)^```\n", re.DOTALL | re.MULTILINE)

# Modules in which classes are defined, and those under which they are documented.
DOCUMENTED = {
    "torch.nn.modules.module": "torch.nn",
    "torch.optim.optimizer": "torch.optim",
    "torch.utils.data.dataset": "torch.utils.data",
    "torch.utils.data.dataloader": "torch.utils.data",
    "torchmetrics.metric": "torchmetrics",
    "pytorch_lightning.core.module": "lightning.pytorch.core",
    "pytorch_lightning.trainer.trainer": "lightning.pytorch.trainer.trainer",
    "pytorch_lightning.callbacks.callback": "lightning.pytorch.callbacks",
}


def names(text: str) -> list[tuple[str, str]]:
    """The public names that a text with blocks lists, each with the members that are shown."""
    return [line for module, lines in BLOCK.findall(text) for line in _lines(module, lines)]


def _lines(module: str, lines: str) -> Iterator[tuple[str, str]]:
    for line in lines.splitlines():
        name, _, members = line.partition(": ")
        yield f"{module}.{name}", members


def find(name: str) -> Any:
    """What a full name stands for; packages may load it when they are asked."""
    module, _, last = name.rpartition(".")
    return getattr(importlib.import_module(module), last)


def page(name: str, members: str) -> str:
    """The page of one name, in reStructuredText."""
    found, title = find(name), name.rpartition(".")[2]
    # Not in the tree of the sidebar, which would be most of every page.
    lines = [":orphan:", "", title, "=" * len(title), "", ":doc:`Reference </api>`", ""]
    if not inspect.isclass(found):
        if callable(found):
            return "\n".join([*lines, f".. autofunction:: {name}", ""])
        return "\n".join([*lines, f".. autodata:: {name}", "   :no-value:", ""])
    method = re.sub("(Plugin|Strategy|Module)$", "", title)
    if method != title and method in avalanche_dgm.methods.__all__:
        # Such a class is made when it is asked for: its source is the method's.
        lines += [f"Made from the method :py:class:`~avalanche_dgm.methods.{method}`.", ""]
    kind = "exception" if issubclass(found, BaseException) else "class"
    lines += [f".. auto{kind}:: {name}", "   :show-inheritance:"]
    if members == "+":
        lines += ["   :members:"]
    elif members:
        lines += [f"   :members: {members}"]
    return "\n".join([*lines, ""])


def write_pages(app: Any) -> None:
    """Writes the pages, and removes those of names that are gone."""
    folder = Path(app.srcdir, "api")
    folder.mkdir(exist_ok=True)
    listed = names(Path(app.srcdir, "api.md").read_text(encoding="utf-8"))
    for old in {*folder.glob("*.rst")} - {folder / f"{name}.rst" for name, _ in listed}:
        old.unlink()
    for name, members in listed:
        path, text = folder / f"{name}.rst", page(name, members)
        # A page that is as it was is not built again.
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
    app.reference = {}
    for name, _ in listed:
        app.reference.setdefault(name.rpartition(".")[2], []).append(name)


def show_tables(app: Any, docname: str, source: list[str]) -> None:
    """Puts tables of links in place of the blocks."""
    if docname == "api":
        source[0] = BLOCK.sub(lambda block: _table(*block.groups()), source[0])


def _table(module: str, lines: str) -> str:
    listed = [name for name, _ in _lines(module, lines)]
    rows = [f"| {{py:obj}}`~{name}` | {_summary(name)} |" for name in listed]
    return "\n".join(["| name | what it is |", "|---|---|", *rows, ""])


def _summary(name: str) -> str:
    """The first sentence about it, in Markdown."""
    found = find(name)
    documented = inspect.isclass(found) or inspect.isroutine(found)
    text = (inspect.getdoc(found) or "") if documented else ""
    first = " ".join(text.partition("\n\n")[0].split())
    return re.sub(r"`+([^`]+)`+", r"`\1`", first).replace("|", "\\|").replace("*", "\\*")


def list_arguments(
    app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    """Lists all arguments of a class: docstrings leave out those that base classes explain."""
    if not inspect.isclass(obj) or issubclass(obj, Exception):
        return
    text = "\n".join(lines)
    is_settings = issubclass(obj, Settings)
    own = {**entries(text, "Args"), **(entries(text, "Attributes") if is_settings else {})}
    said: dict[str, str] = {}
    for base in reversed(obj.__mro__):
        if base.__module__.startswith("avalanche_dgm") and "__doc__" in vars(base):
            said |= entries(inspect.getdoc(base), "Args")
    kind = obj if is_settings else getattr(obj, "settings_type", None)
    if kind is not None:
        said = {"settings": "All hyper-parameters.", **describe_settings(kind), **said}
    try:
        listed = [key for key in inspect.signature(obj).parameters if key in said]
    except ValueError:
        return
    if set(listed) <= set(own):
        return
    titles = "Args|Attributes" if is_settings else "Args"
    text = re.sub(rf"^(?:{titles}):\n(?:(?: +.*)?(?:\n|$))*", "", text, flags=re.M)
    more = [f"{key}: {indent(said[key], '    ').strip()}" for key in listed]
    lines[:] = [*text.splitlines(), "", "Args:", *indent("\n".join(more), "    ").splitlines(), ""]


def show_types(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Adds type and default to each argument and attribute that a docstring explains."""
    known = _parameters(obj)
    for i in reversed(range(len(lines))):
        if not (entry := re.match(r":(param|ivar) (\w+):", lines[i])):
            continue
        kind, argument = entry.groups()
        if text := known.get(argument):
            lines.insert(i, f":{'type' if kind == 'param' else 'vartype'} {argument}: {text}")


def _parameters(obj: Any) -> dict[str, str]:
    """Of each argument of a callable, and each field of a dataclass: its type and default."""
    empty = inspect.Parameter.empty
    found: dict[str, tuple[Any, Any]] = {}
    try:
        for p in inspect.signature(obj).parameters.values():
            found[p.name] = p.annotation, p.default
    except (TypeError, ValueError):
        pass  # A constant.
    for f in fields(obj) if is_dataclass(obj) else ():
        default = f.default if f.default_factory is MISSING else f.default_factory()
        found[f.name] = f.type, empty if default is MISSING else default
    try:
        hints = get_type_hints(obj if is_dataclass(obj) else getattr(obj, "__init__", obj))
    except (TypeError, NameError):
        hints = {}  # Some are imported for type checkers only.
    return {
        name: ", ".join(
            ([spelled(hints.get(name, kind))] if kind is not empty else [])
            + ([f"default ``{shown(default)}``"] if default is not empty else [])
        )
        for name, (kind, default) in found.items()
    }


def spelled(kind: Any) -> str:
    """A type in reStructuredText, with links."""
    origin, inner = get_origin(kind), get_args(kind)
    if kind is None or kind is NoneType:
        return "None"
    if kind is Ellipsis:
        return "..."
    if kind is Any:
        return "Any"
    if isinstance(kind, str):
        return f"``{kind}``"
    if origin is Literal:
        return " | ".join(f"``{value!r}``" for value in inner)
    if origin in (Union, UnionType):
        return " | ".join(spelled(one) for one in inner)
    if isinstance(kind, list):
        return f"[{', '.join(spelled(one) for one in kind)}]"
    if origin is not None:
        return f"{spelled(origin)}\\ [{', '.join(spelled(one) for one in inner)}]"
    module, name = getattr(kind, "__module__", ""), getattr(kind, "__qualname__", str(kind))
    full = name if module == "builtins" else f"{DOCUMENTED.get(module, module)}.{name}"
    return f":py:class:`~{full}`"


def shown(value: Any) -> str:
    """A default, as one would write it."""
    if is_dataclass(value) and not isinstance(value, type):
        given = [
            f"{f.name}={getattr(value, f.name)!r}"
            for f in fields(value)
            if f.default is MISSING or getattr(value, f.name) != f.default
            if f.default_factory is MISSING or getattr(value, f.name) != f.default_factory()
        ]
        return f"{type(value).__name__}({', '.join(given)})"
    if inspect.isroutine(value) or inspect.isclass(value):
        return str(value.__qualname__)
    text = repr(value)
    return type(value).__name__ if " at 0x" in text else text


def shorten_signature(
    app: Any, what: str, name: str, obj: Any, options: Any, signature: str | None, returned: Any
) -> tuple[str, Any] | None:
    """Leaves types to the list of arguments, and there also the hyper-parameters of a method."""
    if not signature or what not in ("class", "exception", "function", "method"):
        return None
    try:
        parameters = [*inspect.signature(obj).parameters.values()]
    except (TypeError, ValueError):
        return None
    if what == "method" and parameters and parameters[0].name in ("self", "cls"):
        del parameters[0]
    kept = parameters
    if what == "class":
        kept = [p for p in parameters if p.name not in _hyper(obj, [p.name for p in parameters])]
    texts, keyword = [], False
    for p in kept:
        if p.kind is p.KEYWORD_ONLY and not keyword:
            texts.append("*")
            keyword = True
        keyword = keyword or p.kind is p.VAR_POSITIONAL
        stars = {p.VAR_POSITIONAL: "*", p.VAR_KEYWORD: "**"}.get(p.kind, "")
        default = "" if p.default is p.empty else f"={shown(p.default)}"
        texts.append(f"{stars}{p.name}{default}")
    if len(kept) < len(parameters):
        texts.append("**hyper")
    return f"({', '.join(texts)})", returned


def _hyper(obj: Any, names: list[str]) -> set[str]:
    """Hyper-parameters among the arguments: all of settings, and what follows ``settings``."""
    if issubclass(obj, Settings):
        return set(names)
    after = names[names.index("settings") + 1 :] if "settings" in names else []
    return {*after} - {"oracle", "progress"}


def find_page(app: Any, env: Any, node: Any, contnode: Any) -> Any:
    """Resolves a name of ours that is written by its module, or alone, in a docstring."""
    if node.get("refdomain") != "py":
        return None
    target, _, _ = node["reftarget"].partition("(")
    pages = app.reference.get(target.rpartition(".")[2], [])
    if "." in target and not target.startswith("avalanche_dgm."):
        return None
    if len(pages) != 1:
        return None
    return env.domains["py"].resolve_xref(
        env, node["refdoc"], app.builder, "obj", pages[0], node, contnode
    )


def setup(app: Any) -> dict[str, Any]:
    """Called by Sphinx."""
    app.connect("builder-inited", write_pages)
    app.connect("source-read", show_tables)
    # Before and after napoleon, which reads the docstrings.
    app.connect("autodoc-process-docstring", list_arguments, priority=400)
    app.connect("autodoc-process-docstring", show_types, priority=600)
    app.connect("autodoc-process-signature", shorten_signature)
    app.connect("missing-reference", find_page)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
